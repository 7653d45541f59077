"""Hyper-parameters in other forms than Python's own numbers and tuples: tensors, which are shared, NumPy's numbers and arrays, sequences of all kinds."""

import copy,io,pickle
from collections import UserList
from collections.abc import Sequence
from fractions import Fraction
import numpy as np
import pytest,torch
from torch import nn,tensor
from torch.optim import lr_scheduler
import genopt
from genopt import Adam,AdamW,Optimizer,SGD
from genopt.blocks import sgd_step

way  = dict(loop=dict(foreach=False), foreach=dict(foreach=True), fused=dict(fused=True))
ways = pytest.mark.parametrize('kw', way.values(), ids=way)
def P(v=1.): return nn.Parameter(torch.full((3,), v, dtype=torch.float64))
def took(ps, opt, n=2):
    for _ in range(n):
        for p in ps: p.grad = torch.ones_like(p)
        opt.step()
    return opt


# -- Tensors --

@ways
@pytest.mark.parametrize('name', ['SGD','RMSprop','Adagrad','NAdam','RAdam','Adadelta','Adamax','Lion','Muon'])
def test_a_rate_in_a_tensor_is_shared_with_the_caller_as_in_torch(kw, name):
    cls = getattr(genopt, name)
    p,q = (nn.Parameter(torch.ones(3, 2, dtype=torch.float64)) for _ in range(2))
    lr  = tensor(.1, dtype=torch.float64)
    opt,ref = took([p], cls([p], lr=lr, **kw)),took([q], cls([q], lr=.1, **kw))
    assert opt.param_groups[0]['lr'] is lr and torch.equal(p, q)
    lr.fill_(.3)
    ref.param_groups[0]['lr'] = .3
    took([p], opt); took([q], ref)
    assert torch.equal(p, q)

@pytest.mark.parametrize('name', ['Adam','AdamW'])
def test_torch_refuses_a_tensor_beside_foreach_in_two_algorithms_and_so_they_do(name):
    for hypers in (dict(lr=tensor(.1)), dict(betas=(tensor(.9), tensor(.99)))):
        for lib in (torch.optim, genopt):
            with pytest.raises(ValueError, match='as a Tensor is not supported for capturable=False and foreach=True'): getattr(lib, name)([P()], foreach=True, **hypers)

@pytest.mark.parametrize('kw', [{}, dict(foreach=False), dict(fused=True)], ids=str)
def test_what_is_written_into_a_tensor_counts_in_every_group(kw):
    "In betas and decay as well; with a graph behind it the memory is shared; copies and what is loaded share nothing"
    lr,wd,beta = tensor(.1, requires_grad=True),tensor(.2),tensor(.5)
    ps  = [P(), P(2.)]
    opt = AdamW([dict(params=ps[:1]), dict(params=ps[1:])], lr=lr, weight_decay=wd, betas=(beta, tensor(.9)), **kw)
    took(ps, opt)
    others = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), AdamW([dict(params=[P()]), dict(params=[P()])])]
    others[2].load_state_dict(opt.state_dict())
    with torch.no_grad():
        for x in (lr, wd, beta): x.mul_(.5)
    for g in opt.param_groups: assert [float(g['lr']), float(g['weight_decay']), float(g['betas'][0])]==[lr.item(), wd.item(), .25]
    for o in others: assert [float(o.param_groups[1]['lr']), float(o.param_groups[1]['betas'][0])]==[tensor(.1).item(), .5]
    qs  = [P(), P(2.)]
    ref = took(qs, AdamW(qs, lr=tensor(.1).item(), weight_decay=tensor(.2).item(), betas=(.5, tensor(.9).item()), **kw))
    ref.param_groups[0].update(lr=lr.item(), weight_decay=wd.item(), betas=(.25, tensor(.9).item()))
    took(qs, ref); took(ps, opt)
    assert all(map(torch.equal, ps, qs))

def test_what_is_set_for_all_groups_is_the_optimizers_own():
    "Where a group's own entry shares its memory with the caller"
    opt,lr,betas = Adam([P()]),tensor(.125),(tensor(.25), tensor(.75))
    opt.set_hyper('lr', lr); opt.set_hyper('betas', [betas])
    for x in (lr, *betas): x.fill_(.875)
    assert [float(x) for x in (opt.param_groups[0]['lr'], *opt.param_groups[0]['betas'])]==[.125, .25, .75]

def test_a_state_dict_that_was_loaded_shares_nothing():
    "Neither a tensor of its groups nor one in a tuple there"
    opt = AdamW([P()], lr=tensor(.25), betas=(tensor(.5), tensor(.75)))
    opt.load_state_dict(saved := AdamW([P()], lr=tensor(.125), betas=(tensor(.25), tensor(.75))).state_dict())
    for x in (saved['param_groups'][0]['lr'], *saved['param_groups'][0]['betas']): x.fill_(.875)
    assert [float(x) for x in (opt.param_groups[0]['lr'], *opt.param_groups[0]['betas'])]==[.125, .25, .75]

def test_a_schedule_of_a_shared_tensor_goes_as_torchs():
    for make in (lambda p: lr_scheduler.StepLR(p, 1, .5), lambda p: lr_scheduler.ExponentialLR(p, .5), lambda p: lr_scheduler.CosineAnnealingLR(p, 4)):
        res = []
        for lib in (torch.optim, genopt):
            lr  = tensor(.1)
            opt = lib.SGD([dict(params=[P()]), dict(params=[P()])], lr=lr)
            schedule = make(opt)
            for _ in range(3):
                opt.step(); schedule.step()
            res.append((lr.item(), [float(g['lr']) for g in opt.param_groups]))
        assert res[0]==res[1]


# -- NumPy's numbers and arrays, and sequences that are no lists --

class ListConfig(Sequence):
    "As OmegaConf's: a Sequence that is neither a list nor a tuple, and not hashable"
    __hash__ = None
    def __init__(self, *xs): self.xs = xs
    def __len__(self): return len(self.xs)
    def __getitem__(self, i): return self.xs[i]

pairs  = dict(config=ListConfig(.8, .95), user=UserList([.8, .95]), array=np.array([.8, .95]), numbers=(np.float64(.8), np.float64(.95)), list=[.8, .95],
              zero_dim=[np.array(.8), np.array(.95)], tensor=tensor([.8, .95], dtype=torch.float64), mixed=(Fraction(4, 5), .95))
numbers = dict(float64=np.float64(.125), float32=np.float32(.125), float16=np.float16(.125), zero_dim=np.array(.125), longdouble=np.longdouble(.125), fraction=Fraction(1, 8))

def loads_alone(opt):
    "What a checkpoint carries torch.load takes with weights_only=True"
    torch.save(opt.state_dict(), f := io.BytesIO())
    f.seek(0)
    opt.load_state_dict(torch.load(f, weights_only=True))

@pytest.mark.parametrize('kw', [{}, dict(foreach=False), dict(fused=True)], ids=str)
@pytest.mark.parametrize('betas', pairs.values(), ids=pairs)
def test_a_pair_of_any_kind(betas, kw):
    "Given to the optimizer, in a group, in a group that is added, or set later"
    def later(ps):
        opt = Adam(ps, lr=.1, **kw)
        opt.param_groups[0]['betas'] = betas
        return opt
    def added(ps):
        opt = Adam([P()], lr=.1, **kw)
        opt.add_param_group(dict(params=ps, betas=betas))
        return opt
    q = P()
    ref = took([q], Adam([q], lr=.1, betas=(.8, .95), **kw))
    for make in (lambda ps: Adam(ps, lr=.1, betas=betas, **kw), lambda ps: Adam([dict(params=ps, betas=betas)], lr=.1, **kw), added, later):
        p = P()
        opt = took([p], make([p]))
        assert torch.equal(p, q) and [float(x) for x in opt.param_groups[-1]['betas']]==[.8, .95] and type(opt.param_groups[-1]['betas']) in (tuple, list)
        assert opt.hypers[-1]['mom']==ref.hypers[0]['mom']
        loads_alone(opt)

@pytest.mark.parametrize('kw', [{}, dict(foreach=False), dict(fused=True)], ids=str)
@pytest.mark.parametrize('lr', numbers.values(), ids=numbers)
def test_a_number_of_any_kind(lr, kw):
    q = P()
    took([q], SGD([q], lr=.125, momentum=.5, **kw))
    def later(p):
        opt = SGD([p], momentum=.5, **kw)
        opt.param_groups[0]['lr'] = lr
        return opt
    for make in (lambda p: SGD([p], lr=lr, momentum=.5, **kw), lambda p: Optimizer([p], [SGD], lr=lr, momentum=np.float32(.5), **kw), later):
        p = P()
        opt = took([p], make(p))
        assert torch.equal(p, q) and type(opt.param_groups[0]['lr']) is float
        opt.param_groups[0]['lr'] = lr                                      # set, and saved before the next step
        loads_alone(opt)
        took([p], opt, 1)

@pytest.mark.parametrize('flag', [np.bool_(True), np.array(True)], ids=['bool_','array'])
def test_a_flag_of_numpy(flag):
    p,q = P(),P()
    took([p], Adam([p], amsgrad=flag, maximize=flag)); took([q], Adam([q], amsgrad=True, maximize=True))
    assert torch.equal(p, q)
    opt = Adam([p])
    opt.param_groups[0]['maximize'] = flag
    took([p], opt)
    assert (p>q).all() and opt.param_groups[0]['maximize'] is True
    loads_alone(opt)

def test_numbers_that_a_schedule_or_a_note_brings_do_not_spoil_a_checkpoint():
    p   = P()
    opt = Optimizer([dict(params=[p], layer=np.int64(3), names=UserList(['a']))], [sgd_step], lr=.1)
    schedule = lr_scheduler.LambdaLR(opt, lambda i: np.float64(.5)**i)
    for _ in range(3):
        took([p], opt, 1); schedule.step()
    assert type(opt.state_dict()['param_groups'][0]['layer']) is int and isinstance(opt.param_groups[0]['names'], UserList)
    del opt.param_groups[0]['names']
    loads_alone(opt)
    opt = Adam([p])
    saved = opt.state_dict()
    saved['param_groups'][0].update(lr=np.array(.5), amsgrad=np.bool_(True), betas=np.array([.5, .5]))
    opt.load_state_dict(saved)                                              # of an older genopt, or of fastai
    assert opt.param_groups[0]['lr']==.5 and opt.param_groups[0]['amsgrad'] is True and opt.param_groups[0]['betas']==(.5, .5)
    took([p], opt)

@pytest.mark.parametrize('hypers,error,words', [
    (dict(betas=np.array([.9, .9, .9])), ValueError, 'betas must be 2 numbers'), (dict(betas=tensor([.9, .9, .9])), ValueError, 'betas must be 2 numbers'),
    (dict(betas='ab'), TypeError, 'betas must be 2 numbers'), (dict(lr=np.array([.1, .2])), TypeError, 'lr must be a real number'),
    (dict(lr=np.array('x')), TypeError, 'lr must be a real number'), (dict(lr=np.array(.1+0j)), TypeError, 'lr must be a real number'),
    (dict(lr=tensor([.1, .2])), ValueError, 'Tensor lr must be 1-element'), (dict(weight_decay=tensor([.1, .2])), ValueError, 'Tensor weight_decay must be 1-element'), (dict(amsgrad=np.float64(1.)), TypeError, 'amsgrad must be True or False')], ids=str)
def test_what_is_no_number_or_pair_is_refused_as_before(hypers, error, words):
    with pytest.raises(error, match=words): Adam([P()], **hypers)


# -- What stands in `opt.state` beside the parameters --

@pytest.mark.parametrize('v', [3, 'x', tensor(2.), [1], None, dict(a=tensor(1.))], ids=str)
@pytest.mark.parametrize('kw', [{}, dict(foreach=False), dict(fused=True)], ids=str)
def test_an_entry_of_the_state_that_is_no_parameters(v, kw):
    "It is saved, loaded and copied as in torch, shares nothing with what it was loaded from, and no step minds it"
    p   = P()
    opt = took([p], Adam([p], lr=.1, **kw))
    opt.state['epoch'] = v
    took([p], opt)
    saved  = opt.state_dict()
    loaded = Adam([P()], **kw)
    loaded.load_state_dict(saved)
    for o in (opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), loaded):
        assert str(o.state['epoch'])==str(v) and str(o.state_dict()['state']['epoch'])==str(v)
        took(o.param_groups[0]['params'], o, 1)
        o.eval(); o.train(); o.init_state(); o.clear_state(); o.explain()
    if torch.is_tensor(v): assert loaded.state['epoch'].data_ptr()!=v.data_ptr()

@pytest.mark.parametrize('v', [3, 'x', [1], None, tensor(1.)], ids=str)
def test_the_state_of_a_parameter_is_a_dict(v):
    p   = P()
    opt = took([p], Adam([p], lr=.1))
    with pytest.raises(TypeError, match='the state of a parameter is a dict, got'): opt.state[p] = v
    assert opt.state[p]['step']==2
    took([p], opt)
