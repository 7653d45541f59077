"""Sparse gradients: what they do is what the dense ones do, or is refused; SparseAdam is torch's."""

import copy
import pytest,torch
from torch import nn
from genopt import Adam,AdamW,Optimizer,SGD,SparseAdam
from genopt.blocks import lazy_rows,scale_by_trust_ratio

ways = pytest.mark.parametrize('kw', [{}, dict(foreach=False), dict(fused=True)], ids=['default','loop','fused'])

def net(sparse=True, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.ModuleDict(dict(e=nn.Embedding(20, 3, sparse=sparse, dtype=dtype), l=nn.Linear(3, 2, dtype=dtype)))
def train(m, opt, steps=30):
    for i in range(steps):
        opt.zero_grad()
        idx = torch.randint(20, (6,), generator=torch.Generator().manual_seed(i))
        m['l'](m['e'](idx)).square().sum().backward()
        if isinstance(opt, (list,tuple)): [o.step() for o in opt]
        else: opt.step()
    return m

def test_sparse_adam_is_torchs():
    a,b = net(),net()
    ours,theirs = SparseAdam(a['e'].parameters(), lr=.1),torch.optim.SparseAdam(b['e'].parameters(), lr=.1)
    train(a, ours, 100); train(b, theirs, 100)
    torch.testing.assert_close(a['e'].weight, b['e'].weight, rtol=1e-12, atol=1e-12)

@ways
@pytest.mark.parametrize('cls', [SGD], ids=lambda c: c.__name__)
def test_where_zero_changes_nothing_sparse_is_dense(cls, kw):
    a,b = net(),net(sparse=False)
    train(a, cls(a.parameters(), lr=.1, **kw)); train(b, cls(b.parameters(), lr=.1, foreach=False))
    for p,q in zip(a.parameters(), b.parameters()): torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)

def test_rows_without_gradient_are_not_touched():
    m = net()
    opt = Optimizer(m['e'].parameters(), [lazy_rows, AdamW], lr=.1)
    before = m['e'].weight.detach().clone()
    m['e'](torch.tensor([3, 3, 7])).sum().backward()
    opt.step()
    moved = (m['e'].weight!=before).any(1).nonzero().flatten().tolist()
    assert moved==[3,7] and opt.state[m['e'].weight]['grad_avg'].any(1).nonzero().flatten().tolist()==[3,7]

@pytest.mark.parametrize('cbs,words', [(Adam, 'sqr_avg changes where the gradient is zero; SparseAdam'), ([SGD, scale_by_trust_ratio], 'a callback needs more than one element'),
                                       ([lazy_rows, SGD, scale_by_trust_ratio], 'a callback needs more than one element')])
def test_what_cannot_be_is_refused_and_nothing_moves(cbs, words):
    m = net()
    opt = Optimizer(m.parameters(), cbs if isinstance(cbs, list) else [cbs], lr=.1)
    before = copy.deepcopy(m.state_dict())
    m['l'](m['e'](torch.tensor([1, 2]))).sum().backward()
    with pytest.raises(RuntimeError, match=f'does not support sparse gradients of parameter 0 in param group 0: {words}'): opt.step()
    assert all(torch.equal(v, before[n]) for n,v in m.state_dict().items()) and not opt.state

def test_weight_decay_is_refused_as_in_torch():
    m = net()
    m['e'](torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match='the parameter changes where the gradient is zero'): SGD(m['e'].parameters(), lr=.1, weight_decay=.1).step()

def test_dense_and_sparse_in_turns():
    "A parameter whose gradient is sparse in some steps and dense in others goes on with the same state"
    a,b = net(),net()
    oa,ob = SparseAdam(a['e'].parameters(), lr=.1),SparseAdam(b['e'].parameters(), lr=.1)
    for i in range(6):
        g = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(i))
        a['e'].weight.grad = g.to_sparse(1) if i%2 else g
        b['e'].weight.grad = g
        oa.step(); ob.step()
    torch.testing.assert_close(a['e'].weight, b['e'].weight, rtol=1e-13, atol=1e-13)

@pytest.mark.parametrize('policy', ['skip', 'raise'])
def test_nonfinite_rows_are_seen(policy):
    m = net()
    opt,before = SGD(m['e'].parameters(), lr=.1, nonfinite=policy),m['e'].weight.detach().clone()
    m['e'](torch.tensor([1])).sum().backward()
    m['e'].weight.grad = m['e'].weight.grad.coalesce()*float('nan')
    if policy=='skip':
        opt.step()
        assert opt.last_step_skipped
    else:
        with pytest.raises(FloatingPointError, match='the gradient of parameter 0 in param group 0 has 3 NaN'): opt.step()
    assert torch.equal(m['e'].weight, before)
