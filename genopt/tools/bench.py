"""`genopt bench`: time and memory of a step beside others', measured in turns in one process. The folder `benchmarks` adds contenders of peers."""

import contextlib,gc,importlib.metadata,json,os,platform,signal,statistics,subprocess,tempfile,threading,time
from dataclasses import replace
from datetime import datetime
from functools import cache,partial
from itertools import accumulate
from pathlib import Path
import torch
import genopt
from ..optim.tables import plural,size,table
from .choices import at_least,one_of,words
from .contenders import Absent,algorithms,baselines,contenders,needs,on_gpu,shapes

__all__ = ['machine', 'measure', 'pick', 'report']

warm_up = 10        # steps. RAdam takes its other branch at the sixth step; dynamo gives up after eight recompilations


def pick(s: str|None, names) -> list:
    "The `names` that an item of the comma-separated `s` equals or begins, in whole words: 'genopt, torch fused'. All of them if `s` is None"
    if s is None:
        return [*names]
    found = []
    for word in words(s):
        matches = [n for n in names if f'{n} '.startswith(f'{word} ')]
        if not matches:
            raise ValueError(f"unknown name {word!r}; choose from {', '.join(names)}")
        found += matches
    return [n for n in names if n in found]

def contenders_on(device) -> list:
    "The contenders on a device: a GPU has CUDA graphs too. Raises `ValueError` for a device whose time cannot be told from the host's"
    return on_gpu if one_of(torch.device(device).type, ('cpu','cuda'), 'device to measure on')=='cuda' else contenders

def shapes_on(device) -> list:
    "The names of the shapes for which nobody has to ask"
    return ['six', 'resnet50', 'gpt2', 'k256'] if torch.device(device).type=='cuda' else ['six', 'resnet18', 'k256']


# -- Time and threads --

@contextlib.contextmanager
def one_thread():
    "Let torch use one thread in the block: it waits for no other on a busy machine"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

class TimeUp(BaseException):
    "Raised in a step that takes too long. It is no `Exception`, which a compiler might catch"

@contextlib.contextmanager
def limit(seconds):
    "Raise `TimeUp` in the block after `seconds`. Does nothing without `seconds`, outside the main thread, and where the system has no alarms"
    if not seconds or not hasattr(signal, 'SIGALRM') or threading.current_thread() is not threading.main_thread():
        yield
        return
    def up(*_):
        raise TimeUp(f"gave up after {seconds:g} s")
    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

class HostClock:
    "Times a step on a CPU"
    def sync(self): pass

    def wall(self, step):
        "The seconds of `step()`"
        start = time.perf_counter()
        step()
        return time.perf_counter()-start

    def turn(self, step, prepare):
        "The seconds of one step, which `prepare()` goes before"
        prepare()
        return dict(ms=self.wall(step))

class CudaClock:
    """Times a step on a GPU three times: until `step()` returns, until its work is done, and between two events around it. The events stand
    behind a kernel that sleeps until the host has queued the whole step, so that the device never waits for the host. `cuda`: torch.cuda"""
    margins = 1.5,3.,6.                                                                        # sleeps of so many times the host's time

    def __init__(self, cuda=torch.cuda):
        self.cuda = cuda
        self.left = [*self.margins]                                                            # those that are not known to be too short

    def sync(self): self.cuda.synchronize()

    def host_and_wall(self, step):
        self.sync()
        start = time.perf_counter()
        step()
        host  = time.perf_counter()-start
        self.sync()
        return host,time.perf_counter()-start

    def wall(self, step): return self.host_and_wall(step)[1]

    def device(self, step, sleep):
        "Seconds of the device for `step()`, and whether it slept `sleep` seconds for as long as the host was at work"
        begin,end = (self.cuda.Event(enable_timing=True) for _ in range(2))
        self.sync()
        self.cuda._sleep(int(sleep*cycles_a_second(self.cuda)))
        begin.record()
        step()
        end.record()
        hidden = not begin.query()
        self.sync()
        return begin.elapsed_time(end)/1e3,hidden

    def turn(self, step, prepare):
        """Seconds of two steps, each after `prepare()`: `host` and `wall` of the first, and of the second the device's, `ms`. `hidden` is False where
        no sleep is long enough: the step waits for the device, or has more launches than can be queued"""
        prepare()
        host,wall = self.host_and_wall(step)
        while True:
            prepare()
            margin = [*self.left, *self.margins][0]
            device,hidden = self.device(step, margin*host + 1e-4)
            if not hidden:
                self.left = self.left[1:]
            if hidden or not self.left:
                return dict(ms=device, host=host, wall=wall, hidden=hidden)

@cache
def cycles_a_second(cuda):
    "What `torch.cuda._sleep` counts, in a second"
    n = 10_000_000
    for _ in range(2):                                                                         # the first call loads the kernel
        begin,end = (cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        cuda._sleep(n)
        end.record()
        cuda.synchronize()
    return n/(begin.elapsed_time(end)/1e3)

def settle(seconds=600):
    "Wait for compilers that an interrupted step has left running: they take time from the others"
    compilers = ['pgrep', '-s', '0', '-x', 'cc1plus']
    with contextlib.suppress(OSError):
        while seconds>0 and subprocess.run(compilers, stdout=subprocess.DEVNULL).returncode==0:
            time.sleep(2)
            seconds -= 2

def why(e: BaseException) -> str:
    "An error in one line"
    text = ' '.join(str(e).split())
    return text if isinstance(e, (Absent,TimeUp)) else f'{type(e).__name__}: {text}'


# -- Memory --

def live_bytes():
    "Bytes of all tensors that Python holds"
    gc.collect()
    tensors  = [o for o in gc.get_objects() if type(o) in (torch.Tensor,torch.nn.Parameter)]
    storages = [t.untyped_storage() for t in tensors if t.layout==torch.strided and not t.is_meta]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())

def proc(file, key):
    "The value of `key` in a file of /proc; None where there is none"
    with contextlib.suppress(OSError):
        for line in Path('/proc', file).read_text().splitlines():
            name,_,value = line.partition(':')
            if name.strip()==key:
                return value.strip()

def free_bytes(device):
    if device.type=='cuda':
        return torch.cuda.mem_get_info(device)[0]
    kilobytes = proc('meminfo', 'MemAvailable')
    return int(kilobytes.split()[0])*1024 if kilobytes else 8<<30

def held(run):
    "Bytes that torch's CPU allocator holds after each of its changes during `run()`, beyond those from before; first 0"
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')                                            # else the profiler reports its start and end
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, 'trace.json')
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(errors='replace'))['traceEvents']
    changes = [e for e in events if e.get('name')=='[memory]']
    changes.sort(key=lambda e: e['ts'])
    return [*accumulate((e['args']['Bytes'] for e in changes), initial=0)]

def most_allocated(step):
    "The most bytes that torch's CPU allocator holds during `step`, beyond those from before"
    return max(held(step))

def most_allocated_cuda(step):
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()-before

def forget():
    "Free what earlier contenders held. dynamo counts recompilations anew"
    if '_dynamo' in vars(torch):
        torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()

@contextlib.contextmanager
def aside():
    "Hide all objects that exist from the garbage collector, which would take longer to visit them than most steps take"
    forget()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


# -- Measuring --

def random_tensors(shape, device, seed, std):
    rand = torch.Generator(device).manual_seed(seed)
    return [torch.randn(s, generator=rand, device=device)*std for s in shape.sizes]

def groups_of(step):
    "The param groups of the optimizer whose method `step` is, perhaps compiled; fastai's are called `hypers`. Raises `Absent` where there is none"
    opt = getattr(step, '__self__', None) or getattr(getattr(step, '__wrapped__', None), '__self__', None)
    if opt is None:
        raise Absent("its step is no method of an optimizer, which has an lr to change")
    return opt.param_groups if isinstance(opt, torch.optim.Optimizer) else opt.hypers

class Side:
    "A contender with parameters and gradients of its own. The constructor takes the warm-up steps, and raises `TimeUp` after `patience` seconds"
    def __init__(self, contender, algorithm, shape, grads, patience, clock=None):
        self.contender,self.grads,self.cuda = contender,grads,grads[0].is_cuda
        self.times,self.n_steps = [],0                                                         # seconds: of the device on a GPU
        self.turns = []                                                                        # the same with those of the host
        self.clock = clock or (CudaClock if self.cuda else HostClock)()
        bytes_before = live_bytes()
        self.params  = [torch.nn.Parameter(t.to(contender.dtype)) for t in random_tensors(shape, grads[0].device, 0, 0.1)]
        self.own     = [g.to(contender.dtype, copy=True) for g in grads]
        ends   = self.params[0],self.params[-1]
        before = [p.detach().clone() for p in ends]
        with limit(patience):
            start = time.perf_counter()
            self.step  = contender.make(algorithm, shape.groups(self.params, contender.merged), algorithms[algorithm])
            self.rates = [(g, g['lr']) for g in groups_of(self.step)] if shape.schedule else []
            self.made  = time.perf_counter()-start
            self.first = self.timed()
            self.warm  = self.made + self.first + sum(self.timed() for _ in range(warm_up-1))
        if contender.library!='memory':
            check_moved(before, ends)
        del before
        more      = live_bytes() - bytes_before
        self.held = more - 2*sum(p.nbytes for p in self.params) - int(self.state(algorithm))   # without parameters, gradients and state

    def state(self, algorithm):
        "Bytes of state: of genopt's optimizer as it stores them, of another as many as the algorithm needs in the dtype of the parameters"
        opt = getattr(self.step, '__self__', None)
        return opt.explain().state if isinstance(opt, genopt.Optimizer) else needs(algorithm)[0]*sum(p.nbytes for p in self.params)

    def restore(self):
        "Restore every gradient, in its place: some libraries write into it, drop it, or move it to memory of their own"
        for i,p in enumerate(self.params):
            if p.grad is None:
                p.grad = self.own[i]
            self.own[i] = p.grad
        torch._foreach_copy_(self.own, self.grads)

    def schedule(self):
        "Set the learning rate of the next step, a little lower than that of the last"
        self.n_steps += 1
        for group,lr in self.rates:
            group['lr'] = lr/(1 + 1e-4*self.n_steps)

    def prepare(self):
        self.restore()
        self.schedule()

    def timed(self):
        "The seconds of one step, to the end of its work"
        self.prepare()
        return self.clock.wall(self.step)

    def turn(self):
        "Take the times of a step: one of `times`, and one of `turns`"
        self.turns.append(self.clock.turn(self.step, self.prepare))
        self.times.append(self.turns[-1]['ms'])

    def allocated(self):
        "The most bytes that one step allocates"
        self.restore()
        return (most_allocated_cuda if self.cuda else most_allocated)(self.step)

    def peak(self):
        "Bytes beyond parameters, gradients and state: those kept between steps, and those of a step; of two steps the lower, one may fill a cache"
        if self.contender.library=='memory' or self.params[0].device.type not in ('cpu','cuda'):
            return None
        return max(0, self.held) + min(self.allocated(), self.allocated())

    def row(self):
        ms = [t*1e3 for t in self.times]
        low,mid,high = statistics.quantiles(ms, n=4) if len(ms)>1 else ms*3
        more = {k: statistics.median(t[k] for t in self.turns)*1e3 for k in ('host','wall') if k in self.turns[0]}
        if more:
            more['hidden'] = all(t['hidden'] for t in self.turns)
        return dict(ms=mid, best=min(ms), low=low, high=high, made=self.made, first=self.first, warm=self.warm) | more

def check_moved(before, after):
    for old,new in zip(before, after):
        if torch.equal(old, new) or not new.isfinite().all():
            raise Absent("its step leaves parameters as they were, or makes them infinite")

def take_turns(sides, rounds):
    "One step of each side in every round; the order of the sides is reversed from round to round"
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            for side in sides[::-1] if i%2 else sides:
                side.turn()
    finally:
        gc.enable()

def variants(contender, shape):
    "`contender`, and where the shape has many groups, the same with few"
    if not shape.settings or contender.library=='memory':
        return [contender]
    return [contender, replace(contender, name=f'{contender.name}, {len(shape.settings)} groups', merged=True)]

def measure(
    algorithm: str,
    shape: str,
    contenders=contenders,
    baseline: str|None=None,    # the contender whose median is 1; by default the first of `baselines` that takes part
    rounds: int|None=None,      # steps of each; by default those of the shape
    device='cpu',
    patience: float=120.,       # seconds; a contender that takes longer for its first steps is absent
    memory: float|None=None,    # bytes to use; contenders that do not fit together come in several crews, each with the baseline
    peaks: bool=True,           # measure memory too
) -> dict:
    """Measure the steps of `contenders` in turns. Returns all that was measured, ready for JSON; times of a step are milliseconds, others seconds.
    On a GPU `ms`, its quartiles and `ratio` are of the device; `host`, `wall` and `host_ratio` stand beside them.
    Raises `ValueError` for an unknown name, for a device other than cpu and cuda, and for fewer rounds than 1."""
    s = shapes[one_of(shape, shapes, 'shape')]
    state,traffic = needs(one_of(algorithm, algorithms, 'algorithm'))
    rounds = s.rounds if rounds is None else rounds
    at_least(1, rounds=rounds)
    contenders_on(device)
    contenders = sum((variants(c, s) for c in contenders), [])
    rows = {c.name: dict(name=c.name) for c in contenders}
    if baseline is not None:
        one_of(baseline, rows, 'baseline')
    device = torch.device(device)
    grads  = random_tensors(s, device, 1, 0.01)
    nbytes = sum(g.nbytes for g in grads)
    if memory is None:
        memory = free_bytes(device)*0.7 - 4*nbytes                                             # what one step at a time may allocate
    needed = {c.name: nbytes*(traffic if c.library=='memory' else 3+state) for c in contenders}
    def order(c):
        return c.name!=baseline,[*baselines, c.name].index(c.name),c.library in ('genopt','memory')
    queue  = sorted(contenders, key=order)
    make   = partial(Side, algorithm=algorithm, shape=s, grads=grads, patience=patience)
    base   = None
    with aside():
        while queue:
            base = measure_crew(queue, base, make, needed, memory, rounds, peaks, rows)
    return result(algorithm, shape, device, rounds, base and base.name, [*rows.values()])

def result(algorithm, shape, device, rounds, baseline, rows):
    "What `measure` returns"
    s = shapes[shape]
    return dict(case='step', algorithm=algorithm, shape=shape, about=s.about, tensors=len(s.sizes), elements=s.numel, device=str(device),
                rounds=rounds, baseline=baseline, load=load(), threads=torch.get_num_threads(), rows=rows)

def measure_crew(queue, base, make, needed, memory, rounds, peaks, rows):
    "Measure into `rows` the contenders of `queue` that fit into memory beside the baseline. Returns the baseline, at first the first that takes part"
    forget()
    crew = [make(base)] if base else []
    known = len(crew)
    enlist(queue, crew, make, needed, memory, rows)
    if len(crew)>known:
        take_turns(crew, rounds)
    for side in crew[known:]:
        row  = rows[side.contender.name]
        one  = crew[0].row()
        row |= side.row()
        row['ratio'] = row['ms']/one['ms']
        if 'host' in row:
            row['host_ratio'] = row['host']/one['host']
        row['peak']  = side.peak() if peaks else None
    return crew[0].contender if crew else None

def enlist(queue, crew, make, needed, memory, rows):
    "Move contenders from `queue` into `crew` until it has two, and then while memory has room. The error of a contender goes into `rows`"
    while queue and (len(crew)<2 or sum(needed[side.contender.name] for side in crew) + needed[queue[0].name]<=memory):
        contender = queue.pop(0)
        try:
            crew.append(make(contender))
        except (Exception, TimeUp) as e:
            rows[contender.name]['absent'] = why(e)
            if isinstance(e, TimeUp):
                settle()

def load(): return round(os.getloadavg()[0], 2) if hasattr(os, 'getloadavg') else None

def machine(device='cpu') -> dict:
    "What a number depends on beside the code"
    name = f"{proc('cpuinfo', 'model name') or platform.processor()}, {torch.backends.cpu.get_cpu_capability()}"
    more = {}
    if torch.device(device).type=='cuda':
        name = torch.cuda.get_device_name(device)
        more = dict(driver=driver(), cuda=torch.version.cuda, triton=version('triton'))
    return dict(device=name, **more, threads=torch.get_num_threads(), torch=torch.__version__, genopt=genopt.__version__,
                python=platform.python_version(), date=datetime.now().astimezone().isoformat(timespec='seconds'))

@cache
def driver():
    "The version of NVIDIA's driver, or None"
    ask = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return subprocess.run(ask, capture_output=True, text=True, timeout=20).stdout.partition('\n')[0].strip() or None

def version(package):
    "The version of an installed package, or None"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)


# -- Showing --

def report(res: dict) -> str:
    "The result of `measure` as a table, and below it who was absent and why"
    measured = [r for r in res['rows'] if 'ms' in r]
    on_gpu   = any('host' in r for r in measured)
    columns  = gpu_columns if on_gpu else cpu_columns
    rows = [[column(r) for column in columns.values()] for r in measured]
    head = [*columns]
    busy = res['load'] or 0
    what = (f"{res['algorithm']} on {res['shape']} ({res['about']}: {plural(res['tensors'], 'tensor')}, {res['elements']:,} elements), "
            f"{res['rounds']} rounds on {res['device']}, ratio to {res['baseline']}{f', load {busy}' if busy else ''}")
    if busy>(res['threads'] or 0)+.5:
        what += '\nOTHERS RUN ON THIS MACHINE: threads wait for each other, and these numbers mean little'
    if on_gpu:
        what += '\ndevice: between events, the host hidden behind a sleep; host: until step() returns; wall: until its work is done'
    if not all(r.get('hidden', True) for r in measured):
        what += '\n*: the step waits for the device or fills its queue, so device time has host time in it'
    return with_absent(what, head, rows, res)

def middle(r): return f"{r['low']:.3f} - {r['high']:.3f}"
def more_memory(r): return '-' if r['peak'] is None else size(r['peak'])

cpu_columns = {'contender':   lambda r: r['name'],
               'ms/step':     lambda r: f"{r['ms']:.3f}",
               'middle half': middle,
               'ratio':       lambda r: f"{r['ratio']:.3f}",
               'warm-up, s':  lambda r: f"{r['warm']:.2f}",
               'more memory': more_memory}
gpu_columns = {'contender':   lambda r: r['name'],
               'device, ms':  lambda r: f"{r['ms']:.4f}{'' if r['hidden'] else '*'}",
               'middle half': lambda r: f"{r['low']:.4f} - {r['high']:.4f}",
               'ratio':       lambda r: f"{r['ratio']:.3f}",
               'host, ms':    lambda r: f"{r['host']:.3f}",
               'host ratio':  lambda r: f"{r['host_ratio']:.3f}",
               'wall, ms':    lambda r: f"{r['wall']:.3f}",
               'warm-up, s':  lambda r: f"{r['warm']:.2f}",
               'more memory': more_memory}

def with_absent(what, head, rows, res):
    "A line about the measurement `res`, its table, and a line for each reason that kept contenders away"
    absent = {}
    for r in res['rows']:
        if 'absent' in r:
            absent.setdefault(r['absent'], []).append(r['name'])
    shown = table(head, rows, right=range(1, len(head))) if rows else 'nobody took part'
    return '\n'.join([what, '', shown, *(f"absent: {', '.join(names)}: {reason[:200]}" for reason,names in absent.items())])
