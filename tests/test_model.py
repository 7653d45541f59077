"""What callbacks may ask of the model: its loss, loss and gradients at other values, products with the Hessian."""

import pytest,torch
from torch import tensor
from genopt import Optimizer,SGD
from genopt.blocks import maximize,sgd_step
from genopt.blocks import hutchinson,polyak_rate,sharpness_aware

def two(dtype=torch.float64): return [tensor([1., 2.], dtype=dtype, requires_grad=True), tensor(3., dtype=dtype, requires_grad=True)]
def quartic(ps): return (ps[0]**4).sum() + ps[0].prod()*ps[1]**2
def closed(ps, opt, f=quartic, graph=False, clear=None):
    calls = []
    def closure():
        clear(ps) if clear else opt.zero_grad()
        loss = f(ps)
        loss.backward(create_graph=graph)
        calls.append(loss.item())
        return loss
    return closure,calls


def test_the_loss_is_that_of_the_start():
    seen = []
    def look(grads, loss): seen.append(loss.item()); return {}
    ps  = two()
    opt = Optimizer(ps, [look, sgd_step], lr=.01)
    closure,calls = closed(ps, opt)
    for _ in range(3): opt.step(closure)
    assert seen[-3:]==calls and calls[0]>calls[1]>calls[2]                               # before, it was rehearsed

@pytest.mark.parametrize('block,words', [(polyak_rate, 'polyak_rate reads the loss; call step\\(closure\\)'), (sharpness_aware, 'sharpness_aware evaluates the model; call step\\(closure\\)'),
                                         (hutchinson, 'no gradient has a graph; call loss.backward\\(create_graph=True\\)')])
def test_without_a_model_nothing_moves(block, words):
    from genopt.blocks import step_stat
    ps  = two()
    opt = Optimizer(ps, [step_stat, block, sgd_step], lr=.01)
    quartic(ps).backward()
    with pytest.raises(RuntimeError, match=words): opt.step()
    assert ps[0].tolist()==[1., 2.] and ps[1].item()==3. and not opt.state

def test_a_loss_that_is_linear_in_one_parameter():
    "Its gradient has no graph beside one that has, and its curvature is 0"
    x,y = torch.tensor([1., 2.], requires_grad=True),torch.tensor(3., requires_grad=True)
    seen = []
    def probe(params, grads, hvp): seen.append(hvp([torch.ones_like(p) for p in params])); return {}
    opt = Optimizer([x, y], [probe, sgd_step], lr=0.)
    ((x**3).sum()+2*y).backward(create_graph=True)
    assert not y.grad.requires_grad
    opt.step()
    assert [v.tolist() for v in seen[-1]]==[[6., 12.], 0.]

def zeros(ps):
    for p in ps:
        if p.grad is not None: p.grad.zero_()
@pytest.mark.parametrize('clear', [None, zeros])
def test_evaluate_gives_what_autograd_gives_and_leaves_all_as_it_was(clear):
    seen = []
    def probe(params, grads, evaluate):
        values = [p+.5 for p in params]
        seen.append((values, *evaluate(values), [p.clone() for p in params]))
        return {}
    ps  = two()
    opt = Optimizer(ps, [probe, sgd_step], lr=0.)
    closure,calls = closed(ps, opt, clear=clear)
    opt.step(closure)
    grads = [p.grad for p in ps]
    values,loss,at,params = seen[-1]
    qs = [v.clone().requires_grad_() for v in values]
    want = quartic(qs)
    assert loss==want and all(map(torch.equal, at, torch.autograd.grad(want, qs))) and len(calls)==2
    assert [p.tolist() for p in params]==[p.tolist() for p in ps]==[[1., 2.], 3.]
    rs = two()
    assert all(map(torch.equal, grads, torch.autograd.grad(quartic(rs), rs)))           # the user's gradients are those of the start

def test_a_model_that_fails_amid_a_step_changes_nothing():
    ps  = two()
    opt = Optimizer(ps, [sharpness_aware, sgd_step], lr=.01)
    closure,calls = closed(ps, opt, lambda ps: quartic(ps) if not calls else 1/0)
    with pytest.raises(ZeroDivisionError, match='division by zero'): opt.step(closure)
    assert [p.tolist() for p in ps]==[[1., 2.], 3.] and all(p.grad is not None for p in ps) and not opt.state

def test_upwards_everything_has_the_other_sign():
    "So that a block need not know"
    def ascend(up):
        ps  = two()
        opt = Optimizer(ps, [up and maximize, sharpness_aware, polyak_rate, sgd_step], lr=.01, f_min=-1e4)
        for _ in range(5): opt.step(closed(ps, opt, (lambda ps: -quartic(ps)) if up else quartic)[0])
        return torch.cat([p.detach().reshape(-1) for p in ps])
    assert torch.equal(ascend(True), ascend(False))

@pytest.mark.parametrize('dtype', [torch.float64, torch.complex128])
def test_products_with_the_hessian(dtype):
    seen = []
    def probe(params, hvp):
        vs = [torch.full_like(p, 2.) for p in params]
        seen.append(hvp(vs))
        return {}
    ps  = two(dtype)
    f   = lambda ps: sum((torch.view_as_real(p) if p.is_complex() else p).pow(3).sum() for p in ps)
    opt = Optimizer(ps, [probe, sgd_step], lr=0.)
    opt.step(closed(ps, opt, f, graph=True)[0])
    for p,h in zip(ps, seen[-1]):
        x = torch.view_as_real(p.detach()) if p.is_complex() else p.detach()
        torch.testing.assert_close(h, 12*x)                                             # of x^3 the Hessian is 6x, the vector 2

def test_groups_of_which_one_asks():
    "The other group is where it was while the first is tried elsewhere, and has its own step"
    ps  = two()
    opt = Optimizer([dict(params=ps[:1], cbs=[sharpness_aware, sgd_step], lr=.01), dict(params=ps[1:])], [sgd_step], lr=.01)
    opt.step(closed(ps, opt)[0])
    qs   = two()
    grad = torch.autograd.grad(quartic(qs), qs)
    near = [(qs[0] + .05*grad[0]/grad[0].norm()).detach().requires_grad_(), qs[1]]
    want = torch.autograd.grad(quartic(near), near[:1])[0]
    torch.testing.assert_close(ps[0], qs[0]-.01*want); torch.testing.assert_close(ps[1], qs[1]-.01*grad[1])

def test_loops_of_other_makes():
    "A closure given to an optimizer that does not ask is called once, as torch does"
    ps  = two()
    opt = SGD(ps, lr=.01)
    closure,calls = closed(ps, opt)
    assert opt.step(closure).item()==calls[0] and len(calls)==1

def test_a_line_search_is_a_block():
    "Half the step until the loss falls by enough (Armijo 1966): what `evaluate` is for"
    def backtrack(params, grads, loss, evaluate, lr):
        slope = sum(g.square().sum() for g in grads)
        while evaluate([p - lr*g for p,g in zip(params, grads)])[0]>loss-lr*slope/4: lr = lr/2
        return dict(lr=lr)
    ps  = two()
    opt = Optimizer(ps, [backtrack, sgd_step], lr=1.)
    closure,calls = closed(ps, opt, lambda ps: (ps[0]**4).sum() + ps[1]**2)
    losses = [opt.step(closure).item() for _ in range(30)]
    assert losses==sorted(losses, reverse=True) and losses[-1]<1. and len(calls)>30
