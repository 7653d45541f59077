"""Optimizers beside each other, each tuned with the same effort and trained with several seeds."""

import math,statistics,time,warnings,zlib
from dataclasses import dataclass
from pathlib import Path
import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
import genopt
from ..choices import at_least,one_of
from ..data import cache,classes,make_model
from .results import Results
from .search import best,search
from .specs import Stored,parse_specs
from .summary import beside,summary
from .training import Counter,Narrow,arguments,batches,check_sizes,held_out,load

__all__ = ['compare_tuned', 'with_states']

with_states = 'SGD(lr=0.05, momentum=0.9), RMSprop(lr=0.001), Adam(lr=0.003)'       # optimizers for `store`

warm_up   = 0.05                                            # the part of a training in which the rate rises
schedules = dict(constant=lambda t: 1., cosine=lambda t: min(1, t/warm_up)*(1+math.cos(math.pi*t))/2)
points    = 60                                              # of a curve


# -- What is trained --

@dataclass
class Task:
    "Data in three parts: to train on, to tune with, to test on; and how a model is trained on them"
    train: tuple
    valid: tuple
    test: tuple
    model: str
    n_out: int
    epochs: int
    bs: int
    schedule: str
    dtype: torch.dtype

    def net(self, seed, narrow=False):
        "A new model with the weights of `seed`; `narrow`: rounded to bfloat16"
        torch.manual_seed(seed)
        net = self.made().to(self.dtype)
        return Narrow(net) if narrow else net

    def made(self): return make_model(self.model, self.train[0], self.n_out)

    @property
    def steps(self): return self.epochs*(len(self.train[0])//self.bs)

def task_of(data, model, epochs, bs, schedule, dtype, root):
    "The task that the arguments describe, and the same as values for the file of results"
    type_ = getattr(torch, one_of(dtype, ('float32', 'float64'), 'dtype'))
    one_of(schedule, schedules, 'schedule')
    (x,y),test = sets = load(data, root, type_)
    about = arguments(data, model, epochs, bs)
    n     = len(x)*5//6
    check_sizes(n, about['epochs'], about['bs'])
    task  = Task((x[:n], y[:n]), (x[n:], y[n:]), test, n_out=classes(sets), schedule=schedule, dtype=type_, **about)
    net   = task.net(0)
    about = dict(data=data, **about, schedule=schedule, dtype=dtype, steps=task.steps,
                 parameters=sum(p.numel() for p in net.parameters()), tensors=len([*net.parameters()]),
                 examples=[len(o) for o,_ in (task.train, task.valid, test)], checksum=zlib.crc32(x.numpy().tobytes()))
    return task,about


# -- A training --

def settled(spec, net, tuned, exponent):
    "The optimizer of `spec` over `net`, with its hyper-parameter `tuned` at the start value times `10**(exponent/2)`, and a list of these values"
    opt = spec.ours(net)
    if tuned is None:
        return opt,[]
    for hypers in opt.hypers:
        hypers[tuned] = scaled(hypers, tuned, exponent, spec)
    return opt,[*dict.fromkeys(h[tuned] for h in opt.hypers)]

def scaled(hypers, tuned, exponent, spec):
    "The start value of `tuned`, times `10**(exponent/2)` to three digits"
    start = hypers.get(tuned)
    if isinstance(start, bool) or not isinstance(start, (int,float)) or start<=0:
        what = f'it is {start!r}' if tuned in hypers else f"it has {', '.join(hypers)}"
        raise ValueError(f"--tune {tuned}: {spec} has no positive number of this name to start from ({what}); "
                         f"give one, as in {spec.name}({tuned}=0.01)")
    return float(f'{start*10**(exponent/2):.3g}') if exponent else start

def train(spec, tuned, exponent, seed, task):
    """Train a model with the weights and the order of batches of `seed`. Returns the values of the hyper-parameter `tuned`, the losses and the
    accuracy on the test set, which are None if the training diverged, the curve of the training loss, and the seconds."""
    start   = time.perf_counter()
    net     = task.net(seed, spec.narrow)
    opt,values = settled(spec, net, tuned, exponent)
    losses  = descend(net, opt, task, seed)
    res     = dict(values=values, train_loss=None, valid_loss=None, test_loss=None, accuracy=None)
    if len(losses)==task.steps:
        opt.eval()
        (valid,_),(test,right) = held_out(net, *task.valid),held_out(net, *task.test)
        if math.isfinite(valid+test):
            res |= dict(train_loss=statistics.fmean(losses[-max(1, task.steps//10):]), valid_loss=valid, test_loss=test, accuracy=right)
    return res | dict(curve=curve(losses, task.steps), seconds=round(time.perf_counter()-start, 2))

def descend(net, opt, task, seed):
    "Train `net`. Returns the loss of each step, up to the first that is not finite"
    (x,y)    = task.train
    graph    = opt.is_second_order                          # such an optimizer differentiates the gradient
    schedule = LambdaLR(opt, lambda i: schedules[task.schedule](min(1, (i+1)/task.steps)))
    losses   = []
    for i,batch in enumerate(batches(len(x), task.bs, task.epochs, seed)):
        def closure():
            torch.manual_seed(seed*100_003 + i)             # the same dropout whenever a step evaluates the model
            opt.zero_grad()
            loss = cross_entropy(net(x[batch]), y[batch])
            with warnings.catch_warnings():
                warnings.filterwarnings('ignore', 'Using backward')         # the graph goes when zero_grad lets go of the gradients
                loss.backward(create_graph=graph)
            return loss.detach()
        try:
            loss = opt.step(closure).item()
        except torch.linalg.LinAlgError:                    # what decomposes a matrix fails on one that is not finite
            break
        if not math.isfinite(loss):
            break
        losses.append(loss)
        schedule.step()
    return losses

def curve(losses, steps):
    "Means of `losses` over equal parts of the training, to 5 digits"
    ends = [round(i*steps/min(points, steps)) for i in range(min(points, steps)+1)]
    return [float(f'{statistics.fmean(losses[a:b]):.5g}') for a,b in zip(ends, ends[1:]) if losses[a:b]]


# -- All of them --

def compare_tuned(
    opts: str,                      # optimizers, as in "AdamW, SGD(lr=0.1, momentum=0.9), Muon+AdamW, [AdamW, cautious]"
    data: str='digits',             # one of `datasets`
    model: str|None=None,           # mlp, transformer or a classifier of torchvision.models; by default what is usual on the data set
    epochs: int|None=None,          # the same
    bs: int|None=None,              # batch size; the same
    seed: int=42,                   # the seed that tuning uses; results are from the seeds after it
    seeds: int=5,                   # number of seeds after it
    tune: str|None='lr',            # the hyper-parameter to tune; None tunes nothing
    budget: int=8,                  # trainings of each optimizer to tune it
    store: str|None=None,           # a policy of storage: compares each optimizer under it with itself in float32
    schedule: str='cosine',         # of `schedules`
    dtype: str='float32',
    root: str|Path=cache,           # torchvision's folder
    results: Path|None=None,        # the file of results, which a run goes on from
    show: bool=False,               # show a bar of progress
) -> dict:
    """Tune each optimizer of `opts`, and train with it. Returns all that was measured, ready for JSON: the arguments, every training, and in
    `optimizers` the ranking (see `summary`). Weights and batches depend on the seed alone, so optimizers compare in pairs. Tuning takes the value
    with the lowest loss on a sixth of the training set, which no training sees.

    Under `store`, as in 'int8' or "sqr_avg: int8, '*_avg': bfloat16", `optimizers` has a pair of rows for each optimizer (see `beside`), with the
    bytes of weights and state for each element. The value that was tuned in float32 is taken under the policy too. A policy for parameters, as in
    'p: extra_bits', trains a model with parameters in bfloat16 that computes in float32.

    Raises `ValueError` for an argument that cannot be."""
    at_least(1, seeds=seeds, budget=budget)
    specs = parse_specs(opts, pairs=True)
    names = [*map(str, specs)]
    if twice := next((n for n in names if names.count(n)>1), None):
        raise ValueError(f"--opts has {twice} twice; leave one out, or give it another setting")
    if store and dtype!='float32':
        raise ValueError(f"--dtype {dtype}: --store compares with float32; leave --dtype out")
    task,about = task_of(data, model, epochs, bs, schedule, dtype, root)
    for spec in specs:
        settled(spec, task.net(seed), tune, 0)                              # refuses what cannot be before anything is trained
    pairs    = [(spec, stored(spec, store, task)) for spec in specs] if store else []
    versions = dict(genopt=genopt.__version__, torch=torch.__version__)
    kept     = Results(versions | about, results)
    for spec in [*specs, *(other for _,other in pairs)]:
        kept.forget(str(spec), spec.source)
    with Counter(len(specs)*((budget if tune else 0) + seeds) + len(pairs)*seeds, show) as counter:
        trainer = Trainer(task, tune, kept, counter)
        found   = {}
        for together in pairs or zip(specs):
            found |= trainer.tuned(together, seed, budget, seeds)
    finals = {name: runs for name,(runs,_) in found.items()}
    rows   = beside([(str(a), str(b)) for a,b in pairs], finals) if store else summary(names, finals)
    sizes  = {str(spec): dict(bytes=bytes_of(spec, task)) for both in pairs for spec in both}
    rows   = [row | found[row['optimizer']][1] | sizes.get(row['optimizer'], {}) for row in rows]
    more   = dict(seed=seed, seeds=seeds, tune=tune, budget=budget if tune else 0, opts=opts, first=names[0], optimizers=rows)
    if store:
        more |= dict(store=store, narrow=pairs[0][1].narrow)
    kept.save(**more)
    return kept.all() | more

def stored(spec, store, task):
    "`spec` under the policy `store`. Raises `ValueError` for a policy that `spec` cannot have, and for one that changes nothing"
    other = Stored(spec, store)
    try:
        small = bytes_of(other, task)
    except ValueError as e:
        raise ValueError(f"--store {store}: {e}; name another state, or leave {spec} out of --opts") from e
    if not other.narrow and small==bytes_of(spec, task):
        raise ValueError(f"--store {store} stores no state of {spec} on this model in fewer bytes: those of fewer than 4096 elements stay as they "
                         "are. Give a larger --model, or --store \"'*': {dtype: int8, smallest: 0}\"")
    return other

def bytes_of(spec, task):
    "Bytes of weights and state for each element of the model of the task"
    net = task.net(0, spec.narrow)
    own = [*net.parameters()]
    return (spec.ours(net).explain().state + sum(p.nbytes for p in own))/sum(p.numel() for p in own)

@dataclass
class Trainer:
    "Trains what the `store` has not yet"
    task: Task
    tune: str|None
    store: Results
    counter: Counter

    def training(self, spec, exponent, seed):
        what = dict(optimizer=str(spec), tuned=self.tune, exponent=exponent, seed=seed)
        self.counter.tick(str(spec))
        if not self.store.get(**what):
            own = {} if spec.source is None else dict(source=spec.source)
            self.store.add(train(spec, self.tune, exponent, seed, self.task) | own, **what)
        return self.store.get(**what)

    def tuned(self, specs, seed, budget, seeds):
        """For each of `specs`, by name: its trainings with each seed after `seed`, at the value that is best for the first of them; and that value.
        The first has all that were tried with `seed` beside it"""
        tried = {}
        def loss(exponent):
            t = tried[exponent] = self.training(specs[0], exponent, seed)
            return math.nan if t['valid_loss'] is None else t['valid_loss']
        exponent = best(search(loss, budget)) if self.tune else 0.
        pairs = [[t['values'], t['valid_loss']] for _,t in sorted(tried.items())]
        res   = {}
        for spec in specs:
            finals = [self.training(spec, exponent, s) for s in range(seed+1, seed+seeds+1)]
            res[str(spec)] = finals,dict(values=finals[0]['values'], tried=pairs if spec is specs[0] else [])
        return res
