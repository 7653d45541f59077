"""Checkpoints: what comes back, what is refused, and what is left by a kill, a power failure, a full disk, a flipped bit."""

import copy,errno,itertools,json,os,random,re,shutil,subprocess,sys,textwrap,warnings,zipfile
from pathlib import Path
import pytest,torch
from torch import nn
from torch.optim import lr_scheduler
import genopt
from genopt import checkpoint as save,load_checkpoint,save_checkpoint
from helpers import gpu
from killed import equal

root = Path(__file__).parent.parent


def parts(cls=genopt.AdamW, sched=lambda opt: lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=50), device='cpu'):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(.3), nn.Linear(8, 2)).to(device)
    opt = cls(model.parameters(), lr=1e-2)
    return dict(model=model, opt=opt, sched=sched(opt), rng=torch.default_generator)

def train(o, n):
    for _ in range(n):
        loss = o['model'](torch.randn(16, 4)).square().mean()
        loss.backward()
        o['opt'].step()
        o['sched'].step(*[loss.item()]*isinstance(o['sched'], lr_scheduler.ReduceLROnPlateau))
        o['opt'].zero_grad()

def states(o): return copy.deepcopy({n: save.read_state(x) for n,x in o.items()})

@pytest.fixture(autouse=True)
def strict():
    "A fallback that a test does not expect is an error"
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'load_checkpoint')
        yield

@pytest.fixture
def path(tmp_path): return tmp_path/'last.ckpt'

@pytest.fixture
def two(path):
    "Two checkpoints of one tensor, which is 1 in the previous and 2 in the newest"
    for v in (1, 2): save_checkpoint(path, x=torch.full((40,), float(v)))
    return path

def value(path): return load_checkpoint(path)['x'][0].item()
def names(path): return sorted(p.name for p in path.parent.iterdir())
def damage(p, at=700): p.write_bytes((b := p.read_bytes())[:at] + bytes([b[at]^1]) + b[at+1:])


# -- What comes back --

scheds = dict(one_cycle  = lambda opt: lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=50),
              plateau    = lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=0),
              sequential = lambda opt: lr_scheduler.SequentialLR(opt, [lr_scheduler.LinearLR(opt), lr_scheduler.LambdaLR(opt, lambda i: .9**i)], [5]))

@pytest.mark.parametrize('cls', [genopt.AdamW, genopt.Lion, torch.optim.AdamW], ids=['AdamW','Lion','torch'])
@pytest.mark.parametrize('sched', scheds)
def test_goes_on_with_the_same_bits(cls, sched, path):
    torch.manual_seed(0)
    o = parts(cls, scheds[sched])
    train(o, 10)
    save_checkpoint(path, **o, step=10)
    train(o, 10)
    straight = states(o)
    torch.manual_seed(1)
    o = parts(cls, scheds[sched])
    assert load_checkpoint(path, **o)=={'step': 10}
    train(o, 10)
    assert equal(states(o), straight)

def test_plain_values_are_returned(path):
    plain = dict(step=3, best=.5, name='a', flags=[True, None], shape=(2, 3), avg={'w': torch.arange(3.), 2: [torch.ones(2)]}, dtype=torch.float16)
    save_checkpoint(path, **plain)
    assert equal(load_checkpoint(path), plain)

def test_torch_and_unzip_read_it(path):
    o = parts()
    save_checkpoint(path, **o, step=1)
    for mmap in (False, True):
        sd = torch.load(path, weights_only=True, mmap=mmap)
        assert equal(sd['model'], o['model'].state_dict()) and sd['step']==1
    with zipfile.ZipFile(path) as z: assert z.testzip() is None and z.comment.startswith(b'sha256 ')

def test_map_location_is_for_values(path):
    g = torch.Generator().manual_seed(3)
    state = g.get_state()
    save_checkpoint(path, g=g, x=torch.ones(2))
    g.manual_seed(4)
    assert load_checkpoint(path, lambda storage, _: storage, g=g)['x'].device.type=='cpu' and torch.equal(g.get_state(), state)
    with pytest.raises(MemoryError, match='no room'): load_checkpoint(path, map_location=no_memory, g=g)                 # and not: is damaged

def no_memory(storage, location): raise MemoryError('no room')

@gpu
def test_on_a_gpu(path):
    torch.manual_seed(0)
    o = parts(device='cuda') | dict(cuda=torch.cuda.default_generators[0])
    inputs = torch.randn(30, 16, 4, device='cuda')
    def train(o, at):
        for i in at:
            o['model'](inputs[i]).square().mean().backward()
            o['opt'].step()
            o['sched'].step()
            o['opt'].zero_grad()
    train(o, range(10))
    save_checkpoint(path, **o, x=inputs)
    train(o, range(10, 20))
    straight = states(o)
    for where in ('cpu', 'cuda'):
        o = parts(device='cuda') | dict(cuda=torch.cuda.default_generators[0])
        assert load_checkpoint(path, where, **o)['x'].device.type==where
        train(o, range(10, 20))
        assert equal(states(o), straight)

def test_a_link_stays_a_link(path):
    (real := path.parent/'real').mkdir()
    path.symlink_to(real/'file')
    for i in range(2): save_checkpoint(path, x=i)
    assert path.is_symlink() and load_checkpoint(path)=={'x': 1} and names(real/'file')==['file', 'file.prev']

def test_the_example_in_the_docs(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    example = textwrap.dedent(re.search(r'(?m)(^(    .*)?\n)+', save.__doc__.split(':\n', 1)[1])[0])
    exec(example, found := {})
    assert found['step']==100 and isinstance(torch.load('last.ckpt', weights_only=True)['model'], dict)


# -- Damage --

def test_the_previous_is_kept(two):
    assert value(two)==2 and value(two.with_name('last.ckpt.prev'))==1 and names(two)==['last.ckpt', 'last.ckpt.prev']

def test_a_damaged_or_missing_file_is_told_and_the_previous_loaded(two):
    damage(two)
    with pytest.warns(UserWarning, match=r'last\.ckpt: ValueError: its checksum is wrong.*previous is loaded.*\.prev'): assert value(two)==1
    two.unlink()
    with pytest.warns(UserWarning, match=r'last\.ckpt: there is no such file.*previous is loaded'): assert value(two)==1
    with pytest.raises(FileNotFoundError, match='no checkpoint at path .*none.* no such file.*none.prev: there is no such file; start anew'):
        load_checkpoint(two.with_name('none'))

def test_two_damaged_files_are_an_error(two):
    o = parts()
    before = states(o)
    damage(two)
    damage(two.with_name('last.ckpt.prev'))
    with pytest.raises(ValueError, match=r'last\.ckpt: .*checksum is wrong.*last\.ckpt\.prev: .*checksum is wrong'): load_checkpoint(two, **o)
    assert equal(states(o), before)

def test_a_damaged_file_does_not_push_out_the_previous_before_a_new_one_is_there(two, monkeypatch):
    damage(two)
    for at,before in moments(monkeypatch, two, lambda: save_checkpoint(two, x=torch.full((40,), 3.))):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            assert value(before) in (1, 3), at
    assert value(two)==3

def test_a_file_cut_off_anywhere_is_found(two):
    data = two.read_bytes()
    for n in (0, 1, 10, 72, 73, 74, 500, len(data)//2, len(data)-74, len(data)-73, len(data)-1):
        two.write_bytes(data[:n])
        with pytest.warns(UserWarning, match='checksum is wrong'): assert value(two)==1
    two.write_bytes(data+b'\0')
    with pytest.warns(UserWarning, match='checksum is wrong'): assert value(two)==1

def test_bit_flips_are_found(path):
    "1000 at random, all of the end, and those in the zip's directory that its checksums do not cover and torch.load does not mind"
    save_checkpoint(path, x=torch.randn(40), y=dict(z=torch.arange(5)), step=7)
    data,flips = path.read_bytes(),{}
    flips['anywhere'] = random.Random(0).sample(range(len(data)*8), 1000)
    flips['end']      = range((len(data)-100)*8, len(data)*8)
    with zipfile.ZipFile(path) as z: start,n = z.start_dir,len(z.infolist())
    entries = [m.start() for m in re.finditer(b'PK\1\2', data) if m.start()>=start]
    flips['is a folder'] = [(i+38)*8+4 for i in entries]
    assert len(entries)==n
    for why,bits in flips.items():
        for bit in bits:
            path.write_bytes(data[:bit//8] + bytes([data[bit//8]^1<<bit%8]) + data[bit//8+1:])
            with pytest.raises(ValueError, match='checksum is wrong'): load_checkpoint(path)
            if why=='is a folder':
                with zipfile.ZipFile(path) as z: assert z.testzip() is None                             # why there is a checksum of our own


# -- What is refused --

class Own: pass
class OwnDict(dict): pass

def numpy_step():
    np = pytest.importorskip('numpy')
    return np.float64(3)

def numpy_in_a_state():
    opt = genopt.SGD([torch.ones(2, requires_grad=True)], lr=.1)
    opt.state_dict = lambda: dict(lr=numpy_step())
    return opt

unsafe = dict(numpy   = (numpy_step,             r'step=.*3\.0.* holds what .*numpy\S*scalar was not an allowed global.*float\(x\)'),
              nested  = (lambda: [{'a': Own()}], r'step=.* Unsupported global: GLOBAL test_save\.Own'),
              mapping = (lambda: OwnDict(a=1),   r'step=.* Unsupported .*test_save\.OwnDict'),
              code    = (lambda: lambda x: x,    r'step=<function .* pickle'),
              state   = (numpy_in_a_state,       r'step=SGD.*numpy\S*scalar'))

@pytest.mark.parametrize('name', unsafe)
def test_what_would_not_load_is_refused_before_anything_is_written(name, two):
    before = {n: (two.parent/n).read_bytes() for n in names(two)}
    made,words = unsafe[name]
    with pytest.raises(TypeError, match=f'(?s)save_checkpoint: {words}'): save_checkpoint(two, x=torch.ones(1), step=made())
    assert {n: (two.parent/n).read_bytes() for n in names(two)}==before

def test_arguments_that_cannot_be(path):
    with pytest.raises(TypeError, match='nothing to save'):                   save_checkpoint(path)
    with pytest.raises(TypeError, match="cannot be called 'map_location'"):   save_checkpoint(path, map_location=1)
    with pytest.raises(FileNotFoundError, match='the folder .*nowhere does not exist; make'): save_checkpoint(path.parent/'nowhere'/'a', x=1)
    assert not names(path)

def test_other_objects_than_saved_are_an_error_and_nothing_changes(path):
    o = parts()
    train(o, 2)
    save_checkpoint(path, **o, step=2)
    train(o, 2)
    before = states(o)
    less = {n: x for n,x in o.items() if n!='opt'}
    with pytest.raises(ValueError, match='states of model, opt, sched, rng, but objects are .*; give opt too'): load_checkpoint(path, **less)
    with pytest.raises(ValueError, match='; leave out ema; give opt too'):    load_checkpoint(path, **less, ema=o['model'])
    with pytest.raises(ValueError, match='leave out objects'):                load_checkpoint(path, **o, objects=o['model'])
    with pytest.raises(TypeError, match='step=7 cannot take a state; leave it out: plain values are returned'): load_checkpoint(path, **o, step=7)
    assert equal(states(o), before)
    torch.save(dict(model=o['model'].state_dict()), path)
    with pytest.raises(ValueError, match='not written by save_checkpoint'):   load_checkpoint(path, model=o['model'])

@pytest.mark.parametrize('bad', ['model', 'opt', 'sched', 'rng'])
def test_a_state_that_does_not_fit_changes_no_object(bad, path):
    o,g = parts(),torch.Generator()
    o |= dict(rng=g)
    train(o, 2)
    other = parts()
    train(other, 3)
    wrong = dict(model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(.3), nn.Linear(8, 3)),       # the first layers fit
                 opt   = genopt.AdamW([torch.ones(3, requires_grad=True)]), sched = nn.Linear(2, 2), rng = torch.Generator())
    save_checkpoint(path, **(other | {bad: wrong[bad]}))
    if bad=='sched': o['sched'].load_state_dict = refuse
    if bad=='rng':   o['rng'] = Refusing()
    before = states(o)
    with pytest.raises(ValueError, match=f'(?s)load_checkpoint: {bad}, a .*, does not take its state from .*[.] No object has changed'): load_checkpoint(path, **o)
    assert equal(states(o), before)
    train(o, 1)

def refuse(state):
    if 'weight' in state: raise KeyError('base_lrs')
class Refusing:
    def get_state(self): return torch.zeros(3)
    def set_state(self, s):
        if len(s)>3: raise RuntimeError('RNG state is wrong size')


# -- Writing --

def moments(monkeypatch, path, f):
    "Run `f`; the folder as it was before each of its operations on files: what would be there if it had been killed there"
    seen,there,now = [],path.parent,itertools.count()
    def watched(owner, name):
        real = getattr(owner, name)
        def wrapped(*args, **kw):
            copied = there.with_name(f'{there.name}_{next(now)}')
            shutil.copytree(there, copied)
            seen.append((name, copied/path.name))
            return real(*args, **kw)
        m.setattr(owner, name, wrapped)
    with monkeypatch.context() as m:
        for owner,name in (os,'fsync'),(os,'link'),(os,'replace'),(Path,'unlink'),(save.Summed,'write'): watched(owner, name)
        f()
    return seen

@pytest.mark.parametrize('links', [True, False])
@pytest.mark.parametrize('left', [False, True])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(links, left, two, monkeypatch):
    if left:
        for s in ('tmp','prev.tmp'): save.beside(two, s).write_bytes(b'what a killed writer has left')
    if not links: monkeypatch.setattr(os, 'link', no_links)
    found = [(at, value(p)) for at,p in moments(monkeypatch, two, lambda: save_checkpoint(two, x=torch.full((40,), 3.)))]
    order,values = zip(*found)
    assert [*values]==sorted(values) and {*values}=={2., 3.} and order.count('write')>5
    assert [o for o in order if o!='write']==['fsync', 'unlink', 'link', 'replace', 'replace', 'fsync']     # the file is on disk before it gets its name
    assert names(two)==['last.ckpt', 'last.ckpt.prev'] and value(two)==3 and value(save.beside(two, 'prev'))==2

def no_links(a, b): raise OSError(errno.EPERM, 'no links here')

def test_a_kill_at_the_first_save_leaves_nothing_or_the_new(path, monkeypatch):
    for _,p in moments(monkeypatch, path, lambda: save_checkpoint(path, x=torch.ones(1))):
        if p.exists(): assert value(p)==1
        else:
            with pytest.raises(FileNotFoundError, match='no checkpoint at path'): value(p)
    assert p.exists() and names(path)==['last.ckpt']

def test_a_power_failure_that_loses_renames_leaves_the_old_or_the_new(two, monkeypatch):
    "Between two syncs a file system may keep any of them"
    done = []
    with monkeypatch.context() as m:
        for name in ('link','replace'): m.setattr(os, name, lambda a, b, real=getattr(os, name): done.append((real, a, b)) or real(a, b))
        m.setattr(os, 'fsync', lambda fd: None if done else shutil.copytree(two.parent, two.parent.with_name('synced')))
        save_checkpoint(two, x=torch.full((40,), 3.))
    synced = two.parent.with_name('synced')
    assert len(done)==3
    for i,kept in enumerate(itertools.product([True,False], repeat=3)):
        shutil.copytree(synced, there := two.parent.with_name(f'after{i}'))
        for keep,(op,a,b) in zip(kept, done):
            if keep and (there/a.name).exists(): op(there/a.name, there/b.name)
        assert value(there/two.name)==(3 if kept[1] else 2)

@pytest.mark.parametrize('after', [0, 1, 5])
def test_a_full_disk_leaves_both_files(after, two, monkeypatch):
    real,n = save.Summed.write,itertools.count()
    def full(self, b):
        if next(n)>=after: raise OSError(errno.ENOSPC, 'No space left on device')
        return real(self, b)
    monkeypatch.setattr(save.Summed, 'write', full)
    with pytest.raises((OSError, RuntimeError), match='No space left|unexpected pos'): save_checkpoint(two, x=torch.full((40,), 3.))
    assert names(two)==['last.ckpt', 'last.ckpt.prev'] and value(two)==2 and value(save.beside(two, 'prev'))==1


# -- Killed --

@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, 'fork'), reason='trainings are forked')
def test_training_killed_a_hundred_times_ends_with_the_same_bits(tmp_path):
    pytest.importorskip('sklearn')
    res = subprocess.run([sys.executable, root/'tests'/'killed.py', tmp_path, '100', '0'], cwd=root, capture_output=True, text=True, timeout=300,
                         env=os.environ | dict(PYTHONPATH=str(root)))
    assert res.returncode==0, res.stderr
    seen = json.loads(res.stdout)
    assert seen['kills']==100 and seen['differ']==0 and seen['resumed']>=50, seen
    assert seen['writing']>=5 and seen['torn']>=1, f'too few kills hit the writing to show anything: {seen}'
