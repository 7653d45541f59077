"""The operations of a flat part, rewritten for lists on an accelerator. Every operation
on lists reads and writes memory there, so the time of a step is the number of elements that it
moves. Identities of arithmetic lead from what a callback has written to the operations of which
torch builds its own optimizers. The move of Adam, for instance:

                                      lists moved    as it is rewritten                lists moved
    v5 = m / d1                       2
    v6 = sqrt(v / d2) + eps           6              w1 = sqrt(v) + eps*sqrt(d2)       4
    v7 = p - lr * (v5 / v6)           6              w2 = p - lr*sqrt(d2)/d1 * m/w1    4

An identity is used where the step then moves no more elements and needs no more memory. Results
differ in the last bits, and values in between overflow at other places. A CPU keeps the operations
as they are: the bits are the reference's there.

Products of scalars are `Factor`s, which the host computes in double precision before a step."""

import math
from collections import Counter
from dataclasses import dataclass, replace
from ..lower.values import ELEMENTS, SCALAR, Value, aten, tree_map
from .schedule import MIX, Schedule

__all__ = ['Factor', 'rewritten']


# -- Factors --


@dataclass(frozen=True)
class Factor:
    """A product: `number`, times powers of scalars. `powers`: pairs of a scalar's name and exponent.
    `rooted` and `divisors`: the scalars of which a root has been taken, and by which has been
    divided, though this may have cancelled out"""

    number: float = 1.0
    powers: tuple = ()
    rooted: frozenset = frozenset()
    divisors: frozenset = frozenset()

    def __mul__(self, other):
        exponents = Counter(dict(self.powers))
        exponents.update(dict(other.powers))
        powers = tuple((n, k) for n, k in sorted(exponents.items()) if k)
        return Factor(
            self.number * other.number,
            powers,
            self.rooted | other.rooted,
            self.divisors | other.divisors,
        )

    def reciprocal(self):
        powers = tuple((n, -k) for n, k in self.powers)
        divisors = self.divisors | {n for n, _ in powers}
        return replace(self, number=1 / self.number, powers=powers, divisors=divisors)

    def root(self):
        "The square root. `number` is positive"
        powers = tuple((n, k / 2) for n, k in self.powers)
        rooted = self.rooted | {n for n, _ in powers}
        return replace(
            self, number=math.sqrt(self.number), powers=powers, rooted=rooted
        )

    def __truediv__(self, other):
        return self * other.reciprocal()

    def __neg__(self):
        return replace(self, number=-self.number)

    def value(self, scalars):
        """The product. Raises `ArithmeticError` or `ValueError` where it is not finite, or a root
        does not exist: the identities do not hold then"""
        res = self.number
        for n, k in self.powers:
            x = float(scalars[n])
            res *= x if k == 1 else math.pow(x, k)
        negative = any(scalars[n] < 0 for n in self.rooted)
        zero = any(scalars[n] == 0 for n in self.divisors)
        if negative or zero or not math.isfinite(res):
            raise ArithmeticError
        return res


one = Factor()


def factor(a):
    "The number or scalar `a` as a factor. None if it is neither, or zero"
    if isinstance(a, Value):
        return Factor(powers=((a.name, 1),)) if a.kind == SCALAR else None
    plain = isinstance(a, (int, float)) and not isinstance(a, bool)
    return Factor(float(a)) if plain and a and math.isfinite(a) else None


# -- Operations --


def made(packet, *args, **kwargs):
    "The value of an operation on elements"
    like = next(a for a in args if isinstance(a, Value))
    return Value(packet, args, kwargs, kind=ELEMENTS, example=like.example)


# The words of the table of identities. Each is a formula, laid out by hand.
# fmt: off
def scaled(x, f):                    return made(aten.mul, x, f)                 # x*f
def shifted(x, f):                   return made(aten.add, x, f)                 # x + f
def root(x):                         return made(aten.sqrt, x)
def product(x, y):                   return made(aten.mul, x, y)
def quotient(x, y):                  return made(aten.div, x, y)
def added(x, y, f=one):              return made(aten.add, x, y, alpha=f)        # x + f*y
def mixed(x, f, y, g):               return made(MIX, x, f, y, g)                # x*f + g*y
def product_added(x, a, b, f=one):   return made(aten.addcmul, x, a, b, value=f)
def quotient_added(x, a, b, f=one):  return made(aten.addcdiv, x, a, b, value=f)

words = {aten.add: 'added', aten.mul: 'product', aten.div: 'quotient', aten.sqrt: 'root', MIX: 'mixed',
         aten.addcmul: 'product_added', aten.addcdiv: 'quotient_added'}
# fmt: on


def form(v):
    "What `v` is, as a word of the table, and of what. () if the table does not know it"
    if v.packet not in words or not all(map(is_float, v.operands)):
        return ()
    if isinstance(v.args[-1], Factor) and v.op != MIX:
        return ('shifted' if v.packet is aten.add else 'scaled'), *v.args
    return words[v.packet], *v.args, *v.kwargs.values()


def is_float(v):
    return v.kind == ELEMENTS and v.dtype.is_floating_point


# -- The operations of a callback in these words --


def canonical(v):
    "`v` in the words of the table, where it can be: a difference is a sum with a factor of -1"
    if not is_float(v) or not all(o.kind == SCALAR or is_float(o) for o in v.operands):
        return v
    if v.packet is aten.clamp:
        return clamped(v)
    translate = translations.get(v.packet)
    if translate is None:
        return v
    args = [operand(a) for a in v.args]
    kwargs = [operand(a) for a in v.kwargs.values()]
    if None in args or None in kwargs:
        return v
    return translate(*args, *kwargs)


def operand(a):
    "A list of elements as it is, a number or scalar as a factor, None for anything else"
    return a if isinstance(a, Value) and a.kind == ELEMENTS else factor(a)


def clamped(v):
    "Torch has no operation on lists with both limits"
    x, low, high = (*v.args, None, None)[:3]
    low, high = v.kwargs.get('min', low), v.kwargs.get('max', high)
    if any(isinstance(a, Value) and a.kind != SCALAR for a in (low, high)):
        return v  # a limit for each element
    if low is not None:
        x = made(aten.clamp_min, x, low)
    return x if high is None else made(aten.clamp_max, x, high)


def sum_of(x, y, f=one):
    if isinstance(y, Factor):
        return shifted(x, y * f)
    return shifted(scaled(y, f), x) if isinstance(x, Factor) else added(x, y, f)


def product_of(x, y):
    if isinstance(y, Factor):
        return scaled(x, y)
    return scaled(y, x) if isinstance(x, Factor) else product(x, y)


def quotient_of(x, y):
    if isinstance(y, Factor):
        return scaled(x, y.reciprocal())
    reciprocal = made(aten.reciprocal, y)
    return scaled(reciprocal, x) if isinstance(x, Factor) else quotient(x, y)


def product_added_to(x, a, b, f=one):
    return sum_of(x, product_of(a, b), f)


def quotient_added_to(x, a, b, f=one):
    return sum_of(x, quotient_of(a, b), f)


translations = {
    aten.add: sum_of,
    aten.sub: lambda x, y, f=one: sum_of(x, y, -f),
    aten.rsub: lambda x, y, f=one: sum_of(y, x, -f),
    aten.mul: product_of,
    aten.div: quotient_of,
    aten.neg: lambda x: scaled(x, -one),
    aten.square: lambda x: product(x, x),
    aten.sqrt: root,
    aten.addcmul: product_added_to,
    aten.addcdiv: quotient_added_to,
}


# -- The table of identities --

# `t(x)` is the form of `x` if it is a temporary that nothing else reads. It is then not needed
# any more. What is yielded may take the place of what `match` finds.
# fmt: off

def simpler(v, t):
    "Identities that bring factors together, for a later operation to take in"
    match form(v):
        case 'scaled', x, f:
            match t(x):
                case 'scaled', a, g:            yield scaled(a, g*f)
        case 'shifted', x, f:
            match t(x):
                case 'scaled', a, g:            yield scaled(shifted(a, f/g), g)
        case 'root', x:
            match t(x):
                case 'scaled', a, g if g.number>0: yield scaled(root(a), g.root())
        case 'product', x, y:
            match t(x):
                case 'scaled', a, g:            yield scaled(product(a, y), g)
            match t(y):
                case 'scaled', b, g:            yield scaled(product(x, b), g)
        case 'quotient', x, y:
            match t(x):
                case 'scaled', a, g:            yield scaled(quotient(a, y), g)
            match t(y):
                case 'scaled', b, g:            yield scaled(quotient(x, b), one/g)
        case 'added', x, y, f:
            match t(y):
                case 'scaled', b, g:            yield added(x, b, f*g)
                case 'product', a, b:           yield product_added(x, a, b, f)
                case 'quotient', a, b:          yield quotient_added(x, a, b, f)
            match t(x):
                case 'scaled', a, g:            yield mixed(a, g, y, f)
        case 'mixed', x, f, y, g:
            match t(x):
                case 'scaled', a, h:            yield mixed(a, h*f, y, g)
            match t(y):
                case 'scaled', b, h:            yield mixed(x, f, b, g*h)
                case 'product', a, b:           yield product_added(scaled(x, f), a, b, g)
                case 'quotient', a, b:          yield quotient_added(scaled(x, f), a, b, g)
        case 'product_added', x, a, b, f:
            match t(a):
                case 'scaled', c, g:            yield product_added(x, c, b, f*g)
            match t(b):
                case 'scaled', c, g:            yield product_added(x, a, c, f*g)
        case 'quotient_added', x, a, b, f:
            match t(a):
                case 'scaled', c, g:            yield quotient_added(x, c, b, f*g)
            match t(b):
                case 'scaled', c, g:            yield quotient_added(x, a, c, f/g)

def other(v, t):
    "Identities that are used only where the step then moves less, or needs less memory"
    match form(v):
        case 'product', x, y:                   yield product(y, x)
        case 'added', x, y, f:
            yield mixed(y, f, x, one)
            if f==one: yield added(y, x)
            match t(y):
                case 'added', a, b, g:          yield added(added(x, a, f), b, f*g)
                case 'mixed', a, g, b, h:       yield added(added(x, a, f*g), b, f*h)
            match t(x):
                case 'product', a, b:           yield product_added(scaled(y, f), a, b)
                case 'quotient', a, b:          yield quotient_added(scaled(y, f), a, b)
        case 'quotient_added', x, a, b, f:
            match t(a):
                case 'mixed', c, g, d, h:       yield quotient_added(quotient_added(x, c, b, f*g), d, b, f*h)
# fmt: on


# -- Rewriting --

most_operations = 200  # of a larger part every attempt would take too long


def rewritten(flat):
    "The schedule of `flat`, rewritten until no identity is of use any more"
    schedule = better = Schedule(replaced(flat, canonical))
    while better and len(better.order) <= most_operations:
        schedule = better
        better = next(improvements(schedule), None)
    return schedule


def improvements(schedule):
    "The schedules that one identity leads to, if they cost no more, or by `other` less"
    cost = schedule.moves, schedule.lists
    temporary = temporaries(schedule)
    for table in simpler, other:
        for v in schedule.order:
            for new in table(v, temporary):
                swap = lambda o: new if o is v else o
                found = Schedule(replaced(schedule.flat, swap))
                now = found.moves, found.lists
                if now < cost or now == cost and table is simpler:
                    yield found


def temporaries(schedule):
    "The function `t` of the table"
    flat, uses = schedule.flat, Counter()
    uses.update(o for v in schedule.order for o in v.operands)
    uses.update([*flat.stores.values(), *flat.single_stores.values(), *flat.leaves])
    return lambda x: form(x) if uses[x] == 1 and not schedule.is_given(x) else ()


def replaced(flat, f):
    "`flat` with `f(v)` in place of each value `v`. It is called with operands replaced already"
    new_of = {}
    at = lambda a: new_of.get(a, a) if isinstance(a, Value) else a
    for v in Schedule(flat).order:
        new = v
        if any(o in new_of for o in v.operands):
            new = replace(v, args=tree_map(v.args, at), kwargs=tree_map(v.kwargs, at))
        new = f(new)
        if new is not v:
            new_of[v] = new
    return replace(
        flat,
        rounds=(),
        stores={n: at(v) for n, v in flat.stores.items()},
        single_stores={n: at(v) for n, v in flat.single_stores.items()},
        leaves=tuple(map(at, flat.leaves)),
    )
