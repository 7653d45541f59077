"""From Triton source to kernels that can be called: compiled on a GPU, interpreted on a CPU. Users
never meet the interpreter; with it the tests run the kernels of a GPU on any machine. What it
cannot show is races, the order of writes to memory, streams and time: the gpu tests are for these."""

import functools
import hashlib
import linecache
import re
from contextlib import nullcontext, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import SimpleNamespace
import torch
from . import compiler

__all__ = [
    'BoundKernel',
    'Sizes',
    'available',
    'compilations',
    'compiled_sizes',
    'functions',
    'installed',
    'interprets',
    'launch',
    'missing',
    'options',
    'sizes_for',
]

compilations = []  # the chains for which this process has made kernels, in words


class Sizes:
    """How large the pieces are that one program takes: `block` elements of a tile, `lanes`
    parameters or segments at once. `segments`: about how many a model has"""

    def __init__(self, block, lanes, segments):
        self.block, self.lanes, self.segments = block, lanes, segments


# 1024 elements are 8 for each of 128 threads: two accesses of 128 bits in float32
compiled_sizes = Sizes(1024, 1024, 4096)
interpreted_sizes = Sizes(
    64, 16, 24
)  # small, so that small parameters have several tiles

# `a*b + c` is rounded once only where the source says so, as in C
options = dict(num_warps=4, enable_fp_fusion=False)


def interprets(device):
    return device.type == 'cpu'


def sizes_for(device, largest=0):
    "`largest`: the elements of the largest block of a code; a tile has whole blocks"
    if not interprets(device):
        return compiled_sizes
    return Sizes(max(512, largest), 16, 24) if largest else interpreted_sizes


# -- Whether there is Triton --


oldest = 3, 6  # the oldest version whose kernels have been seen to run on a card
packages = 'triton', 'pytorch-triton-rocm', 'pytorch-triton-xpu', 'triton-windows'


def available():
    "Whether kernels can be compiled: Triton is there and not too old, and compiling is not turned off"
    return not compiler.off() and installed() >= oldest


@functools.cache
def installed():
    "The version of Triton, as two numbers; (0, 0) if there is none. Triton is not imported"
    if find_spec('triton') is None:
        return 0, 0
    for name in packages:
        with suppress(PackageNotFoundError):
            return two_numbers(version(name))
    import triton

    return two_numbers(triton.__version__)


def two_numbers(text):
    "Of '3.6.0+git' (3, 6)"
    major, minor = re.match(r'(\d+)\.(\d+)', text).groups()
    return int(major), int(minor)


def missing():
    "Why kernels cannot be compiled, and what to do about it"
    if compiler.off():
        return "GENOPT_COMPILE=0 is set; unset it"
    wanted, here = ('.'.join(map(str, v)) for v in (oldest, installed()))
    found = f"finds Triton {here}" if installed() > (0, 0) else "finds no Triton"
    return f"genopt {found}, and needs {wanted} or newer: pip install -U triton"


# -- From source to functions --


def functions(source, kernels, interpreted=False):
    "The functions of `source` called `kernels`, for a GPU or for the interpreter"
    import triton
    import triton.language as tl
    from triton.language.extra import libdevice

    # otherwise Triton compiles anew for one parameter, and for multiples of 16
    jit = triton.jit(do_not_specialize=['n', 'chunks'])
    scope = dict(tl=tl, libdevice=libdevice, jit=jit)
    if interpreted:
        from triton.runtime.interpreter import InterpretedFunction

        scope['jit'] = InterpretedFunction
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    name = f'<genopt {digest}{" interpreted" * interpreted}>'
    # Triton reads the source of a function again, through `inspect`
    linecache.cache[name] = len(source), None, source.splitlines(True), name
    scope['__name__'] = f'genopt_kernel_{digest}'
    exec(compile(source, name, 'exec'), scope)
    if interpreted:
        replace_what_the_interpreter_lacks(scope)
        make_reductions_quick(scope)
        make_calls_quick(scope, kernels)
    return [scope[n] for n in kernels]


def replace_what_the_interpreter_lacks(scope):
    """What Triton's interpreter lacks: the functions of `libdevice`, and a bfloat16 that is rounded as
    on a GPU"""
    tl = scope['tl']
    names = 'exp exp2 expm1 log log2 log1p sin cos atan atan2 tanh trunc pow copysign'.split()
    scope['libdevice'] = SimpleNamespace(
        **{n: by_torch(tl, getattr(torch, n)) for n in names},
        rint=by_torch(tl, torch.round),
    )
    bits = lambda x: x.to(torch.bfloat16).view(torch.int16).view(torch.uint16)
    scope['narrowed'] = by_torch(tl, bits, tl.bfloat16)
    number = lambda x: x.view(torch.int16).view(torch.bfloat16).float()
    scope['widened'] = by_torch(tl, number, tl.float32)


def make_reductions_quick(scope):
    "The interpreter does a reduction in Python, for each element"
    for name, f in dict(add=torch.sum, max=torch.amax, min=torch.amin).items():
        scope[f'all_{name}'] = by_torch(scope['tl'], f)
        scope[f'row_{name}'] = by_torch(scope['tl'], partial(f, dim=1, keepdim=True))
        scope[f'running_{name}'] = by_torch(scope['tl'], running(f))


def make_calls_quick(scope, kernels):
    "The interpreter patches Triton at each call of a function. For that of the kernel is enough"
    for name, f in [*scope.items()]:
        if type(f) is scope['jit'] and name not in kernels:
            scope[name] = f.rewrite()
            scope[name].fn = scope[name]


def by_torch(tl, f, dtype=None):
    "`f`, of tensors of torch, as a function of Triton"
    from triton.runtime.interpreter import TensorHandle

    def call(*xs):
        xs = [x if isinstance(x, tl.tensor) else tl.full((), x, tl.float32) for x in xs]
        data = f(*(torch.from_numpy(x.handle.data.copy()) for x in xs))
        data = data.reshape(data.shape or (1,)).numpy()
        of = dtype or xs[-1].dtype
        shaped = tl.block_type(of, [*data.shape]) if data.size > 1 else of
        return tl.tensor(TensorHandle(data, of), shaped)

    return call


def running(f):
    "`f` in each lane of all up to it that are of the same parameter"

    def run(t, x):
        lanes = range(len(t))
        return torch.stack([f(x[: i + 1][t[: i + 1] == t[i]]) for i in lanes])

    return run


# -- Launching --


class BoundKernel:
    """`function` on `grid` programs, with `args`, on `device`. From the second launch on it goes
    around Triton's look at the arguments, which takes longer than the launch: types and alignment
    stay as they were, the constants too. `stream`: of the last launch, as Triton knows it"""

    def __init__(self, function, grid, args, device):
        self.function, self.grid, self.args, self.device = function, grid, args, device
        self.compiled = self.stream = None

    def launch(self, stream):
        "Launch it on `stream`, which is the current one of the device"
        if stream != self.stream:
            self.record(stream)
        if self.compiled is not None:
            self.compiled(*self.args, stream=stream)
            return
        kernel = self.function[(self.grid,)](*self.args, **options)
        if kernel is not None:  # the interpreter compiles nothing
            self.compiled = kernel[self.grid, 1, 1]

    def record(self, stream):
        """Let torch's allocator know that `stream` reads and writes the arguments. They may have been
        made on another stream, and be freed on the host before this one has come to the kernel"""
        self.stream = stream
        current = torch.get_device_module(self.device).current_stream(self.device)
        for x in self.args:
            if isinstance(x, torch.Tensor):
                x.record_stream(current)


def launch(kernels, device):
    """Launch `kernels` one after the other, on the current stream of `device`. The tests put a stub
    in its place, and count"""
    with on_device(device):
        stream = current_stream(device)
        for k in kernels:
            k.launch(stream)


def current_stream(device):
    "The current stream of `device` as Triton knows it; None where kernels are interpreted"
    if device.type == 'cpu':
        return None
    from triton.runtime import driver

    return driver.active.get_current_stream(device.index)


def on_device(device):
    if device.type == 'cuda' and device.index != torch.cuda.current_device():
        return torch.cuda.device(device)
    if device.type == 'xpu' and device.index != torch.xpu.current_device():
        return torch.xpu.device(device)
    return nullcontext()
