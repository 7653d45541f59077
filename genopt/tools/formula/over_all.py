r"""The recording of a callback that runs once over all parameters. Several rows of different lengths stand for the parameters, as in
`genopt.lower.families`. The formula is of the first, and has sums over all:

    def clip(grads): n = torch.stack([g.norm() for g in grads]).norm(); return dict(grads=[g/n for g in grads])

is `g' = g / \lVert g \rVert_{\text{all}}`. What the callback asks of the model is written down as well: `evaluate` gives the gradient of the loss f
at other values, and `hvp` a product with the Hessian."""

import torch
from torch import Tensor
from ..._torch import outside_of_modes
from ...contract.block import of_model
from ...contract.chain import Namespace
from ...contract.state import first
from ...lower.families import merge_families
from ...lower.reasons import NotRecorded
from ...lower.values import ELEMENTS,SINGLE,Value
from .expressions import gradient,hessian_product,loss,over_all,vector
from .recording import Recorded,RowRecorder

__all__ = ['RecordedOverAll']

sizes  = 37, 41, 43                                        # of the rows; no others are likely in a callback
joined = {torch.sum: 'sum', torch.amax: 'max', torch.amin: 'min'}


class RecordedOverAll(Recorded):
    "The recording of a callback, as in `Recorded`, on `n` parameters. `watched` notes the members of lists, because each variable is a list"
    def __init__(self, b, entries, flip=None, n=2):
        self.sizes = sizes[:n]
        super().__init__(b, entries, flip)

    def new_recorder(self): return RowRecorder(self.scalars, self.sizes, 2, lambda value: True)

    def run(self):
        self.model,spaces = Asked(self.recorder),self.spaces()
        with self.recorder.recording(self.b), self.watched(): outs = self.b.call_all(spaces, self.model, self.sizes)
        values = [{n: self.recorder.value(v) for n,v in out.items() if isinstance(v, Tensor)} for out in outs]
        merge_families(self.recorder.values, self.sizes, [v | asked for v,asked in zip(values, self.model.given_for(self.sizes))])
        return outs[0]

    def spaces(self):
        "A namespace for each parameter. Numbers, and what is read by its own name, are the same for all"
        members = {*self.b.lists.values()}
        known   = {n: e for n,e in self.entries.items() if n not in of_model}
        shared  = {n: self.shared(n, e) for n,e in known.items() if n not in members or e.kind in ('number', 'flag')}
        return [Namespace(shared | {n: self.member(n, e, family, size) for n,e in known.items() if n not in shared})
                for family,size in enumerate(self.sizes)]

    def shared(self, n, e): return self.stand_in(n, e) if e.kind in ('number', 'flag') else self.member(n, e, None, self.sizes[0])

    def member(self, n, e, family, size):
        if e.kind!='shaped': return self.tensor(n, size if e.kind=='elements' else (), family)
        if e.init is None: raise NotRecorded(f"reads {n!r}, whose shape is not known")
        return self.tensor(n, first(e.init, torch.ones(size)).shape, family)

    def of_value(self, v):
        match v.op:
            case 'cross_reduction':
                e = self.expr(v.args[0])
                return over_all(joined[v.kwargs['how']], e) if v.kwargs['how'] in joined else vector(e)
            case 'loss':     return loss(self.expr(self.model.places[v])) if v in self.model.places else self.entries['loss'].expr
            case 'gradient': return gradient(self.expr(v.args[0]))
            case 'hessian':  return hessian_product(self.entries['hvp'].expr, self.expr(v.args[0]))
        return super().of_value(v)


class Asked:
    "The model behind a recording. It writes down what it is asked, and gives random numbers"
    def __init__(self, recorder):
        self.recorder,self.given = recorder,[]
        self.places = {}                                   # a loss -> the values of the first parameter at which it is. It belongs to all

    def loss(self, items, by): return self.give('loss', (), None)

    def evaluate(self, items, by):
        def evaluate(values):
            loss = self.give('loss', (), None)
            self.places[self.recorder.value(loss)] = self.recorder.value(values[0])
            return loss,[self.give('gradient', size, i, v) for i,(size,v) in enumerate(zip(items, values, strict=True))]
        return evaluate

    def hvp(self, items, by): return lambda zs: [self.give('hessian', size, i, z) for i,(size,z) in enumerate(zip(items, zs, strict=True))]

    def give(self, op, shape, family, *of):
        "A tensor that the model makes of the tensors `of`, for the parameter number `family`"
        with outside_of_modes(): x = torch.rand(shape, dtype=torch.float64) + .5
        args = tuple(map(self.recorder.value, of))
        self.given.append((family, args))
        name = f'{op}{sum(f==family for f,_ in self.given)}'              # the same for all parameters
        kind = ELEMENTS if shape else SINGLE
        return self.recorder.add(Value(op, args, name=name, kind=kind, example=x, block=self.recorder.block, family=family), x)

    def given_for(self, sizes):
        "For each parameter what the model was given, by name: it has to be made alike for all"
        return [{f'#{k}': args[0] for k,args in enumerate(args for f,args in self.given if f==i)} for i,_ in enumerate(sizes)]
