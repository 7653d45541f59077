"""What is measured, each case in a process of its own: steps in turns, first steps with a cold and a warm cache, compilations."""

import contextlib,logging,os,tempfile,time,warnings
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from unittest.mock import patch
import torch
from genopt.tools import bench
from genopt.run import compiler
from genopt.tools.bench import Side,TimeUp,algorithms,limit,one_thread,random_tensors,shapes,why
from .peers import contenders

by_name = {c.name: c for c in contenders}


# -- Processes --

def isolated(f, *args, env=None):
    "`f(*args)` in a new process with the environment variables `env`. Raises `RuntimeError` if the process is killed, as for want of memory"
    quiet = dict(TORCH_CPP_LOG_LEVEL='ERROR', KINETO_LOG_LEVEL='99')
    try:
        with patch.dict(os.environ, quiet | (env or {})), ProcessPoolExecutor(1, get_context('spawn'), initializer=hush) as pool:
            return pool.submit(f, *args).result()
    except BrokenProcessPool:
        raise RuntimeError('the process was killed; too little memory?') from None

def hush():
    "Silence warnings and logs: libraries announce changes of their own"
    warnings.simplefilter('ignore')
    torch._logging.set_logs(all=logging.ERROR)

def patient(seconds, f, *args):
    "`f(*args)`. Raises `Absent` after `seconds`"
    try:
        with limit(seconds):
            return f(*args)
    except TimeUp as e:
        raise bench.Absent(str(e)) from None

def each(names, f, **env):
    "A row with what `f(name, env)` returns for each of `names`, or why there is nothing. Each name has an empty cache of compilers, which `env` says"
    rows = []
    for name in names:
        with tempfile.TemporaryDirectory() as cache:
            places = {k: v.format(cache=cache) for k,v in env.items()}
            try:
                row = f(name, places | dict(GENOPT_CACHE=f'{cache}/genopt'))
            except Exception as e:
                row = dict(absent=why(e))
        rows.append(dict(name=name) | row)
    return rows


# -- Steps --

def steps(algorithm, shape, names, baseline, rounds, device, patience, memory):
    "`genopt.tools.bench.measure` of these contenders"
    try:
        return isolated(steps_here, algorithm, shape, names, baseline, rounds, device, patience, memory)
    except RuntimeError as e:
        return bench.result(algorithm, shape, device, rounds, None, [dict(name=n, absent=why(e)) for n in names])

def steps_here(algorithm, shape, names, *options):
    return bench.measure(algorithm, shape, [by_name[n] for n in names], *options)

def steps_short(algorithm, shape, names, rounds, device):
    "The same in this process and one thread; memory is not measured"
    with one_thread():
        return steps_here(algorithm, shape, names, None, rounds or shapes[shape].rounds//3, device, 60., None, False)


# -- First steps --

def first_step(algorithm, shape, name, device):
    "Seconds to make the optimizer and take its first step"
    s = shapes[shape]
    params = [torch.nn.Parameter(t) for t in random_tensors(s, device, 0, 0.1)]
    for p,g in zip(params, random_tensors(s, device, 1, 0.01)):
        p.grad = g
    start = time.perf_counter()
    step  = by_name[name].make(algorithm, s.groups(params), algorithms[algorithm])
    step()
    if params[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()-start

def first_steps(algorithm, shape, names, device, patience):
    "The first step with an empty compiler cache, and again with the cache it left; every time in a new process"
    def cold_and_warm(name, env):
        cold,warm = (isolated(patient, patience, first_step, algorithm, shape, name, device, env=env) for _ in range(2))
        return dict(cold=cold, warm=warm)
    rows = each(names, cold_and_warm, TORCHINDUCTOR_CACHE_DIR='{cache}', TRITON_CACHE_DIR='{cache}/triton')
    return dict(case='first', algorithm=algorithm, shape=shape, rows=rows)


# -- Compilations --

@contextlib.contextmanager
def counting():
    "A list with one entry for each graph that Inductor compiles in the block, and for each C function of genopt's"
    from torch._inductor import compile_fx
    real = compile_fx.fx_codegen_and_compile
    seen = []
    def count(*args, **kwargs):
        seen.append(1)
        return real(*args, **kwargs)
    compile_fx.fx_codegen_and_compile = count
    before = len(compiler.compilations)
    try:
        yield seen
    finally:
        compile_fx.fx_codegen_and_compile = real
        seen += compiler.compilations[before:]

def count_compilations(algorithm, shape, name, n, device):
    "Graphs compiled in `n` steps, while lr and betas change at every step and the last layer is frozen and unfrozen ten times"
    grads = random_tensors(shapes[shape], device, 1, 0.01)
    with counting() as seen:
        side = Side(by_name[name], algorithm, shapes[shape], grads, None)
        step = side.step
        for i in range(n):
            side.restore()
            for group in bench.groups_of(step):
                change(group, algorithms[algorithm]['lr'], i/n)
            freeze(side.params[-2:], i*20//n%2==1)
            step()
    return len(seen)

def change(group, lr, progress):
    "Set the hyper-parameters of a group as a schedule does at `progress`, which goes from 0 to 1"
    group['lr'] = lr*(1-progress/2)
    momentum = 0.85+0.1*progress
    if 'betas' in group:
        group['betas'] = momentum,0.999
    for k in ('momentum', 'beta1', 'beta', 'mom'):
        if k in group:
            group[k] = momentum

def freeze(params, frozen):
    for p in params:
        p.requires_grad_(not frozen)
        if frozen:
            p.grad = None

def compilations(algorithm, shape, names, n, device, patience):
    "`count_compilations` of each contender, with no cache that could hide one"
    def count(name, env):
        return dict(count=isolated(patient, patience, count_compilations, algorithm, shape, name, n, device, env=env))
    rows = each(names, count, TORCHINDUCTOR_FORCE_DISABLE_CACHES='1')
    return dict(case='compilations', algorithm=algorithm, shape=shape, steps=n, rows=rows)
