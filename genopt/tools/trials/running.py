"""Runs one row on one degree of a task, at all rates and seeds side by side.

A run is the set of parameters that belongs to one rate and one seed. The parameters of all runs are slices of common tensors, so one evaluation
gives all gradients. Where runs do not know of each other, one optimizer has them all, with a param group for each rate."""

import statistics,warnings
from dataclasses import dataclass
from functools import partial
import torch
from ..bench import one_thread

__all__ = ['Outcome', 'checks', 'run']


checks  = 50            # how often a run is judged within the budget
runaway = 1e15          # a loss beyond this, relative to the loss at the start, counts as diverged

@dataclass
class Outcome:
    """For each rate how many seeds `passed`, and the number of gradients after which the seeds of the best rate passed, in the median. `refused`: why
    the optimizer takes no such parameters. `raised`: the error that ended the runs"""
    passed: list
    evaluations: int|None = None
    refused: str|None = None
    raised: str|None = None

def run(row, problem, steps, rates, seeds) -> Outcome:
    "The outcome of a `Row`"
    none = [0]*len(rates)
    with one_thread(), torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter('ignore')             # graphs of gradients make cycles; low precision loses updates
        manner = row.manner
        torch.manual_seed(0)
        runs = Runs(problem, steps, rates, seeds)
        try:
            optimizers = runs.optimizers(row.make, manner)
            runs.step(optimizers, manner)
        except Exception as e:
            return Outcome(none, refused=in_short(e))
        raised = None
        try:
            runs.until_decided(optimizers, manner)
        except Exception as e:
            raised = in_short(e)
    passed = runs.passed.view(len(rates), len(seeds))
    counts = passed.sum(1).tolist()
    after  = [[n for n,ok in zip(row, oks) if ok] for row,oks in zip(runs.count.view_as(passed).tolist(), passed.tolist())]
    best   = [statistics.median(ns) for ns in after if ns and len(ns)==max(counts)]
    return Outcome(counts, int(min(best)) if best else None, raised=raised)

def group(params, lr):
    "A param group. A task with parameters of low precision is about what rounding loses, so genopt keeps nothing of it"
    low = any(p.is_floating_point() and p.element_size()<4 for p in params)
    return dict(params=params, lr=lr) | (dict(store={'p': 'nearest'}) if low else {})

def in_short(e):
    return ' '.join(f'{type(e).__name__}: {e}'.split())[:200]


class Runs:
    "The runs of a problem: run `i*len(seeds)+j` has rate `i` and seed `j`"
    def __init__(self, problem, steps, rates, seeds):
        self.problem,self.steps,self.rates = problem,steps,rates
        n = len(rates)*len(seeds)
        starts = [problem.start(torch.Generator().manual_seed(s)) for s in seeds]
        self.values  = [torch.stack(xs).repeat(len(rates), *[1]*xs[0].ndim) for xs in zip(*starts)]
        self.seed_of = torch.arange(len(seeds)).repeat(len(rates))
        self.params  = [[torch.nn.Parameter(v[r]) for v in self.values] for r in range(n)]
        self.grads   = [torch.zeros_like(v) for v in self.values]
        self.noise   = None
        if problem.noise:
            self.noise = torch.stack([problem.noise(torch.Generator().manual_seed(1000+s), steps) for s in seeds], 1)
        self.past    = []                           # the values before each of the last `delay` steps
        self.t       = 0
        self.count   = torch.zeros(n, dtype=torch.long)         # evaluations of each run
        self.streak  = torch.zeros(n, dtype=torch.long)
        self.open    = torch.ones(n, dtype=torch.bool)
        self.stepping = self.open.clone()                       # those that have gradients
        self.finite  = torch.ones(n, dtype=torch.bool)
        self.passed  = torch.zeros(n, dtype=torch.bool)
        self.limit   = None

    def optimizers(self, make, manner):
        "Pairs of an optimizer and the runs that it has, as a slice"
        n,s = len(self.params),len(self.params)//len(self.rates)
        groups = [group([p for ps in self.params[i*s:i*s+s] for p in ps], lr) for i,lr in enumerate(self.rates)]
        if not manner.apart:
            return [(make(groups), slice(0, n))]
        return [(make([group(ps, self.rates[r//s])]), slice(r, r+1)) for r,ps in enumerate(self.params)]

    # -- Evaluating --

    def call(self, f, xs, rows):
        "`f`, which is the problem's loss or error, of the values `xs` of `rows`"
        if self.noise is None:
            return f(*xs)
        t = min(self.t, self.steps-1)
        return f(*xs, z=self.noise[t][self.seed_of[rows]])

    def late(self, xs, rows):
        "`xs` with the values that they had `delay` steps ago, and with the graph of `xs`"
        if not self.problem.delay:
            return xs
        return [x + (old[rows]-x).detach() for x,old in zip(xs, self.past[0])]

    def evaluate(self, rows, closure, graph):
        "Put the gradients of `rows` in place, and return the sum of the losses"
        if graph:
            each = self.params[rows]
            xs   = [torch.stack(ps) for ps in zip(*each)]
        else:
            xs   = [v[rows].detach().requires_grad_() for v in self.values]
        loss = self.call(self.problem.loss, self.late(xs, rows), rows)
        if self.limit is None:
            self.limit = runaway*(1+loss.detach().abs().max())
        self.finite[rows] &= loss.detach().abs()<self.limit
        self.count[rows]  += self.open[rows]
        if graph:
            leaves = [p for ps,ok in zip(each, self.usable(rows)) for p in ps if ok]
            for ps in each:
                for p in ps:
                    p.grad = None
            if leaves:
                for p,g in zip(leaves, torch.autograd.grad(loss.sum(), leaves, create_graph=True)):
                    p.grad = g
        else:
            grads = torch.autograd.grad(loss.sum(), xs)
            (self.hand_out if closure else self.fill)(rows, grads)
        return loss.sum()

    def usable(self, rows): return (self.open[rows] & self.finite[rows]).tolist()

    def fill(self, rows, grads):
        "Write gradients into the tensors that the parameters have as `grad`; a run that has diverged gets zeros until it is closed"
        for kept,g in zip(self.grads, grads):
            ok = self.finite[rows].view(-1, *[1]*(g.ndim-1))
            kept[rows] = torch.where(ok, g, 0)

    def hand_out(self, rows, grads):
        "Give each parameter a `grad` of its own, as an optimizer expects that evaluates more than once in a step"
        for i,(ps,ok) in enumerate(zip(self.params[rows], self.usable(rows))):
            for p,g in zip(ps, grads):
                p.grad = g[i] if ok else None

    # -- Stepping --

    def step(self, optimizers, manner):
        "One step of every optimizer that has a run which is open"
        if self.problem.delay:
            self.past = [*self.past, [v.clone() for v in self.values]][-self.problem.delay-1:]
        if not manner.closure:
            if not self.t:
                self.hand_out(slice(None), self.grads)
            self.evaluate(slice(None), False, False)
        for opt,rows in optimizers:
            if not self.open[rows].any():
                continue
            if manner.closure:
                opt.step(partial(self.evaluate, rows, True, manner.graph))
            else:
                opt.step()
        self.t += 1

    def until_decided(self, optimizers, manner):
        "Step, and judge `checks` times within the budget, until every run has passed, has diverged or has used up its budget"
        every,judged = max(1, self.steps//checks),0
        self.averages = hasattr(optimizers[0][0], 'eval')                       # whether there are weights to evaluate beside those to train
        while self.open.any():
            self.step(optimizers, manner)
            made = int(self.count.max())
            if made-judged>=every or made>=self.steps or not self.finite.any():
                self.judge(optimizers)
                judged = made

    @torch.no_grad()
    def judge(self, optimizers):
        "Close the runs that have passed, have diverged or have used up their budget"
        if self.averages:
            for opt,_ in optimizers:
                opt.eval()
        error = self.call(self.problem.error or self.problem.loss, self.values, slice(None))
        if self.averages:
            self.averages = not getattr(optimizers[0][0], 'training', False)    # genopt's stays in training where there is nothing else to evaluate
            for opt,_ in optimizers:
                opt.train()
        below = (error<=self.problem.threshold) & self.finite
        self.streak  = torch.where(below, self.streak+1, 0)
        self.passed |= self.open & (self.streak>=self.problem.hold)
        self.open &= ~(self.passed | ~self.finite | (self.count>=self.steps))
        self.leave()

    def leave(self):
        """Take the gradients from closed runs, so that a step leaves them out. A step has to be prepared anew where this changes, so it waits until a
        quarter of the runs can go"""
        closed = self.stepping & ~self.open
        if closed.sum()*4>=self.stepping.sum():
            for r in closed.nonzero()[:,0].tolist():
                for p in self.params[r]:
                    p.grad = None
            self.stepping &= self.open
