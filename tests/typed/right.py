"""One callback of each kind, with types. mypy accepts all of it, strictly, and it runs: see tests/test_types.py."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any
import torch
from torch import Tensor, nn
import genopt
from genopt import (Adam, AdamW, Init, Lion, Muon, Optimizer, Range, SGD, algorithm, copy_of_p, count, fraction, full, groups, list_algorithms,
                    load_checkpoint, maximum, minimum, nonneg, ones, rename, save_checkpoint, scalar, scalar_tensor, where, zeros)
from genopt.blocks import adam_step, average_grad, average_sqr_grad, debias, l2_reg, step_stat, transforms


# -- Callbacks --

def average(grad: Tensor, mom: Annotated[float, fraction] = 0.9, grad_avg: Tensor = zeros) -> dict[str, Tensor]:
    "A stat: what is remembered"
    return dict(grad_avg=grad_avg*mom + grad*(1-mom))

def in_short(grad: Tensor, sqr_mom: fraction = 0.99, sqr_avg: Tensor = ones) -> dict[str, Tensor]:
    "A range alone is taken too: to a checker it is a float"
    return dict(sqr_avg=sqr_avg*sqr_mom + grad*grad*(1-sqr_mom))

def step(grad_avg: Tensor, sqr_avg: Tensor, eps: Annotated[float, nonneg] = 1e-8) -> Tensor:
    "A step: a bare tensor is the update"
    return grad_avg/(sqr_avg.sqrt()+eps)

def decay(p: Tensor, lr: float, wd: Annotated[float, Range('[0,1]')] = 0.01) -> dict[str, Tensor]:
    "A transform of the parameter"
    return dict(p=p*(1-lr*wd))

def clip(grads: list[Tensor], max_norm: float = 1., step_avgs: list[Tensor] = zeros) -> dict[str, list[Tensor]]:
    "A global one: lists over all parameters, of state too"
    norm = torch.stack([g.norm() for g in grads]).norm()
    scale = minimum(max_norm/(norm+1e-6), 1.)
    return dict(grads=[g*scale for g in grads], step_avgs=[a*0.9 + g*0.1 for a,g in zip(step_avgs, grads)])

def towards(params: list[Tensor], updates: list[Tensor]) -> list[Tensor]:
    "Another, whose bare list is the updates"
    return [u+0.01*p for p,u in zip(params, updates)]

def warm(lr: float, update: Tensor, steps_done: int = count, rate: float = scalar(1.), warmup: int = 10) -> dict[str, Tensor | float]:
    "Counters and numbers on the host"
    steps_done = steps_done+1
    rate = where(steps_done<warmup, steps_done/warmup, 1.)
    return dict(update=update*maximum(rate, 0.1), steps_done=steps_done, rate=rate)

def bounded(update: Tensor, norm_avg: Tensor = scalar_tensor(0.), floor: Tensor = full(0.1), start: Tensor = copy_of_p,
            seen: Tensor = Init(torch.zeros_like)) -> dict[str, Tensor]:
    "All other initializers"
    return dict(update=maximum(update, -1.), norm_avg=norm_avg*0.9 + update.norm()*0.1, floor=floor, start=start, seen=where(update>0, 1., seen))

def untyped(update, scale=1., slow=zeros):  # type: ignore[no-untyped-def]
    return dict(update=update*scale, slow=slow)


# -- An algorithm --

@algorithm
def Own(lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.) -> list[Any]:
    "Of the blocks of this file"
    return [weight_decay and decay, average, in_short, step]

@algorithm
def Untyped(lr=1e-3, weight_decay=0):  # type: ignore[no-untyped-def]
    return [weight_decay and transforms.weight_decay, average_grad, partial(rename(average_grad, grad_avg='slow_avg', mom='slow_mom'), slow_mom=.99)]


# -- Use --

def params() -> list[Tensor]: return [torch.ones(3, 2, requires_grad=True), torch.ones(2, requires_grad=True)]

def make(folder: Path) -> list[Optimizer]:
    "Optimizers in all the ways to make one"
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    weight_decay,flag = 0.1,True
    cbs  = [average, rename(in_short, sqr_avg='sqr_avg'), step]
    adam = Adam(model.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1, decoupled_weight_decay=True)
    opts = [
        adam,
        Adam(model.named_parameters(), lr=torch.tensor(1e-3), amsgrad=True, foreach=False, nonfinite='skip'),
        Adam(params(), mom=0.8, sqr_mom=0.9, wd=0.1),
        SGD([dict(params=params()), dict(params=params(), lr=0.1)], momentum=0.9),
        AdamW(groups(model, {(nn.LayerNorm, '*.bias'): dict(weight_decay=0), lambda n, p: p.ndim>1: dict(lr=1e-2)}), lr=1e-3),
        AdamW(groups(model, [('0.*', dict(lr=1e-2)), (2, dict(weight_decay=0.))])),
        Optimizer(groups(model, {2: dict(cbs=Muon, lr=0.02), '*': dict(cbs=AdamW)})),
        Optimizer(params(), cbs, lr=1e-3),
        Optimizer(params(), [weight_decay and decay, [average, in_short], flag and step, None, bounded], lr=1e-3, mom=0.8),
        Optimizer(params(), [clip, AdamW, towards, warm, untyped], lr=1e-3, max_norm=1., betas=(0.9, 0.99)),
        Optimizer(params(), [l2_reg, average_grad, average_sqr_grad, step_stat, debias, adam_step], lr=1e-3, wd=0.1),
        Optimizer(params(), partial(decay, wd=0.2), lr=1e-3),
        Optimizer([params(), params()], Lion, lr=1e-3, fused=None),
        Own(params(), 1e-2, (0.8, 0.9), weight_decay=0.1),
        Own(params(), lr=1e-2, wd=0.1, foreach=True, nonfinite='raise'),
        Untyped(params(), lr=1e-2, weight_decay=0.1, capturable=False),
        genopt.make('adamw', model, lr='1e-3', groups={'*.bias': dict(weight_decay=0)}),
        genopt.make(['clip_grad_norm', AdamW], params(), lr=1e-3),
    ]
    save_checkpoint(folder/'last.pt', model=model, opt=adam, epoch=3)
    rest: dict[str, Any] = load_checkpoint(folder/'last.pt', model=model, opt=adam)
    names: list[str] = list_algorithms('*adam*')
    assert rest['epoch']==3 and 'AdamW' in names
    return opts

def use(opt: Optimizer, model: nn.Module) -> float:
    "What one does with an optimizer"
    def closure() -> Tensor:
        opt.zero_grad()
        loss: Tensor = model(torch.ones(2, 3)).square().mean()
        loss.backward()
        return loss
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1)
    loss = opt.step(closure)
    scheduler.step()
    opt.step()
    opt.eval()
    opt.train()
    opt.nonfinite = 'raise'
    opt.hypers[0]['lr'] = 0.1
    opt.load_state_dict(opt.state_dict())
    print(opt.explain(), opt.name, opt.cbs)
    return loss.item()

kind: type[genopt.Optimizer] = genopt.Adam
