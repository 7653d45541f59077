"""`genopt bench` and the folder benchmarks: in turns, with gradients restored, nobody dropped in silence, and goals that can be missed."""

import contextlib,json
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
import pytest,torch
import genopt
from genopt.tools import bench,contenders as contenders_of
from genopt.tools.bench import Absent,Side,contenders,measure,pick,report,shapes
from genopt.tools.cli import main
from genopt.tools.contenders import Contender

root  = Path(__file__).parent.parent
few   = [c for c in contenders if c.name in ('torch fused', 'torch default', 'genopt loop', 'memory copy')]
quick = dict(rounds=4, patience=300)


@pytest.fixture(autouse=True)
def one_thread():
    "What is tested here is not speed, and threads that wait for each other are slow on a busy machine"
    with bench.one_thread(): yield

@pytest.fixture
def suite(benchmark, monkeypatch):
    "Modules of benchmarks, whose cases run in this process"
    monkeypatch.setattr(benchmark('cases'), 'isolated', lambda f, *args, env=None: f(*args))
    return benchmark

def test_shapes():
    assert {n: (len(s.sizes), s.numel) for n,s in shapes.items()}==dict(six=(6,3610), resnet18=(62,11_689_512), resnet50=(161,25_557_032),
        gpt2=(148,124_439_808), k256=(1000,256_000), groups465=(465,7_761_408),
        six_scheduled=(6,3610), groups465_scheduled=(465,7_761_408), b1=(292,1_017_302_272), k10000=(10_000,2_560_000),
        gpt2_matrices=(48,84_934_656))
    s = shapes['groups465']
    groups,merged = s.groups(range(465)),s.groups(range(465), True)
    assert len(groups)==465 and len(merged)==3 and sorted(p for g in merged for p in g['params'])==[*range(465)]
    setting = lambda g: {k: v for k,v in g.items() if k!='params'}
    assert all(setting(g)==setting(next(m for m in merged if g['params'][0] in m['params'])) for g in groups)

@pytest.mark.parametrize('name', ['resnet18', 'resnet50'])
def test_resnets_are_torchvisions(name):
    models = pytest.importorskip('torchvision.models')
    with torch.device('meta'): model = getattr(models, name)()
    assert [tuple(p.shape) for p in model.parameters()]==shapes[name].sizes

def test_measure_in_turns():
    "Rows in the order of the contenders, each stepped once a round, forth and back; the baseline's ratio is 1"
    order = []
    def make(name, lr, algorithm, groups, settings):
        opt = torch.optim.SGD(groups, lr=lr)
        def step():
            order.append(name)
            opt.step()
        return step
    res = measure('SGD', 'six', [Contender(n, partial(make, n, .1)) for n in 'abc'], baseline='b', **quick)
    assert [r['name'] for r in res['rows']]==['a','b','c'] and res['rows'][1]['ratio']==1 and res['baseline']=='b'
    warm = 3*bench.warm_up
    assert ''.join(order[warm:warm+12])=='bac'+'cab'+'bac'+'cab'
    for r in res['rows']: assert 0<r['best']<=r['low']<=r['ms']<=r['high'] and 0<=r['peak']<2e5 and r['warm']>=r['first']
    json.dumps(res)

@pytest.mark.parametrize('lib', [genopt, torch.optim], ids=['genopt','torch'])
def test_a_schedule_sets_a_new_rate_before_each_step(lib):
    s,rates = shapes['six_scheduled'],[]
    class Watched(lib.SGD):
        def step(self, closure=None):
            rates.append([g['lr'] for g in self.param_groups])
            return super().step(closure)
    def make(algorithm, groups, settings): return Watched([dict(params=g['params'], lr=lr) for g in groups for lr in (.1,)], lr=1.).step
    grads = bench.random_tensors(s, 'cpu', 1, .01)
    Side(Contender('a', make), 'SGD', s, grads, None)
    assert len(rates)==bench.warm_up and [r[0] for r in rates]==[.1/(1+1e-4*i) for i in range(1, bench.warm_up+1)]
    del rates[:]
    Side(Contender('a', make), 'SGD', shapes['six'], grads, None)
    assert rates==[[.1]]*bench.warm_up
    with pytest.raises(Absent, match='no method of an optimizer'): Side(Contender('memory copy', lambda *_: lambda: None), 'SGD', s, grads, None)

def test_every_step_finds_the_same_gradients():
    "Also after a step that dropped them, as HeavyBall does, or wrote into them, as fastai does"
    s,seen = shapes['six'],[]
    grads = bench.random_tensors(s, 'cpu', 1, .01)
    def make(algorithm, groups, settings):
        def step():
            ps = groups[0]['params']
            seen.append(all(torch.equal(p.grad, g) for p,g in zip(ps, grads)))
            with torch.no_grad():
                for p in ps:
                    p -= p.grad
                    p.grad.add_(1)
                    p.grad = None
        return step
    side = Side(Contender('a', make), 'Adam', s, grads, None)
    side.timed(), side.allocated()
    assert len(seen)==bench.warm_up+2 and all(seen)

class PretendedCuda:
    "Stands in for torch.cuda, on a clock of its own, `host`. `_sleep` and `launch` queue work that begins when the last is done; `ready`: when all is done"
    cycles = 1e9
    def __init__(self): self.host = self.ready = 0.
    def synchronize(self): self.host = max(self.host, self.ready)
    def launch(self, seconds): self.ready = max(self.host, self.ready)+seconds
    def _sleep(self, n): self.launch(n/self.cycles)
    def Event(self, enable_timing): return PretendedEvent(self)

class PretendedEvent:
    def __init__(self, cuda): self.cuda = cuda
    def record(self): self.at = max(self.cuda.host, self.cuda.ready)
    def query(self): return self.cuda.host>=self.at
    def elapsed_time(self, other): return 1e3*(other.at-self.at)

@pytest.mark.parametrize('host,device,waits,expected', [(.002, .001, False, dict(ms=.001,  host=.002, wall=.002,  hidden=True)),
                                                        (.001, .004, False, dict(ms=.004,  host=.001, wall=.0041, hidden=True)),
                                                        (.002, .001, True,  dict(ms=.0029, host=.003, wall=.003,  hidden=False))])
def test_times_on_a_gpu(monkeypatch, host, device, waits, expected):
    "The device's time has none of the host's, unless the step waits; then longer sleeps are tried, once. The launch comes 0.1 ms after the step's begin"
    cuda  = PretendedCuda()
    clock = bench.CudaClock(cuda)
    monkeypatch.setattr(bench.time, 'perf_counter', lambda: cuda.host)
    prepared = []
    def step():
        cuda.host += 1e-4
        cuda.launch(device)
        if waits: cuda.synchronize()
        cuda.host += host-1e-4
    for _ in range(2): assert clock.turn(step, lambda: prepared.append(1))==pytest.approx(expected)
    assert len(prepared)==(1+3 + 1+1 if waits else 4)

def test_a_table_of_a_gpu(monkeypatch):
    "Steps on a CPU, with the clock of a GPU that a host of the same speed launches on"
    cuda = PretendedCuda()
    monkeypatch.setattr(bench, 'HostClock', lambda: bench.CudaClock(cuda))
    monkeypatch.setattr(bench.time, 'perf_counter', lambda: cuda.host)
    def make(host, device, algorithm, groups, settings):
        opt = torch.optim.SGD(groups, lr=.1)
        def step():
            opt.step()
            cuda.launch(device)
            cuda.host += host
        return step
    res = measure('SGD', 'six', [Contender('a', partial(make, .002, .001)), Contender('b', partial(make, .001, .003))], baseline='a', rounds=3)
    a,b = res['rows']
    assert (b['ratio'], b['host_ratio'], b['wall'], a['wall'])==pytest.approx((3, .5, 3, 2)) and a['hidden'] and 'host ratio' in report(res)
    a['hidden'] = False
    assert '1.0000*' in report(res) and 'has host time in it' in report(res)
    json.dumps(res)

def test_a_captured_step():
    "Three steps on another stream, one into the graph, and replays"
    seen = []
    class Graph:
        def replay(self): seen.append('replay')
    class Stream:
        def wait_stream(self, other): pass
    class Cuda:
        def __init__(self): self.Stream,self.current_stream,self.CUDAGraph = Stream,Stream,Graph
        def stream(self, s): return contextlib.nullcontext()
        def graph(self, g): return contextlib.nullcontext(seen.append('capture'))
    step = contenders_of.Captured(lambda: seen.append('step'), Cuda())
    for _ in range(5): step()
    assert seen==['step']*3 + ['capture','step','replay'] + ['replay']
    with pytest.raises(Absent, match='on a GPU'): contenders_of.on_gpu[-2].make('Adam', [dict(params=[torch.ones(1, requires_grad=True)])], {})

def test_crews_that_memory_allows():
    "With room for two at a time all are measured, each crew with the baseline"
    res = measure('Adam', 'six', few, memory=1, **quick)
    assert [r['name'] for r in res['rows']]==[c.name for c in few] and all(r['ratio']>0 for r in res['rows'])

@pytest.mark.slow
def test_absent_with_the_reason():
    def refuse(algorithm, groups, settings): raise Absent('it does not want to')
    def idle(algorithm, groups, settings): return lambda: None
    def fail(algorithm, groups, settings): return lambda: 1/0
    def slow(algorithm, groups, settings): return lambda: bench.time.sleep(30)
    res = measure('Adam', 'six', [Contender(f.__name__, f) for f in (refuse, idle, fail, slow)] + few[:1], rounds=2, patience=2)
    why = {r['name']: r.get('absent') for r in res['rows']}
    assert why=={'refuse': 'it does not want to', 'idle': "its step leaves parameters as they were, or makes them infinite",
                 'fail': 'ZeroDivisionError: division by zero', 'slow': 'gave up after 2 s', few[0].name: None}
    assert 'absent: slow: gave up' in (text := report(res)) and f'{few[0].name} ' in text
    assert 'nobody took part' in report(measure('Lion', 'six', few[:1], rounds=2))

@pytest.mark.slow
def test_memory_beyond_parameters_gradients_and_state():
    "foreach=True allocates a copy of all parameters, the fused kernel next to nothing; what is kept from step to step counts as well"
    def hoard(algorithm, groups, settings):
        opt,kept = torch.optim.Adam(groups, fused=True),torch.ones(1_000_000)
        return lambda: (opt.step(), kept.shape)
    res = measure('Adam', 'k256', [*(c for c in contenders if c.name in ('torch fused', 'torch foreach')), Contender('hoard', hoard)], **quick)
    fused,foreach,hoard = (r['peak'] for r in res['rows'])
    assert fused<10_000 and 1<=foreach/(4*shapes['k256'].numel)<1.1 and 4e6<=hoard<4.02e6

def test_contenders_that_store_fewer_bytes(suite, monkeypatch):
    "Each is among those of the suite, steps on parameters of its dtype, and is no peer; where it would store nothing in another way it is absent"
    monkeypatch.setitem(shapes, 'one', contenders_of.Shape('a matrix', [(64,64), (4,)], 2))
    stored = [c for c in suite('peers').contenders if c in contenders_of.stored]
    names  = ['genopt bfloat16', 'genopt int8', 'genopt extra_bits']
    assert [c.name for c in stored]==names and not any(map(suite('goals').is_peer, names))
    kept = []
    def seen(make, *args):
        step = make(*args)
        kept.append({n: x.dtype for n,x in step.__self__.state[args[1][0]['params'][0]].items() if torch.is_tensor(x)} | dict(p=args[1][0]['params'][0].dtype))
        return step
    res = measure('Lion', 'one', [few[0], few[-1], *(replace(c, make=partial(seen, c.make)) for c in stored)], rounds=2, peaks=False)
    assert all('ratio' in r for r in res['rows'][1:])
    assert kept==[dict(grad_avg=torch.bfloat16, p=torch.float32), {'grad_avg': torch.uint8, 'grad_avg.int8': torch.float32, 'p': torch.float32},
                  {'grad_avg': torch.uint8, 'grad_avg.int8': torch.float32, 'p.low': torch.int8, 'p': torch.bfloat16}]
    absent = [r['absent'] for r in measure('Lion', 'six', [few[-1], *stored[:2]], rounds=2, peaks=False)['rows'][1:]]
    assert all('no state here that store=' in why for why in absent) and len(absent)==2

def test_goals_of_fewer_bytes_are_measured(suite):
    goals = suite('goals')
    plans = {(a, s): names for kind,a,s,names in goals.plan(goals.goals) if kind=='step'}
    for a in ('Adam', 'LAMB', 'Lion'):
        for s in ('resnet50', 'gpt2'): assert {'genopt bfloat16', 'genopt int8', 'genopt extra_bits'}<={*plans[a,s]}

def test_groups_against_few(monkeypatch):
    monkeypatch.setitem(shapes, 'groups9', contenders_of.Shape('9 groups', [(4,), (5,6), (7,)]*3, 3, contenders_of.three_settings))
    res = measure('AdamW', 'groups9', few[-2:], rounds=2)
    assert [r['name'] for r in res['rows']]==['genopt loop', 'genopt loop, 3 groups', 'memory copy']

def test_pick():
    names = [c.name for c in contenders]
    assert pick(None, names)==names and pick('torch fused, genopt', names)==['torch fused', *(n for n in names if n.startswith('genopt'))]
    with pytest.raises(ValueError, match="unknown name 'tor'; choose from torch fused"): pick('tor', names)


# -- The command lines --

@pytest.mark.slow
def test_genopt_bench(tmp_path, capsys):
    out = tmp_path/'b.json'
    assert main(['bench', '--shapes', 'six', '--rounds', '3', '--contenders', 'genopt, torch fused', '--out', str(out)])==0
    text = capsys.readouterr().out
    assert 'Adam on six' in text and 'genopt loop' in text and 'threads' in text
    assert json.loads(out.read_text())['results'][0]['rows'][0]['name']=='torch fused'
    assert main(['bench', '--shapes', 'seven'])==2 and "unknown name 'seven'; choose from six" in capsys.readouterr().err
    assert main(['bench', '--out', 'no/such/b.json'])==2 and main(['bench', '--shapes', 'six', '--rounds', '0'])==2

@pytest.mark.slow
def test_benchmarks(suite, tmp_path, capsys):
    "Two runs into one file; the second adds to the first, and both are shown"
    run,out = suite('__main__').main,str(tmp_path/'b.json')
    quick = ['--shapes', 'six', '--rounds', '3', '--contenders', 'torch default, genopt default, lion-pytorch default', '--out', out]
    assert run([*quick, '--algorithms', 'SGD', '--cases', 'step'])==0
    assert run([*quick, '--algorithms', 'Adam', '--cases', 'step, compilations', '--add'])==0
    assert 'lion-pytorch has no Adam' in (text := capsys.readouterr().out) or "No module named 'lion_pytorch'" in text
    assert run(['--show', '--out', out])==0
    text = capsys.readouterr().out
    assert 'SGD on six' in text and 'Adam on six' in text and 'goals: ' in text and 'genopt default  torch default' in text
    results = json.loads(Path(out).read_text())['results']
    assert len(results)==3 and 'torch' in results[0]['machine']['versions']
    assert run(['--contenders', 'sklearn'])==2 and "unknown name 'sklearn'" in capsys.readouterr().err

@pytest.mark.slow
def test_compilations_are_counted(suite):
    "Steps that compile nothing count none"
    case = suite('cases')
    assert case.compilations('Adam', 'six', ['genopt loop', 'torch fused'], 40, 'cpu', 30)['rows']==[
        dict(name='genopt loop', count=0), dict(name='torch fused', count=0)]

@pytest.mark.slow
def test_compilations_of_torchs_step_are_counted(suite):
    config = import_module('torch._inductor.config')
    with config.patch(force_disable_caches=True), suite('cases').counting() as seen:
        assert torch.compile(lambda x: x.sin()+1, dynamic=False)(torch.ones(5)).shape==(5,) and len(seen)==1

def test_picture(suite, tmp_path):
    pytest.importorskip('matplotlib')
    res = measure('Adam', 'six', few, **quick)
    suite('plot').plot([res, dict(case='first')], tmp_path/'p.png')
    assert (tmp_path/'p.png').read_bytes()[:4]==b'\x89PNG'
    assert suite('plot').plot([]) is None

def test_pages_have_what_was_measured_on_a_gpu(suite):
    "python -m benchmarks.gpu writes them from gpu.json, which is not too large to keep"
    card,measured = suite('card'),suite('measured')
    found = suite('results').load(card.file)
    assert measured.chapter(found) in (root/'benchmarks'/'GPU.md').read_text() and card.file.stat().st_size<200_000
    readme = (root/'README.md').read_text()
    assert readme==measured.with_rows(readme, found) and readme.count(next(measured.readme_rows(found)))==1
    with pytest.raises(ValueError, match='put one where'): measured.with_rows('# genopt', found)

def measured_on_a_gpu(*rows, algorithm='Adam', shape='k256'):
    machine = dict(device='NVIDIA B1', driver='1', cuda='2', torch='3', triton='4', python='5', date='2026-01-02T03', versions=dict(torch='3', optimi='6'))
    return dict(case='step', algorithm=algorithm, shape=shape, about='some tensors', tensors=10, elements=2000, baseline='torch fused', threads=8, load=1.,
                rows=[dict(ms=r, host=h, wall=r+h, ratio=r, host_ratio=h, hidden=hidden, name=n) for n,r,h,hidden in rows], machine=machine)

def test_the_chapter_of_a_gpu(suite):
    "tells what is missed, what has host time in it, and who took no part and why"
    res  = measured_on_a_gpu(('torch fused', 1., 1., True), ('genopt default', .6, .2, False), ('memory copy', .03, .1, True))
    why  = dict(zip(['apex default', 'optimi foreach', 'torch foreach', 'fastai default'],
                    ["ModuleNotFoundError: No module named 'apex'", 'optimi has no Adam', "TypeError: Adam.__init__() got an unexpected keyword argument 'foreach'", 'E: {x}']))
    res['rows'] += [dict(name=n, absent=w) for n,w in why.items()]
    text = ' '.join(suite('measured').chapter([res]).split())
    for words in ('**NVIDIA B1**, driver 1, CUDA 2', 'optimi 6. 1 case on 2026-01-02', '1000 tensors of 256: 0.60*; 10,000 tensors of 256: - | **missed**: 1000 tensors of 256; not measured: '
                  '10,000 tensors of 256 |', '1 is met, 1 is missed and 39 are not measured', '| genopt default | 0.6000* | 0.200 | 0.800 | 0.600* |', '- apex: it is not installed -',
                  '- torch foreach: there is no `foreach` for Adam -', '- fastai default, Adam on 1000 tensors of 256: E: {x} -'): assert words in text, words
    assert 'optimi foreach' not in text

def test_the_picture_of_a_gpu(suite, tmp_path):
    pytest.importorskip('matplotlib')
    plot = suite('plot')
    res  = measured_on_a_gpu(('optimi triton', 2., 1., True), ('genopt default', .6, .2, True), ('torch foreach', 4., 1., True))
    assert {k: v for k,v in plot.case(res).items() if k!='title'}=={'optimi triton': 1., 'genopt default': .3, 'torch foreach': 2., 'torch default': 2., 'baseline': 'optimi triton', 'star': ''}
    assert plot.on_gpu([res], tmp_path/'p.png') and (tmp_path/'p.png').read_bytes()[:4]==b'\x89PNG'
    assert plot.on_gpu([measured_on_a_gpu(('genopt default', .6, .2, True))]) is None

def test_results_are_kept_in_six_digits(suite, tmp_path):
    files,path = suite('results'),tmp_path/'r.json'
    files.save([dict(case='a', x=[1/3, 2, None, True, 'b']), dict(case='c')], path)
    assert files.load(path)==[dict(case='a', x=[.333333, 2, None, True, 'b']), dict(case='c')] and files.load(tmp_path/'none.json')==[]


# -- Goals --

def results(**ratios): return [dict(case='step', algorithm='Adam', shape='k256', rows=[dict(name=n.replace('_', ' '), ratio=r) for n,r in ratios.items()])]

def test_goals_are_met_and_missed(suite):
    m = suite('goals')
    goals = [m.Goal('step', 'Adam', 'k256 gpt2', 'genopt fused', 'torch fused', .5)]
    verdicts = lambda res, short=False: [c['verdict'] for c in m.check(res, goals, short)]
    assert verdicts(results(genopt_fused=.4, torch_fused=1.))==['met', 'not measured']
    assert verdicts(slow := results(genopt_fused=1.2, torch_fused=2.))==['missed', 'not measured'] and not m.passed(m.check(slow, goals))
    assert verdicts(slow, True)==['met', 'not measured'] and m.passed(m.check(slow, goals, True))
    assert verdicts(results(genopt_fused=.4))==['not measured']*2                      # no baseline
    refused = results(torch_fused=1.)
    refused[0]['rows'].append(dict(name='genopt fused', absent='ValueError'))
    assert verdicts(refused)==['missed', 'not measured'] and 'absent  missed' in m.show(m.check(refused, goals))

def test_goals_on_seconds_counts_and_the_fastest_peer(suite):
    m = suite('goals')
    goals = [m.Goal('cold', 'Adam', 'k256', 'genopt fused', '', 15), m.Goal('warm', 'Adam', 'k256', 'genopt fused', '', 3),
             m.Goal('compilations', 'Adam', 'six', 'genopt fused', '', 1), m.Goal('step', 'Adam', 'k256', 'genopt fused', m.peers, .35)]
    res = [dict(case='first', algorithm='Adam', shape='k256', rows=[dict(name='genopt fused', cold=9., warm=4.)]),
           dict(case='compilations', algorithm='Adam', shape='six', rows=[dict(name='genopt fused', count=1)]),
           *results(genopt_fused=.3, torch_fused=1., heavyball_default=.6, genopt_foreach=.1, memory_copy=.1)]
    checked = m.check(res, goals)
    assert [c['verdict'] for c in checked]==['met', 'missed', 'met', 'missed'] and checked[-1]['against']=='heavyball default'
    assert 'fastest peer (heavyball default)' in m.show(checked) and 'goals: 2 met, 2 missed, 0 not measured' in m.show(checked)

def test_every_goal_names_who_is_measured(suite):
    m = suite('goals')
    for g,names in [*((g, suite('cases').by_name) for g in m.goals), *((g, suite('card').by_name) for g in m.on_gpu)]:
        assert {g.contender, g.baseline.partition(',')[0]}<={*names, m.peers, ''} and {*g.algorithms.split()}<={*bench.algorithms} and {*g.shapes.split()}<={*shapes}
        if g.short: assert g.short.split()[0] in g.algorithms and g.short.split()[1] in g.shapes and g.baseline!=m.peers

def test_goals_on_a_gpu(suite):
    "Times of the host have goals of their own; captured steps and states of 8 bits are no peers"
    m   = suite('goals')
    res = [dict(case='step', algorithm='Adam', shape='k256', rows=[dict(name='torch fused', ratio=1., host_ratio=1.), dict(name='genopt default', ratio=.4, host_ratio=.6),
        dict(name='torch captured', ratio=.3, host_ratio=.1), dict(name='torchao 8-bit', ratio=.2, host_ratio=.1)])]
    goals = [m.Goal(case, 'Adam', 'k256', 'genopt default', against, .5) for case,against in (('step','torch fused'), ('host','torch fused'), ('step',m.peers))]
    assert [(c['verdict'], c['value'], c['against']) for c in m.check(res, goals)]==[('met',.4,'torch fused'), ('missed',.6,'torch fused'), ('met',.4,'torch fused')]

def test_the_cases_on_a_gpu_measure_every_goal(suite):
    card,m = suite('card'),suite('goals')
    todo = card.everything(['step'], None, None, None, False)
    for kind,algorithm,shape,names in m.plan(m.on_gpu):
        mine = next(n for *what,n in todo if what==[kind,algorithm,shape])
        assert {*names}-{m.peers}<={*mine}, (algorithm, shape)
    assert not any({*card.compiling, *card.loops} & {*names} for *_,names in todo)
    assert card.everything(['step'], ['NAdam'], ['six'], 'torch fused, heavyball', False)==[('step', 'NAdam', 'six', ['torch fused', 'heavyball default'])]
    assert card.everything(['step'], None, ['k10000'], None, True)==[('step', 'Adam', 'k10000', card.few['k10000'])]
    with pytest.raises(ValueError, match='give both'): card.everything(['step'], ['NAdam'], None, None, False)

def test_a_gpu_that_is_not_here(suite, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    run = suite('__main__').main
    assert run(['--device', 'cuda'])==2 and 'torch finds no GPU here' in capsys.readouterr().err
    assert run(['--device', 'cuda', '--show', '--out', str(tmp_path/'b.json')])==0 and 'not measured' in capsys.readouterr().out
    assert main(['bench', '--device', 'mps'])==2 and 'device to measure on' in capsys.readouterr().err

def test_short_fails_when_a_goal_is_missed(suite, tmp_path, monkeypatch, capsys):
    run,m = suite('__main__').main,suite('goals')
    goal = lambda most: [m.Goal('step', 'Adam', 'six', 'genopt loop', 'torch default', most, 'Adam six')]
    args = ['--short', '--rounds', '3', '--out', str(tmp_path/'b.json')]
    monkeypatch.setattr(m, 'goals', goal(1e6))
    assert run(args)==0 and 'goals: 1 met' in capsys.readouterr().out
    monkeypatch.setattr(m, 'goals', goal(1e-6))
    assert run(args)==1 and '1 missed' in capsys.readouterr().out

@pytest.mark.gpu
def test_measure_on_a_gpu():
    if not torch.cuda.is_available(): pytest.skip('no CUDA device')
    res = measure('Adam', 'six', few, device='cuda', **quick)
    assert all(r['ratio']>0 and r['host_ratio']>0 and 0<r['ms']<=r['wall']*1.5 for r in res['rows']) and genopt.tools.bench.machine('cuda')['device']

@pytest.mark.gpu
def test_a_sleep_hides_the_host():
    "Seconds of the host before a launch are not in the device's time, and a step that waits is told of"
    if not torch.cuda.is_available(): pytest.skip('no CUDA device')
    x = torch.ones(1<<20, device='cuda')
    def slow():
        bench.time.sleep(.01)
        x.add_(1)
    def waiting(): return x.add_(1).sum().item()
    turn = bench.CudaClock().turn(slow, lambda: None)
    assert turn['hidden'] and turn['host']>.01 and turn['ms']<.005 and not bench.CudaClock().turn(waiting, lambda: None)['hidden']

@pytest.mark.gpu
def test_captured_steps_on_a_gpu():
    if not torch.cuda.is_available(): pytest.skip('no CUDA device')
    res = measure('Adam', 'six', [c for c in contenders_of.on_gpu if c.name.endswith('captured')], device='cuda', **quick)
    assert all('absent' not in r for r in res['rows']), res['rows']
