"""Several processes: data parallel, sharded, and checkpoints that are loaded on another number of them."""

import os,subprocess,sys,time
from pathlib import Path
import pytest,torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.functional import cross_entropy
import genopt
from genopt import Optimizer
from genopt.blocks import clip_grad_norm

old = tuple(map(int, torch.__version__.split('.')[:2]))<(2, 7)
pytestmark = pytest.mark.skipif(old or not dist.is_available() or not dist.is_gloo_available(), reason='needs gloo, and fully_shard on a CPU: torch 2.7')
root = Path(__file__).parent.parent

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 33), nn.LayerNorm(33), nn.ReLU(), nn.Linear(33, 3, bias=False)).double()   # 33: uneven parts

def batch(i):
    g = torch.Generator().manual_seed(i)
    return torch.randn(8, 10, generator=g, dtype=torch.float64),torch.randint(0, 3, (8,), generator=g)

def rows_step(update, p):
    "Needs its shape: each row by its own norm"
    return update/(update.norm(dim=1, keepdim=True)+1e-8) if p.ndim==2 else update

rules = {'*bias': dict(cbs=genopt.AdamW), 2: dict(cbs=genopt.Lion), '*': dict(cbs=genopt.SGD)}
optimizers = dict(
    SGD      = lambda m, **k: genopt.SGD(m.named_parameters(), lr=.1, momentum=.9, **k),
    RMSprop  = lambda m, **k: genopt.RMSprop(m.named_parameters(), **k),
    AdamW    = lambda m, **k: genopt.AdamW(m.named_parameters(), **k),
    Lion     = lambda m, **k: genopt.Lion(m.named_parameters(), **k),
    RAdam    = lambda m, **k: genopt.RAdam(m.named_parameters(), **k),
    LAMB     = lambda m, **k: genopt.LAMB(m.named_parameters(), lr=1e-2, weight_decay=.1, **k),
    clipped  = lambda m, **k: Optimizer(m.named_parameters(), [clip_grad_norm, genopt.Adam.build()], max_norm=.1, lr=.01, **k),
    by_rows  = lambda m, **k: Optimizer(m.named_parameters(), [genopt.Adam.build(), rows_step], lr=.01, **k),
    several  = lambda m, **k: Optimizer(genopt.groups(m, rules), **k),
)
ways = dict(loop=dict(foreach=False), default={}, fused=dict(fused=True))

def train(m, opt, rank=0, world=1, steps=range(6)):
    for i in steps:
        opt.zero_grad()
        x,y = batch(i)
        cross_entropy(m(x[rank::world]), y[rank::world]).backward()
        opt.step()

def sharded(m, world):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    mesh = init_device_mesh('cpu', (world,))
    for l in (m[0], m[1], m[3]): fully_shard(l, mesh=mesh)
    return fully_shard(m, mesh=mesh)

def whole(m): return {n.removeprefix('module.'): getattr(p, 'full_tensor', lambda p=p: p)().detach() for n,p in m.named_parameters()}

def on_rank(rank, world, port, job, out):
    os.environ |= dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), OMP_NUM_THREADS='1')
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=world)
    job(rank, world, out)                                                            # one that fails ends, and `spawn` ends the others
    dist.barrier()
    dist.destroy_process_group()
    time.sleep(1)                                                                    # as in the example

def run(world, job, out):
    import socket
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    mp.spawn(on_rank, (world, port, job, out), nprocs=world)

def job_all(rank, world, out):
    "Every optimizer, DDP and sharded; rank 0 keeps the weights"
    from torch.distributed.optim import ZeroRedundancyOptimizer
    res = {}
    for name,make in optimizers.items():
        for way,kw in ways.items():
            if way=='fused' and world!=2: continue                                   # compiling takes its time, in each process
            if name in ('by_rows',) and way=='fused': kw = {}                        # compiled, a norm by rows is another sum
            m = sharded(net(), world)
            opt = make(m, **kw)
            train(m, opt, rank, world)
            res[name,way,'sharded'] = whole(m),len(opt._plan.fallback)
        m = nn.parallel.DistributedDataParallel(net())
        opt = make(m.module)
        train(m, opt, rank, world)
        res[name,'default','ddp'] = whole(m),len(opt._plan.fallback)
        if name!='AdamW': continue
        m   = nn.parallel.DistributedDataParallel(net())
        opt = ZeroRedundancyOptimizer(m.module.parameters(), optimizer_class=genopt.AdamW)        # each process has the state of some parameters
        train(m, opt, rank, world)
        res[name,'default','zero'] = whole(m),len(opt.optim._plan.fallback)
    if rank==0: torch.save(res, out)

@pytest.mark.slow
@pytest.mark.parametrize('world', [1, 2, 4])
def test_processes_together_are_as_one(world, tmp_path):
    run(world, job_all, tmp_path/'res')
    for (name,way,kind),(got,loose) in torch.load(tmp_path/'res').items():
        m = net()
        train(m, optimizers[name](m, **ways[way if name!='by_rows' else 'default']))
        for n,p in whole(m).items(): torch.testing.assert_close(got[n], p, rtol=1e-9, atol=1e-11, msg=lambda s: f'{name} {way} {kind} {n}: {s}')     # noqa: B023
        elementwise = name in ('SGD', 'RMSprop', 'AdamW', 'Lion', 'RAdam', 'clipped', 'several')         # after the clipping, which is called
        assert (loose==0)==(kind!='sharded' or elementwise and way!='loop'), (name, way, kind, loose)    # elementwise ones on the parts

def job_skip(rank, world, out):
    "What one process sees, all do: a bad gradient, and a first step that is none"
    for kw in ways.values():
        m = sharded(net(), world)
        opt = genopt.AdamW(m.named_parameters(), nonfinite='skip', **kw)
        train(m, opt, rank, world, range(2))
        before = whole(m)
        m[0].weight.grad.to_local()[0,0] = float('nan') if rank==world-1 else 1.         # in one part only
        opt.step()
        assert opt.last_step_skipped and all(torch.equal(p, before[n]) for n,p in whole(m).items())
        opt.nonfinite = 'raise'
        with pytest.raises(FloatingPointError, match='the gradient of 0.weight'): opt.step()
        train(m, opt, rank, world, range(2, 3))
        assert not opt.last_step_skipped
        p = nn.Parameter(torch.ones(3))                                              # a plain one, bad in one process only
        beside = genopt.AdamW([*m.parameters(), p], nonfinite='raise', **kw)
        p.grad = torch.full((3,), float('nan') if rank==world-1 else 1.)
        with pytest.raises(FloatingPointError, match='the gradient of parameter 5' if rank==world-1 else 'not finite in another process'): beside.step()
        assert torch.equal(p, torch.ones(3)) and not beside.state
        o = genopt.Adam(m.parameters(), lr=0., **kw)
        for p in m.parameters(): p.grad = torch.zeros_like(p)
        if rank==world-1: m[3].weight.grad.to_local()[0,0] = 1.                      # one has something to learn, so all have
        o.step()
        assert o.state[m[0].weight]['step']==1

@pytest.mark.slow
def test_all_processes_skip_together(tmp_path): run(2, job_skip, tmp_path/'res')

def job_mixed(rank, world, out):
    "Sharded parameters beside plain ones, where a callback joins all: an error that says so, and nothing has changed"
    m = sharded(net(), world)
    p = nn.Parameter(torch.ones(3))
    opt = Optimizer([*m.parameters(), p], [clip_grad_norm, genopt.Adam.build()], max_norm=.1, lr=.01)
    x,y = batch(0)
    (cross_entropy(m(x), y)+p.sum()).backward()
    before = whole(m)
    with pytest.raises(Exception, match='clip_grad_norm.*DTensor') as e: opt.step()
    assert all(torch.equal(q, before[n]) for n,q in whole(m).items()) and torch.equal(p, torch.ones(3)), e

@pytest.mark.slow
def test_sharded_beside_plain_in_a_global_norm_is_told(tmp_path): run(2, job_mixed, tmp_path/'res')

def job_release(rank, world, out):
    "Gradient release: of a sharded model the parameters move during backward, and DistributedDataParallel is refused"
    for name in ('AdamW', 'LAMB', 'by_rows'):
        m,released = sharded(net(), world),sharded(net(), world)
        opt = optimizers[name](released)
        genopt.release_gradients(opt)
        train(m, optimizers[name](m), rank, world)
        for i in range(6):
            x,y = batch(i)
            cross_entropy(released(x[rank::world]), y[rank::world]).backward()
            assert all(p.grad is None for p in released.parameters())
            opt.step()
        for n,p in whole(m).items(): assert torch.equal(whole(released)[n], p), (name, n)
    for view in (False, True):
        m   = net()
        ddp = nn.parallel.DistributedDataParallel(m, gradient_as_bucket_view=view)
        opt = genopt.AdamW(m.named_parameters())
        genopt.release_gradients(opt)
        x,y = batch(rank)
        cross_entropy(ddp(x), y).backward()
        with pytest.raises(RuntimeError, match='AdamW: 0.weight in param group 0 .* DistributedDataParallel .* fully_shard'): opt.step()

@pytest.mark.slow
def test_gradients_are_released_shard_by_shard(tmp_path): run(2, job_release, tmp_path/'res')

def only_noise(grad): return torch.randn_like(grad)
def one_number(grad): return grad*torch.rand((), dtype=grad.dtype, device=grad.device)

def job_random(rank, world, out):
    """Callbacks that draw: each shard has numbers of its own, copies of a parameter have the same, in each way to run. Kernels and lists draw the same.
    Shapes: parts alike, parts of unequal size, a whole that only one process has, and copies"""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate,Shard,distribute_tensor
    mesh = init_device_mesh('cpu', (world,))
    by_way = {}
    for way,kw in dict(ways, lists=dict(foreach=True)).items():
        new = lambda placement, *shape: nn.Parameter(distribute_tensor(torch.zeros(*shape), mesh, [placement]))
        ps  = [new(Shard(0), 400, 3), new(Shard(0), 401), new(Shard(1), 3, 400), new(Replicate(), 400), nn.Parameter(torch.zeros(400))]
        opt = Optimizer(ps, [only_noise], lr=1., **kw)
        torch.manual_seed(0)
        for _ in range(2):
            before = [p.detach().clone() for p in ps]
            for p in ps: p.grad = torch.ones_like(p)
            opt.step()
            mine = [getattr(q-p, 'to_local', lambda x=q-p: x)() for p,q in zip(before, ps)]
            all_ranks = [None]*world
            dist.all_gather_object(all_ranks, mine)
            for i,parts in enumerate(zip(*all_ranks)):
                first,second = (x.reshape(-1)[:200*(i!=4) or None].double() for x in parts)
                n = min(len(first), len(second))
                alike = torch.equal(first, second)
                r = torch.corrcoef(torch.stack([first[:n], second[:n]]))[0,1]
                assert alike if i>2 else not alike and abs(r)<.3, (way, i, r, first[:4], second[:4])
                assert .8<torch.cat([first, second]).std()<1.2, (way, i)
        by_way[way] = [p.detach() for p in ps]
    for way in ('fused', 'loop'):
        for p,q in zip(by_way[way], by_way['lists']): torch.testing.assert_close(p, q)
    for kw in (dict(fused=True), dict(foreach=True), dict(foreach=False)):
        p = nn.Parameter(distribute_tensor(torch.zeros(10), mesh, [Shard(0)]))
        p.grad = torch.ones_like(p)
        torch.manual_seed(0)
        Optimizer([p], [one_number], lr=1., **kw).step()
        assert len({*p.full_tensor().tolist()})==1 and p.full_tensor()[0]                # one number of a parameter, in all of its shards

def test_shards_draw_numbers_of_their_own_and_copies_the_same(tmp_path): run(2, job_random, tmp_path/'res')
def job_rounding(rank, world, out):
    """Copies of a model stay equal where something is rounded at random, although each process has another seed. `nearest` with states in float32 has
    nothing to draw, and shows that the test compares what it should"""
    torch.manual_seed(rank)
    for store in (None, {'p': 'extra_bits'}, {'p': 'stochastic'}, {'p': 'stochastic', '*': dict(dtype='int8', smallest=0)}, {'*': dict(dtype='bfloat16', smallest=0)}):
        for way,kw in (ways | dict(foreach=dict(foreach=True))).items():
            torch.manual_seed(5)
            m   = nn.parallel.DistributedDataParallel(nn.Linear(10, 64, bias=False).to(torch.bfloat16))
            opt = genopt.AdamW(m.parameters(), lr=1e-3, store=store, **kw)
            torch.manual_seed(rank)
            for i in range(5):
                opt.zero_grad()
                x,y = batch(i)
                cross_entropy(m(x[rank::world].to(torch.bfloat16)).float(), y[rank::world]).backward()
                opt.step()
                torch.rand(rank)                                                     # the generators are in other states, too
            (p,) = m.parameters()
            for n,v in dict(p=p.detach(), **opt.state[p]).items():
                if not torch.is_tensor(v): continue
                both = [torch.empty_like(v) for _ in range(world)]
                dist.all_gather(both, v.contiguous())
                assert all(torch.equal(both[0], o) for o in both[1:]), (store, way, n)

@pytest.mark.slow
def test_copies_are_rounded_alike(tmp_path): run(2, job_rounding, tmp_path/'res')

def torchrun(world, *args):
    cmd = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(world), str(root/'examples'/'train_distributed.py'), *map(str, args)]
    res = subprocess.run(cmd, capture_output=True, text=True, timeout=300, cwd=root, env=os.environ | dict(OMP_NUM_THREADS='1', PYTHONPATH=str(root)))
    assert res.returncode==0, res.stderr[-3000:]
    return res.stdout

@pytest.mark.slow
@pytest.mark.parametrize('opt,worlds', [('AdamW(lr=0.003)', (2, 4, 1)), ('LAMB(lr=0.01)', (2, 1))])
def test_the_example_goes_on_with_more_processes_or_fewer(opt, worlds, tmp_path):
    "A checkpoint of each number of processes is loaded by the next"
    pytest.importorskip('sklearn')
    said = torchrun(1, '--opt', opt, '--epochs', len(worlds), '--checkpoint', tmp_path/'a', '--out', tmp_path/'a.pt')
    for epoch,world in enumerate(worlds):
        more = ['--resume'] if epoch else []
        torchrun(world, '--opt', opt, '--shard', '--epochs', epoch+1, '--checkpoint', tmp_path/'b', '--out', tmp_path/'b.pt', *more)
    a,b = torch.load(tmp_path/'a.pt'),torch.load(tmp_path/'b.pt')
    for n in a: torch.testing.assert_close(a[n], b[n.removeprefix('module.')], rtol=1e-4, atol=1e-6)
    assert float(said.splitlines()[-1].split()[2])>.8
