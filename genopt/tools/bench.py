"""How long a step takes beside others', measured in turns in one process: the shapes, the contenders of genopt and torch, the measure
and its table. `genopt bench` shows it; the folder `benchmarks` adds the peers."""

import contextlib,gc,json,os,platform,signal,statistics,subprocess,tempfile,threading,time
from dataclasses import dataclass
from datetime import datetime
from functools import cache,partial
from pathlib import Path
import torch
import genopt
from ..optim.tables import plural,size,table
from .. import algorithms as algos

__all__ = ['Absent', 'Contender', 'Shape', 'algorithms', 'contenders', 'machine', 'measure', 'pick', 'report', 'shapes', 'usual']


# -- What is stepped over --

@dataclass
class Shape:
    "The shapes of a model's parameters. With `settings`, every tensor is a group, tensor `i` with setting `i % len(settings)`"
    about: str
    sizes: list
    rounds: int
    settings: tuple = ()
    @property
    def numel(self): return sum(torch.Size(s).numel() for s in self.sizes)
    def groups(self, params, merged=False):
        "`params` as param groups; `merged`: one group for each distinct setting"
        n = len(self.settings)
        if not n: return [dict(params=params)]
        if merged: return [dict(params=params[i::n], **s) for i,s in enumerate(self.settings)]
        return [dict(params=[p], **self.settings[i%n]) for i,p in enumerate(params)]

def mlp(*widths): return [s for a,b in zip(widths, widths[1:]) for s in ((b,a), (b,))]

def resnet(depths, expand):
    "torchvision's: `depths` blocks in each stage; `expand` 1 is the block of ResNet-18, 4 the bottleneck of ResNet-50"
    def conv(n_out, n_in, k): return [(n_out,n_in,k,k), (n_out,), (n_out,)]                    # and the weight and bias of its batch norm
    res,n_in = conv(64, 3, 7),64
    for stage,depth in enumerate(depths):
        n,n_out = 64<<stage,(64<<stage)*expand
        for _ in range(depth):
            res += conv(n, n_in, 3)+conv(n, n, 3) if expand==1 else conv(n, n_in, 1)+conv(n, n, 3)+conv(n_out, n, 1)
            if n_in!=n_out: res += conv(n_out, n_in, 1)
            n_in = n_out
    return [*res, (1000,n_in), (1000,)]

def gpt2(layers=12, n=768, vocabulary=50257, context=1024):
    norm,linear = [(n,), (n,)],lambda a,b: [(a,b), (b,)]
    return [(vocabulary,n), (context,n), *layers*(norm+linear(n,3*n)+linear(n,n)+norm+linear(n,4*n)+linear(4*n,n)), *norm]

three = dict(lr=1e-3, weight_decay=0.01),dict(lr=3e-4, weight_decay=0.01),dict(lr=1e-3, weight_decay=0.)
mixed = [(256,), (256,256), (256,), (1024,), (256,64)]                                         # 5 sizes and 3 settings: every pair occurs
shapes = dict(six       = Shape('an MLP 10-50-50-10', mlp(10,50,50,10), 500),
              resnet18  = Shape('ResNet-18', resnet((2,2,2,2), 1), 40),
              resnet50  = Shape('ResNet-50', resnet((3,4,6,3), 4), 30),
              gpt2      = Shape('GPT-2 small', gpt2(), 12),
              k256      = Shape('1000 tensors of 256', [(256,)]*1000, 100),
              groups465 = Shape('465 groups with 3 settings', mixed*93, 40, three))


# -- Who steps --

class Absent(Exception): "Why a contender does not take part"

@dataclass
class Contender:
    "`make(algorithm, groups, settings)` returns the step, a function of nothing; raises `Absent`, or what its library raises"
    name: str
    make: object
    merged: bool = False
    @property
    def library(self): return self.name.partition(' ')[0]

usual      = dict(SGD=dict(lr=1e-3, momentum=0.9), RMSprop=dict(lr=1e-3), Adam=dict(lr=1e-3), AdamW=dict(lr=1e-3),
                  Lion=dict(lr=1e-4), LAMB=dict(lr=1e-3), RAdam=dict(lr=1e-3), NAdam=dict(lr=1e-3))
algorithms = {n: usual.get(n, {}) for n in algos.__all__}                                      # the others as they come

@cache
def needs(algorithm):
    "How many times the bytes of a matrix the state takes, and a step has to move"
    p = torch.zeros(64, 64, requires_grad=True)
    told = getattr(genopt, algorithm)([p], **algorithms[algorithm]).explain()
    return told.state/p.nbytes,told.traffic/p.nbytes

def genopt_step(algorithm, groups, settings, **flags):
    name = next((n for n in algos.__all__ if n.lower()==algorithm.lower()), None)
    if not name: raise Absent(f"genopt {genopt.__version__} has no {algorithm}")
    return getattr(genopt, name)(groups, **settings, **flags).step

def torch_step(algorithm, groups, settings, compiled=False, **flags):
    if not hasattr(torch.optim, algorithm): raise Absent(f"torch.optim has no {algorithm}")
    step = getattr(torch.optim, algorithm)(groups, **settings, **flags).step
    return torch.compile(step) if compiled else step

def copy_step(algorithm, groups, settings):
    "Copies half of the bytes that a step has to read (p, gradient, state) and write (p, state)"
    ps = [p for g in groups for p in g['params']]
    n  = int(sum(p.nbytes for p in ps)*needs(algorithm)[1]/2)
    a,b = (torch.ones(n//4, device=ps[0].device) for _ in range(2))
    return partial(b.copy_, a)

contenders = [Contender('torch fused',    partial(torch_step, fused=True)),
              Contender('torch foreach',  partial(torch_step, foreach=True)),
              Contender('torch default',  torch_step),
              Contender('torch loop',     partial(torch_step, foreach=False)),
              Contender('torch compiled', partial(torch_step, compiled=True)),
              Contender('genopt loop',    partial(genopt_step, foreach=False)),
              Contender('genopt foreach', partial(genopt_step, foreach=True)),
              Contender('genopt default', genopt_step),
              Contender('genopt fused',   partial(genopt_step, fused=True)),
              Contender('memory copy',    copy_step)]
baselines  = 'torch fused','torch default'                                                     # the first that takes part; or else any, not ours

def pick(words, among):
    "Those of `among` that the comma-separated `words` name: whole names or their first words, as in 'genopt, torch fused'"
    if words is None: return [*among]
    words = [w.strip() for w in words.split(',') if w.strip()]
    hit = lambda w,n: f'{n} '.startswith(f'{w} ')
    if bad := [w for w in words if not any(hit(w, n) for n in among)]: raise ValueError(f"no {bad[0]!r}; there is {', '.join(among)}")
    return [n for n in among if any(hit(w, n) for w in words)]


# -- Measuring --

warm_up = 10            # steps: past the branch of RAdam at the sixth, and past the eight recompilations after which dynamo gives up

class TimeUp(BaseException): "Raised amid a step that takes too long; no `except Exception` of a compiler swallows it"

@contextlib.contextmanager
def limit(seconds):
    "Raise `TimeUp` in the block after `seconds`, where the system has alarms"
    if not hasattr(signal, 'SIGALRM') or threading.current_thread() is not threading.main_thread() or not seconds:
        yield
        return
    def up(*_): raise TimeUp(f"gave up after {seconds:g} s")
    old = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)

def settle(seconds=600):
    "Wait for compilers that a step which was given up has left running: they would take time from the others"
    with contextlib.suppress(OSError):
        while seconds>0 and subprocess.run(['pgrep', '-s', '0', '-x', 'cc1plus'], stdout=subprocess.DEVNULL).returncode==0:
            time.sleep(2)
            seconds -= 2

def live_bytes():
    "Bytes of all tensors that Python holds"
    gc.collect()
    plain = torch.Tensor,torch.nn.Parameter
    kept  = [o.untyped_storage() for o in gc.get_objects() if type(o) in plain and o.layout==torch.strided and not o.is_meta]
    return sum({s.data_ptr(): s.nbytes() for s in kept}.values())

def random_tensors(shape, device, seed, std):
    g = torch.Generator(device).manual_seed(seed)
    return [torch.randn(s, generator=g, device=device)*std for s in shape.sizes]

class Side:
    "One contender with parameters and gradients of its own. It is warmed up at once"
    def __init__(self, contender, algorithm, shape, grads, patience):
        self.contender,self.grads,self.times,self.cuda = contender,grads,[],grads[0].is_cuda
        live = live_bytes()
        self.params = [torch.nn.Parameter(t) for t in random_tensors(shape, grads[0].device, 0, 0.1)]
        self.own = [g.clone() for g in grads]
        before = [p.detach().clone() for p in (self.params[0], self.params[-1])]
        with limit(patience):
            start = time.perf_counter()
            self.step = contender.make(algorithm, shape.groups(self.params, contender.merged), algorithms[algorithm])
            self.made = time.perf_counter()-start
            self.first = self.timed()
            self.warm = self.made+self.first+sum(self.timed() for _ in range(warm_up-1))
        after = self.params[0],self.params[-1]
        if contender.library!='memory' and any(torch.equal(a, b) or not b.isfinite().all() for a,b in zip(before, after)):
            raise Absent("its step leaves parameters as they were, or makes them infinite")
        del before,after
        self.held = live_bytes()-live-int((2+needs(algorithm)[0])*sum(p.nbytes for p in self.params))

    def restore(self):
        "Every gradient as it was, and where it was: some libraries change it, drop it, or move it to a place of their own"
        for i,p in enumerate(self.params):
            if p.grad is None: p.grad = self.own[i]
            self.own[i] = p.grad
        torch._foreach_copy_(self.own, self.grads)

    def sync(self):
        if self.cuda: torch.cuda.synchronize()

    def timed(self):
        "The seconds of one step"
        self.restore()
        self.sync()
        start = time.perf_counter()
        self.step()
        self.sync()
        return time.perf_counter()-start

    def peak(self):
        "Bytes beyond parameters, gradients and state: those kept between steps, and the most that a step allocates; of two, one may be warmer"
        if self.contender.library=='memory' or self.params[0].device.type not in ('cpu','cuda'): return None
        return max(0, self.held)+min(self.allocated(), self.allocated())

    def allocated(self):
        "The most bytes that a step allocates beyond what it finds, by the allocator's own account"
        self.restore()
        if self.cuda:
            self.sync()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step()
            self.sync()
            return torch.cuda.max_memory_allocated()-before
        os.environ.setdefault('KINETO_LOG_LEVEL', '99')                                        # it reports its own start and end otherwise
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof: self.step()
        with tempfile.TemporaryDirectory() as tmp:
            prof.export_chrome_trace(f'{tmp}/trace.json')
            events = json.loads(Path(f'{tmp}/trace.json').read_text(errors='replace'))['traceEvents']
        now = most = 0
        for e in sorted((e for e in events if e.get('name')=='[memory]'), key=lambda e: e['ts']): most = max(most, now := now+e['args']['Bytes'])
        return most

    def row(self):
        low,mid,high = statistics.quantiles(self.times, n=4) if len(self.times)>1 else self.times*3
        ms = dict(ms=mid, best=min(self.times), low=low, high=high)
        return {k: v*1e3 for k,v in ms.items()} | dict(made=self.made, first=self.first, warm=self.warm)

def free_memory(device):
    if device.type=='cuda': return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError, ValueError, StopIteration):
        return int(next(line for line in open('/proc/meminfo') if line.startswith('MemAvailable')).split()[1])*1024
    return 8<<30

def take_turns(sides, rounds):
    "One step of each side in every round, forth and back"
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            for s in sides[::-1] if i%2 else sides: s.times.append(s.timed())
    finally: gc.enable()

def why(e):
    "An error in one line"
    return ' '.join(([] if isinstance(e, (Absent,TimeUp)) else [f'{type(e).__name__}:']) + str(e).split())

def measure(algorithm, shape, contenders=contenders, baseline=None, rounds=None, device='cpu', patience=120., memory=None, peaks=True):
    """The steps of `contenders` in turns; all that was measured, as a `dict` ready for JSON. `baseline`: whose median is 1, by default the
    first of `baselines` that takes part. A contender whose making and first steps take over `patience` seconds is absent. Where not all
    have room in `memory` bytes they come in several crews, each with the baseline. `peaks`: measure memory as well."""
    if algorithm not in algorithms: raise ValueError(f"no algorithm {algorithm!r}; there is {', '.join(algorithms)}")
    if shape not in shapes: raise ValueError(f"no shape {shape!r}; there is {', '.join(shapes)}")
    s,device,wanted = shapes[shape],torch.device(device),[baseline, *baselines]
    if rounds is not None and rounds<1: raise ValueError(f"rounds must be 1 or more, got {rounds}")
    if s.settings:
        fewer = lambda c: Contender(f'{c.name}, {len(s.settings)} groups', c.make, True)
        contenders = [o for c in contenders for o in ([c] if c.library=='memory' else [c, fewer(c)])]
    if baseline is not None and baseline not in [c.name for c in contenders]: raise ValueError(f"baseline {baseline!r} is not among the contenders")
    grads,rows = random_tensors(s, device, 1, 0.01),{c.name: dict(name=c.name) for c in contenders}
    word  = s.numel*grads[0].element_size()
    need  = lambda c: word*(needs(algorithm)[1] if c.library=='memory' else 3+needs(algorithm)[0])
    if memory is None: memory = free_memory(device)*0.7-4*word                                 # what one step at a time may allocate
    queue = sorted(contenders, key=lambda c: wanted.index(c.name) if c.name in wanted else len(wanted)+(c.library in ('genopt','memory')))
    base  = None
    with aside():
        while queue:
            forget()
            crew = [Side(base, algorithm, s, grads, patience)] if base else []
            while queue and (len(crew)<2 or sum(need(o.contender) for o in crew)+need(queue[0])<=memory):
                c = queue.pop(0)
                try: crew.append(Side(c, algorithm, s, grads, patience))
                except (Exception, TimeUp) as e:
                    rows[c.name]['absent'] = why(e)
                    if isinstance(e, TimeUp): settle()
            new,base = crew[bool(base):],base or crew and crew[0].contender
            if not new: break
            take_turns(crew, rounds or s.rounds)
            unit = crew[0].row()['ms']
            for side in new: rows[side.contender.name] |= (row := side.row()) | dict(ratio=row['ms']/unit, peak=side.peak() if peaks else None)
            del crew,new,side
    return dict(case='step', algorithm=algorithm, shape=shape, about=s.about, tensors=len(s.sizes), elements=s.numel, device=str(device),
                rounds=rounds or s.rounds, baseline=base.name if base else None, load=load(), threads=torch.get_num_threads(),
                rows=[*rows.values()])

@contextlib.contextmanager
def aside():
    "Have the garbage collector pass over all that is there, which takes it longer than most steps take"
    forget()
    gc.freeze()
    try: yield
    finally: gc.unfreeze()

def forget():
    "Free what earlier contenders held; dynamo counts recompilations anew"
    if '_dynamo' in vars(torch): torch._dynamo.reset()
    gc.collect()

def load(): return round(os.getloadavg()[0], 2) if hasattr(os, 'getloadavg') else None

def machine(device='cpu'):
    "What a number depends on beyond the code"
    cpu = platform.processor()
    with contextlib.suppress(OSError, StopIteration):
        cpu = next(line for line in open('/proc/cpuinfo') if line.startswith('model name')).split(':')[1].strip()
    name = torch.cuda.get_device_name(device) if torch.device(device).type=='cuda' else f'{cpu}, {torch.backends.cpu.get_cpu_capability()}'
    return dict(device=name, threads=torch.get_num_threads(), torch=torch.__version__, genopt=genopt.__version__, python=platform.python_version(),
                date=datetime.now().astimezone().isoformat(timespec='seconds'))


# -- Showing --

def report(res):
    "One measurement as a table, and below it who was absent and why"
    rows,show = [],lambda v,f: '-' if v is None else format(v, f)
    for r in res['rows']:
        if 'ms' in r:
            rows.append([r['name'], f"{r['ms']:.3f}", f"{r['low']:.3f} - {r['high']:.3f}", show(r['ratio'], '.3f'),
                         f"{r['warm']:.2f}", '-' if r['peak'] is None else size(r['peak'])])
    head = ['contender', 'ms/step', 'middle half', 'ratio', 'warm-up, s', 'more memory']
    what = (f"{res['algorithm']} on {res['shape']} ({res['about']}: {plural(res['tensors'], 'tensor')}, {res['elements']:,} elements), "
            f"{res['rounds']} rounds on {res['device']}, ratio to {res['baseline']}"
            f"{', load '+str(res['load']) if res['load'] else ''}")
    if (res['load'] or 0)>(res['threads'] or 0)+.5: what += '\nOTHERS RUN ON THIS MACHINE: threads wait for each other, and these numbers mean little'
    absent = {}
    for r in res['rows']:
        if 'absent' in r: absent.setdefault(r['absent'], []).append(r['name'])
    return '\n'.join([what, '', table(head, rows, right=range(1, 6)) if rows else 'nobody took part',
                      *(f"absent: {', '.join(names)}: {reason[:200]}" for reason,names in absent.items())])
