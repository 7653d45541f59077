"States that grow: `history(n)`, rows like the parameter, none at first"
import copy
import pytest,torch
import genopt
from genopt import Optimizer,history
from genopt.contract.tensors import compute

def mean_of_last(grad, last=history(3)):
    "The mean of the last three gradients"
    last = torch.cat([last, grad[None]])[-3:]
    return dict(last=last, update=last.mean(0))

def one_too_many(grad, last=history(2)):  return dict(last=torch.cat([last, grad[None]]), update=grad)
def another_shape(grad, last=history(2)): return dict(last=grad, update=grad)

def run(opt, p, n, first=0):
    for i in range(first, first+n):
        p.grad = torch.full_like(p, i+1.) if i!=2 else None
        opt.step()

kinds = [dict(shape=(2,3)), dict(shape=()), dict(shape=(0,2)), dict(shape=(2,), dtype=torch.bfloat16), dict(shape=(2,), dtype=torch.complex64),
         dict(shape=(2,), dtype=torch.float64)]

@pytest.mark.parametrize('kw', [{}, dict(foreach=True), dict(foreach=False)], ids=str)
@pytest.mark.parametrize('kind', kinds, ids=str)
def test_grows(kind, kw):
    p = torch.zeros(kind['shape'], dtype=kind.get('dtype', torch.float32), requires_grad=True)
    opt = Optimizer([p], [mean_of_last], lr=1., **kw)
    moved,lengths,grads = 0.,[],[]
    for i in range(6):
        run(opt, p, 1, i)
        if i!=2:                                                                # a parameter without a gradient rests
            grads.append(i+1.)
            moved -= sum(grads[-3:])/len(grads[-3:])
        lengths.append(len(opt.state[p]['last']))
    assert lengths==[1,2,2,3,3,3]
    state = opt.state[p]['last']
    assert state.dtype==compute(p).dtype and state.shape[1:]==compute(p).shape              # float32 of bfloat16, pairs of complex
    torch.testing.assert_close(p.detach(), torch.full_like(p, moved).detach())

def test_a_row_is_a_copy():
    "What is kept shares memory neither with the gradient nor with another state"
    def two(grad, a=history(2), b=history(2)):
        rows = torch.cat([a, grad[None]])[-2:]
        return dict(a=rows, b=rows, update=grad)
    p = torch.zeros(3, requires_grad=True)
    opt = Optimizer([p], [two], lr=1.)
    run(opt, p, 2)
    a,b = opt.state[p]['a'],opt.state[p]['b']
    a.fill_(7.)
    assert b.tolist()==[[1.]*3, [2.]*3]

@pytest.mark.parametrize('how', ['state_dict', 'deepcopy', 'save'])
def test_resumes(how, tmp_path):
    p,q = [torch.zeros(2, requires_grad=True) for _ in range(2)]
    a = Optimizer([p], [mean_of_last], lr=1.)
    run(a, p, 2)
    if how=='deepcopy':
        a,p = copy.deepcopy((a, p))
    b = Optimizer([q], [mean_of_last], lr=1.)
    sd = a.state_dict()
    if how=='save':
        torch.save(sd, tmp_path/'sd.pt')
        sd = torch.load(tmp_path/'sd.pt', weights_only=True)
    b.load_state_dict(sd)
    with torch.no_grad(): q.copy_(p)
    run(a, p, 3, 3); run(b, q, 3, 3)
    assert torch.equal(p, q)

refused = [
    (one_too_many,  {}, ValueError, r"one_too_many returned 'last' of shape \(3, 2\) in place of \(2, 2\)"),
    (another_shape, {}, ValueError, r"another_shape returned 'last' of shape \(2,\) in place of \(0, 2\)"),
    (mean_of_last,  dict(fused=True), ValueError, "fused=True is not possible: mean_of_last keeps the state 'last', which grows; leave fused out"),
    (mean_of_last,  dict(capturable=True), ValueError, "capturable=True is not possible: mean_of_last keeps the state 'last', which grows"),
]
@pytest.mark.parametrize('cb,kw,error,message', refused, ids=lambda x: getattr(x, '__name__', None))
def test_refused(cb, kw, error, message):
    p = torch.zeros(2, requires_grad=True)
    with pytest.raises(error, match=message): Optimizer([p], [cb], lr=1., **kw)

def test_shared_memory_is_refused():
    opt = Optimizer([torch.zeros(2, requires_grad=True)], [mean_of_last], lr=1.)
    with pytest.raises(ValueError, match="does not work with the state 'last', which grows"): opt.share_memory()
    assert not opt.state

def test_a_state_dict_with_too_many_rows_is_refused():
    p = torch.zeros(2, requires_grad=True)
    opt = Optimizer([p], [mean_of_last], lr=1.)
    run(opt, p, 2)
    sd = opt.state_dict()
    sd['state'][0]['last'] = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"'last' has shape \(4, 2\)"): opt.load_state_dict(sd)

def numbers(opt): return sum(v.numel() for s in opt.state.values() for v in s.values() if torch.is_tensor(v))

def test_lbfgs_keeps_as_much_as_torch():
    "After one step torch keeps a pair of vectors for each of its iterations, not `history_size` pairs"
    ours,theirs = [torch.linspace(-1, 1, 50, dtype=torch.float64).requires_grad_() for _ in range(2)]
    a,b = genopt.LBFGS([ours], lr=.5),torch.optim.LBFGS([theirs], lr=.5)
    def closure(opt, p):
        def run():
            opt.zero_grad()
            loss = ((p-1)**4 + p**2*torch.linspace(1, 9, 50, dtype=torch.float64)).sum()
            loss.backward()
            return loss
        return run
    a.step(closure(a, ours)); b.step(closure(b, theirs))
    s = b.state[theirs]
    assert numbers(a)/50==2*len(s['old_dirs']) + 2 > 20
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)

def test_an_lbfgs_checkpoint_of_fixed_length_loads():
    "Before, the state had `history_size` rows at once, the newest at the end"
    def problem():
        p = torch.linspace(-1, 1, 5, dtype=torch.float64).requires_grad_()
        opt = genopt.LBFGS([p], lr=.5, max_iter=4, history_size=6)
        def closure():
            opt.zero_grad()
            loss = ((p-1)**4).sum() + p.square().sum()
            loss.backward()
            return loss
        return p,opt,closure
    p,a,ca = problem()
    q,b,cb = problem()
    a.step(ca)
    old = copy.deepcopy(a.state_dict())
    for n in ('y_hist','s_hist'):
        rows = old['state'][0][n]
        old['state'][0][n] = torch.cat([rows.new_zeros(6-len(rows), 5), rows])
    b.load_state_dict(old)
    with torch.no_grad(): q.copy_(p)
    for _ in range(3): a.step(ca); b.step(cb)
    assert torch.equal(p, q)
    assert a.state[p]['y_hist'].shape==b.state[q]['y_hist'].shape

def test_lbfgs_with_parameters_that_come_late_and_rest():
    "One that has had no gradient has not moved, so it has no part in the differences of that time"
    p = torch.linspace(-1, 1, 5, dtype=torch.float64).requires_grad_()
    q = torch.linspace(-1, 1, 3, dtype=torch.float64).requires_grad_()
    opt = genopt.LBFGS([p, q], lr=.5, max_iter=4)
    for i in range(12):
        alone,before = i in (0, 2),q.detach().clone()
        def closure():
            opt.zero_grad()
            loss = ((p-1)**4).sum() + p.square().sum() + (0 if alone else (q-p[:3]).square().sum())
            loss.backward()
            return loss
        loss = opt.step(closure)
        if alone: assert torch.equal(q, before)
    assert loss<2.5
    torch.testing.assert_close(q, p[:3], rtol=0, atol=1e-4)

def test_rows_in_bfloat16():
    "Whether a state is small is asked of its largest size"
    p = torch.zeros(40, 40, requires_grad=True)
    opt = Optimizer([p], [mean_of_last], lr=1., store={'last': 'bfloat16'})
    for n in (1, 2, 2, 3, 3):
        run(opt, p, 1, n)
        assert opt.state[p]['last'].dtype==torch.bfloat16
    new = Optimizer([p], [mean_of_last], lr=1., store={'last': dict(dtype='bfloat16', smallest=5000)})
    assert new.explain().state==3*1600*4 and opt.explain().state==3*1600*2
    new.load_state_dict(opt.state_dict())
    assert new.state[p]['last'].dtype==torch.float32 and torch.equal(new.state[p]['last'], opt.state[p]['last'].float())

def test_at_least_one_row():
    with pytest.raises(ValueError, match='history must keep at least 1 row, got 0'): history(0)
    with pytest.raises(ValueError, match='history_size must be at least 1, got 0'): genopt.LBFGS([torch.ones(2, requires_grad=True)], history_size=0)
