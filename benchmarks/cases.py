"""What is measured, each case in a process of its own: steps in turns, first steps with a cold and a warm cache, compilations."""

import contextlib,logging,os,tempfile,time,warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
import torch
from genopt.tools import bench
from genopt.run import compiler
from genopt.tools.bench import Side,TimeUp,algorithms,limit,random_tensors,shapes,why
from .peers import contenders

by_name = {c.name: c for c in contenders}
quiet   = dict(TORCH_CPP_LOG_LEVEL='ERROR', KINETO_LOG_LEVEL='99')


def isolated(f, *args, env=None):
    "`f(*args)` in a fresh process with the variables `env`; a process that is killed, as for want of memory, is a `RuntimeError`"
    old,env = {},quiet|(env or {})
    for k,v in env.items(): old[k],os.environ[k] = os.environ.get(k),v
    try:
        with ProcessPoolExecutor(1, get_context('spawn'), initializer=hush) as pool: return pool.submit(f, *args).result()
    except BrokenProcessPool: raise RuntimeError('the process was killed; too little memory?') from None
    finally:
        for k,v in old.items(): os.environ.pop(k) if v is None else os.environ.update({k: v})

def hush():
    "Without what libraries say about their own future"
    warnings.simplefilter('ignore')
    torch._logging.set_logs(all=logging.ERROR)

def patient(seconds, f, *args):
    "`f(*args)`; `Absent` after `seconds`"
    try:
        with limit(seconds): return f(*args)
    except TimeUp as e: raise bench.Absent(str(e)) from None


def steps(algorithm, shape, names, baseline, rounds, device, patience, memory):
    "`genopt.tools.bench.measure` of these contenders"
    try: return isolated(steps_here, algorithm, shape, names, baseline, rounds, device, patience, memory)
    except RuntimeError as e: return bench.measure(algorithm, shape, []) | dict(rows=[dict(name=n, absent=why(e)) for n in names])

def steps_here(algorithm, shape, names, *options): return bench.measure(algorithm, shape, [by_name[n] for n in names], *options)

def steps_short(algorithm, shape, names, rounds, device):
    "In one thread, which waits for none on a busy machine; without memory"
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try: return steps_here(algorithm, shape, names, None, rounds or shapes[shape].rounds//3, device, 60., None, False)
    finally: torch.set_num_threads(n)

def first_step(algorithm, shape, name, device):
    "Seconds to make the optimizer and take its first step"
    s = shapes[shape]
    params = [torch.nn.Parameter(t) for t in random_tensors(s, device, 0, 0.1)]
    for p,g in zip(params, random_tensors(s, device, 1, 0.01)): p.grad = g
    start = time.perf_counter()
    step = by_name[name].make(algorithm, s.groups(params), algorithms[algorithm])
    step()
    if params[0].is_cuda: torch.cuda.synchronize()
    return time.perf_counter()-start

def first_steps(algorithm, shape, names, device, patience):
    "The first step with an empty compiler cache, and again with the cache it left; every time in a new process"
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as cache:
            env = dict(TORCHINDUCTOR_CACHE_DIR=cache, TRITON_CACHE_DIR=f'{cache}/triton', GENOPT_CACHE=f'{cache}/genopt')
            try: times = [isolated(patient, patience, first_step, algorithm, shape, name, device, env=env) for _ in range(2)]
            except Exception as e: rows.append(dict(name=name, absent=why(e)))
            else: rows.append(dict(name=name, cold=times[0], warm=times[1]))
    return dict(case='first', algorithm=algorithm, shape=shape, rows=rows)


@contextlib.contextmanager
def counting():
    "A list with one entry for each graph that Inductor compiles in the block, and for each C function of genopt's"
    from torch._inductor import compile_fx
    seen,real = [],compile_fx.fx_codegen_and_compile
    def count(*args, **kwargs):
        seen.append(1)
        return real(*args, **kwargs)
    compile_fx.fx_codegen_and_compile,before = count,len(compiler.compilations)
    try: yield seen
    finally:
        compile_fx.fx_codegen_and_compile = real
        seen += compiler.compilations[before:]

def count_compilations(algorithm, shape, name, n, device):
    "Graphs compiled in `n` steps, while lr and betas change at every step and the last layer is frozen and unfrozen ten times"
    s,settings = shapes[shape],algorithms[algorithm]
    grads = random_tensors(s, device, 1, 0.01)
    with counting() as seen:
        side = Side(by_name[name], algorithm, s, grads, None)
        opt,last = getattr(side.step, '__self__', None) or side.step.__wrapped__.__self__,side.params[-2:]
        for i in range(n):
            side.restore()
            for group in opt.param_groups if isinstance(opt, torch.optim.Optimizer) else opt.hypers:
                group['lr'] = settings['lr']*(1-i/n/2)
                if 'betas' in group: group['betas'] = (0.85+0.1*i/n, 0.999)
                for k in ('momentum', 'beta1', 'beta', 'mom'):
                    if k in group: group[k] = 0.85+0.1*i/n
            frozen = i*20//n%2==1
            for p in last:
                p.requires_grad_(not frozen)
                if frozen: p.grad = None
            side.step()
    return len(seen)

def compilations(algorithm, shape, names, n, device, patience):
    "`count_compilations` of each, with no cache that could hide one"
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as cache:
            env = dict(TORCHINDUCTOR_FORCE_DISABLE_CACHES='1', GENOPT_CACHE=f'{cache}/genopt')
            try: count = isolated(patient, patience, count_compilations, algorithm, shape, name, n, device, env=env)
            except Exception as e: rows.append(dict(name=name, absent=why(e)))
            else: rows.append(dict(name=name, count=count))
    return dict(case='compilations', algorithm=algorithm, shape=shape, steps=n, rows=rows)
