"""Every use of a torch internal: what it is for, with which versions it was tried, what happens without it.

    addresses_hold      compares the addresses of many tensors in one call           2.6, 2.14   without: in Python, 50 ns a tensor
    any_autocast        a step that is not under autocast asks no device for it           2.14   without: each kind of device is asked
    gradient_functions  C looks up and compares gradients, 10 ns a parameter  2.11, 2.13, 2.14   without: in Python, 0.1 us
    handles             the same through libtorch's C interface, 4 ns a tensor            2.14   without: `addresses_hold`
    foreach_add_number  a number on a device is added to a list in one launch    2.6, 2.14   without: genopt cannot run
    foreach_operation   an operation on lists of tensors                         2.6, 2.14   without: genopt cannot run
    hooked              a step without hooks pays nothing for them                   2.6, 2.14   without: torch wraps the step itself
    no_autocast         turns autocast off for all kinds of devices at once               2.14   without: one by one
    outside_of_modes    leaves the modes that record operations                  2.6, 2.14   without: genopt cannot run
    sparse_values       the values of a sparse gradient that is not coalesced    2.6, 2.14   without: genopt cannot take one
    strong_wolfe        L-BFGS searches along a line as torch.optim does             2.6, 2.14   without: lbfgs_step with a line search raises
    times_written       how often a tensor has been written, as autograd counts  2.6, 2.14   without: a write in place is not noticed
    TorchDispatchMode   sees every operation                                     2.6, 2.14   without: genopt cannot run
    without_dynamo      torch.compile of a train step goes around a method           2.6, 2.14   without: it is traced, slowly, and right
    without_overrides   asks a tensor without asking the modes                   2.6, 2.14   without: genopt cannot run"""

import ctypes
import functools
import os
import re
import sys
import weakref
from contextlib import ExitStack,contextmanager
import torch
from torch.optim import optimizer as torch_optimizer
from torch.utils._python_dispatch import TorchDispatchMode,_disable_current_modes as outside_of_modes

__all__ = ['TorchDispatchMode', 'add_param_group', 'addresses_hold', 'foreach_add_number', 'foreach_copy', 'foreach_norm',
           'foreach_operation', 'gradient_functions', 'handles', 'hooked', 'increment_versions', 'outside_of_modes', 'quiet', 'quietly',
           'sparse_values', 'strong_wolfe', 'times_written', 'watched_from_outside', 'without_dynamo', 'without_overrides']


try: from torch._C import _tensors_data_ptrs_at_indices_equal as addresses_hold
except ImportError:
    def addresses_hold(xs, addresses, indices): return all(xs[i].data_ptr()==addresses[i] for i in indices)

increment_versions = torch.autograd.graph.increment_version                # public since 2.1
without_overrides  = torch._C.DisableTorchFunction

def foreach_operation(name):
    "`torch._foreach_add` for 'add', `torch._foreach_add_` for 'add_'"
    return getattr(torch, f'_foreach_{name}')

def foreach_add_number(in_place):
    "Add a 0-dim tensor to each tensor of a list. `torch._foreach_add` would look into it"
    return torch.ops.aten._foreach_add_.Tensor if in_place else torch.ops.aten._foreach_add.Tensor

foreach_copy,foreach_norm = map(foreach_operation, ('copy_', 'norm'))

def times_written(x):
    "How often `x` has been written. None for an inference tensor, of which autograd keeps no account"
    return None if x.is_inference() else x._version

def sparse_values(grad):
    "The values of a sparse gradient, which may have several for one row"
    return grad._values()


try: from torch.optim.lbfgs import _strong_wolfe as strong_wolfe
except ImportError:
    def strong_wolfe(*args, **kw): raise NotImplementedError("this torch has no strong Wolfe search; leave line_search_fn out")


# -- Tensors through libtorch's C interface --

class Handles:
    """Pointers by which C can ask tensors for their memory, for as long as this lives: `pointers`, and `functions`, the addresses of
    `aoti_torch_get_data_ptr`, `get_dim`, `get_sizes` and `get_strides`. `borrowed`: the tensors are not kept alive; whoever asks makes sure that they
    are"""
    names = 'data_ptr', 'dim', 'sizes', 'strides'
    def __init__(self, tensors, borrowed):
        library = libtorch()
        self.functions = [address(library, f'aoti_torch_get_{n}') for n in self.names]
        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype,pointer.argtypes = ctypes.c_void_p,[ctypes.py_object, ctypes.c_char_p]
        self.pointers = [pointer(c, None) for c in torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(tensors)]
        if borrowed:                                                        # a handle points to a tensor, which is a pointer to what it stands for
            self.cells = (ctypes.c_void_p*len(tensors))(*(ctypes.c_void_p.from_address(p).value for p in self.pointers))
            free(library, self.pointers)
            self.pointers = [ctypes.addressof(self.cells) + i*ctypes.sizeof(ctypes.c_void_p) for i in range(len(tensors))]
        else: weakref.finalize(self, free, library, self.pointers)

def free(library, pointers):
    for p in pointers: library.aoti_torch_delete_tensor_object(ctypes.c_void_p(p))

@functools.cache
def libtorch(name='torch_cpu'): return ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), 'lib', f'lib{name}.so'))

def address(library, name): return ctypes.cast(getattr(library, name), ctypes.c_void_p).value

def handles(tensors, borrowed=False):
    "`Handles` of `tensors`; None where this torch has no such interface"
    try: return Handles(tensors, borrowed)
    except (AttributeError, OSError): return None

class GradientFunctions:
    """How C looks up the gradient of a parameter, and looks at it. `addresses`: of functions by name, and of `undefined`, the tensor that stands for
    no gradient. `dtypes` and `strided`: the numbers by which C knows dtypes and the layout of a dense tensor.

    `grad` and `requires_grad` are methods of C++, `TensorImpl::grad() const`, which take what a handle points to. `negated` takes a handle: it is
    `at::native::is_neg(const Tensor&)`. Raises `AttributeError` where these have other names, or do something else"""
    of_c    = dict(data='data_ptr', dim='dim', sizes='sizes', strides='strides', dtype_of='dtype', layout_of='layout')
    of_cpp  = dict(grad='_ZNK3c1010TensorImpl4gradEv', requires_grad='_ZNK3c1010TensorImpl13requires_gradEv',
                   undefined='_ZN3c1019UndefinedTensorImpl10_singletonE')
    of_aten = dict(negated='_ZN2at6native6is_negERKNS_6TensorE')
    floats  = torch.float32,torch.float64,torch.bfloat16,torch.float16
    def __init__(self):
        library,core   = libtorch(),libtorch('c10')
        self.addresses = {n: address(library, f'aoti_torch_get_{f}') for n,f in self.of_c.items()}
        self.addresses.update({n: address(core, f) for n,f in self.of_cpp.items()})
        self.addresses.update({n: address(library, f) for n,f in self.of_aten.items()})
        self.dtypes    = {t: getattr(library, f'aoti_torch_dtype_{str(t).removeprefix("torch.")}')() for t in self.floats}
        self.strided   = library.aoti_torch_layout_strided()
        self.check()

    def check(self):
        "Try them on parameters with and without a gradient"
        of_one   = [ctypes.c_void_p]
        grad     = ctypes.CFUNCTYPE(ctypes.c_void_p, *of_one)(self.addresses['grad'])
        requires = ctypes.CFUNCTYPE(ctypes.c_bool, *of_one)(self.addresses['requires_grad'])
        negated  = ctypes.CFUNCTYPE(ctypes.c_bool, *of_one)(self.addresses['negated'])
        held     = lambda p: ctypes.c_void_p.from_address(p).value
        p,q      = (torch.ones(2, device='cpu', requires_grad=r) for r in (True, False))
        p.grad   = torch.ones(2, device='cpu')
        minus    = torch.ones(1, dtype=torch.complex64, device='cpu').conj().imag
        handles  = Handles([p, q, p.grad, minus], borrowed=False)
        a,b,g,_  = map(held, handles.pointers)
        right    = held(grad(a))==g and requires(a) and held(grad(b))==self.addresses['undefined'] and not requires(b)
        right    = right and negated(handles.pointers[3]) and not negated(grad(a))
        if not right: raise AttributeError("the methods of a tensor are others")

first_tried,last_tried = (2, 11),(2, 14)        # a method of C++ may change without a word, and a call of another one would crash

@functools.cache
def gradient_functions():
    "`GradientFunctions`; None where this torch has no such interface, or is none of the versions that were tried"
    version = tuple(int(n) for n in re.match(r'(\d+)\.(\d+)', torch.__version__).groups())
    if not first_tried<=version<=last_tried: return None
    try: return GradientFunctions()
    except (AttributeError, OSError): return None


# -- Hooks --

def watched_from_outside(opt):
    "Whether somebody has hooked into the steps of `opt`, or a profiler is on"
    return bool(opt._optimizer_step_pre_hooks or opt._optimizer_step_post_hooks or torch_optimizer._global_optimizer_pre_hooks
                or torch_optimizer._global_optimizer_post_hooks or torch.autograd._profiler_enabled())

def hooked(step):
    "`step` as torch would wrap it, with hooks and a record for the profiler"
    return torch_optimizer.Optimizer.profile_hook_step(step)


def add_param_group(opt, group):
    "torch's own, without what is around it: that would import dynamo, which takes a second, when the first optimizer of a process is made"
    add = torch.optim.Optimizer.add_param_group
    getattr(add, '__wrapped__', add)(opt, group)


# -- What is on around a step --

class Around:
    "What is on around a step, for as long as it is off: autocast of each kind of device, and the default device"
    def __init__(self):
        self.device = torch.get_default_device()
        self.casts  = [d for d in kinds_of_device() if torch.is_autocast_enabled(d)] if any_autocast() else []
        self.dtypes = [torch.get_autocast_dtype(d) for d in self.casts]

    @contextmanager
    def off(self):
        with no_autocast(), torch.inference_mode(False), torch.no_grad():
            if self.device.type=='cpu': yield self
            else:
                with torch.device('cpu'): yield self

    @contextmanager
    def on(self):
        "Put it back, for the user's closure. autocast keeps copies of weights, which are others before and after: they are forgotten"
        with ExitStack() as stack:
            for d,dtype in zip(self.casts, self.dtypes): stack.enter_context(torch.autocast(d, dtype))
            if self.device.type!='cpu': stack.enter_context(self.device)
            if self.casts:
                torch.clear_autocast_cache()
                stack.callback(torch.clear_autocast_cache)
            yield

def kinds_of_device():
    if not torch.accelerator.is_available(): return ('cpu',)              # torch 2.6 raises if it is asked which one
    return 'cpu',torch.accelerator.current_accelerator().type

def quiet():
    """A step, and all that is recorded for it, does not depend on what is on around it: gradients, inference mode, autocast, the default device.
    `with quiet() as around`: `around.on()` puts that back. The default dtype is the process's, which other threads see: it stays, and whatever
    genopt makes names its own"""
    return Around().off()

def quietly(method):
    "`method` of an optimizer, run so"
    @functools.wraps(method)
    def run(*args, **kw):
        with quiet(): return method(*args, **kw)
    return run

no_autocast = getattr(torch._C, '_DisableAutocast', None)
if no_autocast is None:
    @contextmanager
    def no_autocast():
        with ExitStack() as stack:
            for d in kinds_of_device(): stack.enter_context(torch.autocast(d, enabled=False))
            yield
any_autocast = getattr(torch._C, '_is_any_autocast_enabled', lambda: True)


# -- torch.compile --

def without_dynamo(step):
    """`step`, or another method of an optimizer, as torch.compile goes around it. Dynamo is not imported for this, which takes a second: while it is
    not there nothing can be compiled"""
    aside = []
    @functools.wraps(step)
    def goes_around(self, *args, **kw):
        if 'torch._dynamo' not in sys.modules: return step(self, *args, **kw)
        if not aside: aside.append(torch._dynamo.disable(step))
        return aside[0](self, *args, **kw)
    goes_around._torchdynamo_disable = True                                 # no inlining
    try: torch._C._dynamo.eval_frame.skip_code(goes_around.__code__)        # nor a graph of its own
    except AttributeError: pass
    return goes_around
