"""What `lower` decides, and that every backend does the same with it: the table of operations, programs, their reasons; C, foreach and, for the tests, NumPy."""

import ctypes,math,os,shutil,subprocess,sys
from pathlib import Path
import pytest,torch
import genopt
from genopt import Optimizer
from genopt.contract.chain import Chain
from genopt.blocks import average_grad,clip_grad_norm,momentum_step,newton_schulz,sgd_step
from genopt.lower.operations import elementwise
from genopt.lower.decide import lower
from genopt.lower.program import Layout,Request
from genopt.lower.values import aten
from genopt.run import compiler,emit
from genopt.run.c_names import CNames
from genopt.run.foreach import foreach_of
from genopt.run.launch import Kernel,Launch
from helpers import catalogue
from numpy_backend import NumPyFlat

def layout(shape=(4,3), dtype=torch.float32, states=()): return Layout(shape, dtype, dtype, tuple((n, dtype) for n in states), torch.device('cpu'))


# -- The table of operations --

written = {aten.add: lambda grad, p, k=.3: grad.add(p, alpha=k) + .5, aten.sub: lambda grad, p, k=.3: grad.sub(p, alpha=k) - p, aten.mul: lambda grad, p: grad*p,
           aten.div: lambda grad, p, k=3.: grad/(p.abs()+1) + p/k + grad/7., aten.neg: lambda grad: -grad, aten.rsub: lambda grad: torch.rsub(grad, 2.),
           aten.addcmul: lambda grad, p, k=.3: grad.addcmul(p, p, value=k).addcmul(p, grad), aten.addcdiv: lambda grad, p, k=.3: grad.addcdiv(p, p*p+1, value=k),
           aten.lerp: lambda grad, p, k=.7: grad.lerp(p, k) + grad.lerp(p, .2), aten.maximum: lambda grad, p: torch.maximum(grad, p),
           aten.minimum: lambda grad, p: torch.minimum(grad, p), aten.clamp: lambda grad, p, k=.4: grad.clamp(-k, k) + p.clamp(min=.1),
           aten.clamp_min: lambda grad: grad.clamp_min(.1), aten.clamp_max: lambda grad: grad.clamp_max(.1), aten.where: lambda grad, p: torch.where(grad>p, grad, 0.),
           aten.sqrt: lambda grad: grad.abs().sqrt(), aten.exp: lambda grad: (grad*20).exp(), aten.log: lambda grad: (grad.abs()*1e-3).log(), aten.exp2: lambda grad: (grad*20).exp2(),
           aten.log2: lambda grad: grad.abs().log2(), aten.log1p: lambda grad: grad.abs().log1p(), aten.expm1: lambda grad: grad.expm1(), aten.tanh: lambda grad: grad.tanh(),
           aten.sin: lambda grad: grad.sin(), aten.cos: lambda grad: grad.cos(), aten.erf: lambda grad: grad.erf(), aten.floor: lambda grad: (grad*3).floor(),
           aten.ceil: lambda grad: (grad*3).ceil(), aten.trunc: lambda grad: (grad*3).trunc(), aten.abs: lambda grad: grad.abs(), aten.atan2: lambda grad, p: grad.atan2(p),
           aten.atan: lambda grad: grad.atan(), aten.rsqrt: lambda grad: (grad.abs()+.1).rsqrt(), aten.reciprocal: lambda grad: (grad.abs()+.1).reciprocal(),
           aten.sigmoid: lambda grad: grad.sigmoid(), aten.square: lambda grad: grad.square(), aten.pow: lambda grad, k=1.7: grad.abs()**k + grad**2 + grad**3 + grad**4 + grad.abs()**.5 + (grad.abs()+.1)**-1,
           aten.sign: lambda grad: grad.sign(), aten.relu: lambda grad: grad.relu(), aten.zeros_like: lambda grad: grad+torch.zeros_like(grad), aten.ones_like: lambda grad: grad+torch.ones_like(grad),
           aten.full_like: lambda grad: grad+torch.full_like(grad, .3), aten.empty_like: lambda grad: torch.empty_like(grad).copy_(grad)*2, aten.clone: lambda grad: grad.clone()*2, aten._to_copy: lambda grad, p: (grad>p).to(grad.dtype)*2,
           aten.copy: lambda grad, p: (grad*2).copy_(p)*2, aten.gt: lambda grad, p: (grad>p)*p, aten.ge: lambda grad, p: (grad>=p)*p, aten.lt: lambda grad: (grad<.1)*grad,
           aten.le: lambda grad: (grad<=.1)*grad, aten.eq: lambda grad, p: (grad==p)+grad, aten.ne: lambda grad, p: (grad!=p)*grad,
           aten.logical_and: lambda grad, p: torch.logical_and(grad>0, p>0)*grad, aten.logical_or: lambda grad, p: torch.logical_or(grad>0, p>0)*grad,
           aten.bitwise_and: lambda grad, p: ((grad>0)&(p>0))*grad, aten.bitwise_or: lambda grad, p: ((grad>0)|(p>0))*grad, aten.logical_not: lambda grad: torch.logical_not(grad>0)*grad,
           aten.bitwise_not: lambda grad: (~(grad>0))*grad, aten.logical_xor: lambda grad, p: torch.logical_xor(grad>0, p>0)*grad, aten.bitwise_xor: lambda grad, p: ((grad>0)^(p>0))*grad,
           aten.isnan: lambda grad: torch.where(grad.isnan(), torch.ones_like(grad), grad), aten.isfinite: lambda grad: torch.where(grad.isfinite(), grad, torch.ones_like(grad)),
           aten.isinf: lambda grad: torch.where(grad.isinf(), torch.ones_like(grad), grad), aten.round: lambda grad: (grad*2).round()*grad, aten.copysign: lambda grad, p: grad.copysign(p)}
reducing = dict(norm=lambda grad: grad*grad.norm(), norm1=lambda grad: grad*grad.norm(1), norminf=lambda grad: grad*grad.norm(math.inf), sum=lambda grad: grad*grad.sum(), mean=lambda grad, p: grad*(p*p).mean(),
                amax=lambda grad: grad*grad.amax(), amin=lambda grad: grad*grad.amin(), dot=lambda grad: grad*grad.square().sum().sqrt())
chains = [pytest.param(f, id=str(op).split('.')[-1]) for op,f in written.items()] + [pytest.param(f, id=n) for n,f in reducing.items()]

def test_the_table_is_tried_whole(): assert written.keys()==elementwise.keys()

def recorded(cbs, dtype, numbers, backend='c'):
    numbers = dict(lr=.1) | numbers
    program = lower(Chain([*cbs]), layout(dtype=dtype), numbers, Request(backend))
    return program,None if program.falls_back else program.scalars(dict(numbers))

def values(dtype, nan=False):
    g = torch.Generator().manual_seed(0)
    grad,p = [torch.randn(n, generator=g, dtype=torch.float64).to(dtype) for n in (5000, 5000)]
    if nan: grad[3],grad[4999] = math.nan,math.inf
    return grad,p

def run_backend(name, program, ready, grad, p):
    "What a backend writes into the parameter"
    flat,p = program.stages[0].flat,p.clone()
    names = program.names_of_scalars()
    inverse = [1/ready[0][names.index(n)] for n in program.reciprocals]
    scalars = dict(zip(names, [*ready[0], *inverse]))
    tensors = dict(p=[p], grad=[grad])
    if name=='foreach': foreach_of(flat, False)({n: tensors[n] for n in flat.names}, scalars)
    if name=='numpy':   NumPyFlat(flat, program.layout.compute_dtype)({n: [x.numpy() for x in tensors[n]] for n in flat.names}, scalars)
    if name=='c':
        array  = (ctypes.c_double*max(1, len(names)))(*scalars.values())
        launch = Launch(Kernel(program, names, {n: p.dtype for n in flat.names}, None), [p.numel()], array, [0])
        for n in flat.names: launch.point(n, [tensors[n][0].data_ptr()])
        launch()
    return p

@pytest.mark.parametrize('backend', ['c', 'foreach', 'numpy'])
@pytest.mark.parametrize('nan', [False, True], ids=['finite', 'nan'])
@pytest.mark.parametrize('f', chains)
def test_every_operation_is_torchs(f, nan, backend):
    "In every backend, in both precisions, NaN and infinity included"
    for dtype,tol in ((torch.float64, 1e-12), (torch.float32, 3e-6)):
        grad,p  = values(dtype, nan)
        numbers = {k: v for k,v in zip(['k'], f.__defaults__ or ())}
        program,ready = recorded([f], dtype, numbers, 'foreach' if backend=='foreach' else 'c')
        assert not program.why and not program.falls_back, program.why
        want = p - .1*f(*(dict(grad=grad, p=p)[n] for n in f.__code__.co_varnames[:f.__code__.co_argcount-len(f.__defaults__ or ())]), **numbers)
        torch.testing.assert_close(run_backend(backend, program, ready, grad, p), want, rtol=tol, atol=tol, equal_nan=True)

def test_an_operation_that_the_table_lacks_is_called():
    "And the program says which, and of whose"
    def odd(grad): return torch.special.i0(grad)
    program,_ = recorded([odd, average_grad], torch.float32, dict(mom=.9, dampening=True), 'c')
    assert str(program.why[0])=='odd calls i0, which genopt cannot compile' and len(program.stages)==2


# -- Programs --

def test_a_program_is_decided_once_and_frozen():
    numbers = dict(lr=.1, mom=.9, dampening=True)
    a,b = [lower(Chain([average_grad, momentum_step]), layout(s, states=['grad_avg']), numbers, Request('c')) for s in ((4,3), (9,))]
    assert a is b
    with pytest.raises(AttributeError, match="cannot assign to field 'stages'"): a.stages = ()
    c = lower(Chain([average_grad, momentum_step]), layout(states=['grad_avg']), numbers | dict(dampening=0.), Request('c'))
    assert c is not a

def test_elementwise_parts_around_a_matrix_are_launched():
    program = lower(Chain([clip_grad_norm, average_grad, momentum_step, newton_schulz]), layout((6,5), states=['grad_avg']),
                      dict(lr=.1, mom=.9, dampening=True, max_norm=1., ns_steps=5, eps=1e-7, ns_dtype='float32'), Request('c'))
    assert [len(s.calls) for s in program.stages]==[0, 1, 0] and program.stages[0].cross_reductions and program.stages[2].flat.stores.keys()=={'p', 'grad_avg'}
    assert program.why[0].callback=='newton_schulz'

@pytest.mark.parametrize('a', [a for a in catalogue if not a.closure and a.name!='SparseAdam'], ids=lambda a: a.name)
def test_every_algorithm_becomes_a_program(a):
    "All but those that ask the model, or take sparse gradients; elementwise and norm algorithms are one launch"
    opt = a.cls([torch.ones(6, 5, requires_grad=True)])
    opt.param_groups[0]['params'][0].grad = torch.ones(6, 5)
    opt.step()
    work, = opt._plan.works
    shaped = a.matrix or a.name in ('SGDP','AdamP','SM3','Adafactor','CAME','Shampoo','SOAP','Kron','Scion')
    assert not opt._plan.fallback and bool(work.program.why)==shaped and work.simple==(not work.program.why)


# -- Launches --

def train(cls, n_threads, **kw):
    torch.set_num_threads(n_threads)
    g   = torch.Generator().manual_seed(0)
    ps  = [torch.randn(s, generator=g).requires_grad_() for s in ((300,401), (70001,), (5,), (33,7))]
    opt = cls(ps, **kw)
    for _ in range(5):
        for p in ps: p.grad = torch.randn(p.shape, generator=g)
        opt.step()
    return ps

@pytest.mark.slow
@pytest.mark.skipif('gcc' not in (shutil.which('cc') or '')+os.path.realpath(shutil.which('cc') or ''), reason='asks gcc')
@pytest.mark.parametrize('a', [a for a in catalogue if not a.closure], ids=lambda a: a.name)
def test_loops_are_vectorized(a, tmp_path):
    "gcc says so. One that is not takes ten times as long, as SAdam did with an exponential in a form that gcc does not like"
    opt = a.cls([torch.ones(6, 5, requires_grad=True)])
    opt.param_groups[0]['params'][0].grad = torch.ones(6, 5)
    opt.step()
    for work in opt._plan.works:
        if flats := [s.flat for s in work.program.stages if s.flat]:
            dtypes = dict.fromkeys(work.program.names_in_memory, torch.float32)
            (tmp_path/'k.c').write_text(emit.source(work.program, CNames(work.program, work.scalars.names, dtypes)))
            told = subprocess.run(['cc', *compiler.flags, *compiler.openmp(), '-fopt-info-vec', '-o', tmp_path/'k.so', tmp_path/'k.c'], capture_output=True, text=True)
            loops = sum(bool(r.elements or r.reduced) for f in flats for r in f.rounds)
            assert told.returncode==0 and told.stderr.count('loop vectorized')>=loops, (a.name, told.stderr)

@pytest.mark.parametrize('cls', [genopt.Adam, genopt.LAMB, genopt.Prodigy, genopt.StableAdamW])
def test_threads_do_not_change_the_bits(cls):
    before = torch.get_num_threads()
    try: runs = [train(cls, n) for n in (1, 2, 4)]
    finally: torch.set_num_threads(before)
    for p,q,r in zip(*runs): assert torch.equal(p, q) and torch.equal(p, r)

def test_a_forked_child_steps():
    "libgomp does not survive a fork; a child runs without threads"
    code = """
import os,torch,genopt
p = torch.ones(200_000, requires_grad=True)
p.grad = torch.ones_like(p)
opt = genopt.Adam([p], lr=.1)
opt.step()
pid = os.fork()
if not pid:
    opt.step()
    os._exit(0 if p[0].item()<.85 and p[-1].item()<.85 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])==0
"""
    assert subprocess.run([sys.executable, '-c', code], timeout=60, cwd=Path(genopt.__file__).parent.parent).returncode==0

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision_is_rounded_as_torch_does(dtype):
    "Every value that there is, through a step that changes nothing but the rounding"
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    for lr in (0., 1e-3):
        p,q = x.clone().requires_grad_(),x.clone().requires_grad_()
        for t,kw in ((p, {}), (q, dict(foreach=False))):
            t.grad = torch.where(t.detach().isfinite(), t.detach(), 0)
            Optimizer([t], [sgd_step], lr=lr, **kw).step()
        assert torch.equal(p.detach().nan_to_num(), q.detach().nan_to_num()) and torch.equal(p.isnan(), q.isnan())


@pytest.mark.skipif(not shutil.which('clang'), reason='clang is not installed')
def test_another_compiler(tmp_path):
    "clang gives the same numbers as gcc, in parallel too: kernels need nothing of a compiler's own OpenMP"
    code = """
import torch,genopt
from genopt.blocks import clip_grad_norm
g = torch.Generator().manual_seed(0)
out = []
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
    ps  = [torch.randn(n, generator=g).to(dtype).requires_grad_() for n in (5, 200_000)]
    opt = genopt.Optimizer(ps, [clip_grad_norm, genopt.AdamW], lr=.1, max_norm=1., fused=True)
    for p in ps: p.grad = torch.randn(p.shape, generator=g).to(dtype)
    opt.step()
    out += [p.detach() for p in ps]
torch.save(out, OUT)"""
    outs = []
    for cc in ('gcc', 'clang'):
        path = tmp_path/f'{cc}.pt'
        env  = os.environ | dict(CC=cc, GENOPT_CACHE=str(tmp_path/cc), OMP_NUM_THREADS='2')
        subprocess.run([sys.executable, '-c', code.replace('OUT', repr(str(path)))], env=env, check=True)
        outs.append(torch.load(path))
    for a,b in zip(*outs):
        info = torch.finfo(a.dtype)
        torch.testing.assert_close(a, b, rtol=4*info.eps, atol=info.tiny*info.eps)


# -- The package --

def test_the_plan_holds_no_optimizer():
    "So that memory is free at once, without the garbage collector"
    import gc,weakref
    gc.disable()
    try:
        p = torch.ones(100, requires_grad=True)
        p.grad = torch.ones(100)
        opt = genopt.Adam([p])
        opt.step()
        state,gone = weakref.ref(opt.state[p]['grad_avg']),weakref.ref(opt)
        del opt
        assert gone() is None and state() is None
    finally: gc.enable()
