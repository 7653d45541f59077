"""Scalars that a kernel computes, because counters or hyper-parameters are on the device: with
`capturable=True`, and where a step may be skipped without the host's knowledge.

The scalar program of a chain is a Python function of numbers. Here it runs on `DeviceNumber`s,
whose arithmetic becomes lines of a kernel. With Adam's `step` on the device, and all else on the
host,

    x5 = ns['step'] + 1            t0 is what the tensor holds       v0 = t0 + k0
    x6 = ns['mom'] ** x5           k1 is mom, and is sent            v1 = libdevice.pow(k1, v0)
    x7 = 1 - x6                                                      v2 = k2 - v1

The kernel has a program for each row. It writes the row, and the new counters. A plain number is
not part of the source, so a schedule compiles nothing. A program that asks for the value of a
device number runs on tensors instead, as operations of torch."""

import operator
import struct
from operator import is_
import torch
from torch import Tensor
from .._torch import foreach_copy
from . import triton_runtime as runtime
from .scalars import ScalarTable
from .triton import Triton, indented
from .triton_launch import Mirror

__all__ = ['DeviceScalars']

written = {}  # signature -> the function of its kernel; all optimizers share them


class NotOnDevice(Exception):
    "Somebody asks for the value of a number that is on the device"


class Trace:
    """The lines that compute one row. `tensors`: those that are read; `numbers`: plain numbers, in
    the order in which the lines read them"""

    def __init__(self):
        self.lines, self.tensors, self.numbers = [], [], []

    def tensor(self, x):
        self.tensors.append(x)
        return DeviceNumber(self, f't{len(self.tensors) - 1}')

    def text(self, v):
        "`v` as a number of the kernel"
        if isinstance(v, DeviceNumber):
            return f'{v.text}.to(tl.float64)' if v.is_bool else v.text
        self.numbers.append(float(v))
        return f'k{len(self.numbers) - 1}'

    def line(self, text, is_bool=False):
        name = f'v{len(self.lines)}'
        self.lines.append(f'{name} = {text}')
        return DeviceNumber(self, name, is_bool)

    def where(self, condition, a, b):
        known = isinstance(condition, DeviceNumber) and condition.is_bool
        asked = condition.text if known else f'{self.text(condition)} != 0.0'
        return self.line(f'tl.where({asked}, {self.text(a)}, {self.text(b)})')


class DeviceNumber(torch.SymFloat):
    "A number that only a kernel knows, as `text`. It is a `SymFloat` so that torch passes it on"

    def __init__(self, trace, text, is_bool=False):
        self.trace, self.text, self.is_bool = trace, text, is_bool

    @property
    def node(self):
        raise NotOnDevice

    def refuse(self, *args):
        raise NotOnDevice

    __bool__ = __float__ = __int__ = __index__ = __hash__ = __round__ = refuse

    def __repr__(self):
        return self.text

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        trace = next(a.trace for a in args if isinstance(a, DeviceNumber))
        if func is torch.where and not kwargs:
            return trace.where(*args)
        if func in of_torch and not kwargs:
            return of_torch[func](*args)
        raise NotOnDevice


# `{0}` and `{1}` are the operands
binary = dict(
    add='{0} + {1}',
    sub='{0} - {1}',
    mul='{0} * {1}',
    truediv='{0} / {1}',
    floordiv='tl.floor({0} / {1})',
    mod='{0} - tl.floor({0} / {1}) * {1}',
    pow='libdevice.pow({0}, {1})',
)
compared = dict(lt='<', le='<=', gt='>', ge='>=', eq='==', ne='!=')
unary = dict(neg='-{0}', pos='{0}', abs='tl.abs({0})')


def define(name, template, is_bool=False, reflected=False):
    "Give `DeviceNumber` an operator of Python"

    def on_the_left(self, *others):
        texts = map(self.trace.text, (self, *others))
        return self.trace.line(template.format(*texts), is_bool)

    def on_the_right(self, other):
        texts = map(self.trace.text, (other, self))
        return self.trace.line(template.format(*texts), is_bool)

    setattr(DeviceNumber, f'__{name}__', on_the_left)
    if reflected:
        setattr(DeviceNumber, f'__r{name}__', on_the_right)


for name, template in binary.items():
    define(name, template, reflected=True)
for name, sign in compared.items():
    define(name, f'{{0}} {sign} {{1}}', is_bool=True)
for name, template in unary.items():
    define(name, template)

of_torch = {
    torch.sqrt: lambda x: x**0.5,
    torch.pow: operator.pow,
    torch.abs: abs,
    torch.maximum: lambda a, b: a.trace.where(a > b, a, b),
    torch.minimum: lambda a, b: a.trace.where(a < b, a, b),
}


def traced(scalars, numbers):
    "The values and the new counters of one row, and their `Trace`. None if a guard fails"
    trace = Trace()
    ns = {
        n: trace.tensor(v) if isinstance(v, Tensor) else v for n, v in numbers.items()
    }
    computed = scalars(ns)
    return None if computed is None else (*computed, trace)


class Row:
    """One row as the kernel has it. `signature`: its source. `words`: what the kernel reads beside
    that, as integers of 64 bits: the number of the row, addresses, then plain numbers"""

    def __init__(self, r, values, counters, trace, table, clock):
        self.trace, self.table = trace, table
        new = [(clock.values[n], trace.text(v)) for n, v in counters.items()]
        self.cells = [x for x, _ in new]
        stores = self.stores(values)  # writing them reads numbers, too
        lines = [*self.loads(), *trace.lines, *stores, *self.counts(new)]
        self.signature = source(lines, self.size, table.width, table.gate)
        n = len(trace.numbers)
        numbers = struct.unpack(f'{n}q', struct.pack(f'{n}d', *trace.numbers))
        self.words = [r, *(x.data_ptr() for x in trace.tensors), *numbers]

    @property
    def size(self):
        return 1 + len(self.trace.tensors) + len(self.trace.numbers)

    def loads(self):
        "Statements that load tensors and plain numbers"
        lines, at = [], 1
        for i, x in enumerate(self.trace.tensors):
            pointer = f'tl.load(at + {at}).to(tl.pointer_type({stored(x)}))'
            lines += [f'a{i} = {pointer}', f't{i} = tl.load(a{i}).to(tl.float64)']
            at += 1
        for i in range(len(self.trace.numbers)):
            lines.append(f'k{i} = tl.load(at + {at + i}).to(tl.float64, bitcast=True)')
        return lines

    def stores(self, values):
        "Statements that write the row: scalars, then the reciprocals of some"
        T = Triton(self.table.on_device.dtype).T
        texts = [self.trace.text(v) for v in values]
        texts += [f'1.0 / {texts[i]}' for i in self.table.divisors]
        return [f'tl.store(row + {i}, ({x}).to({T}))' for i, x in enumerate(texts)]

    def counts(self, new):
        "Statements that write the new counters, or leave them in `fresh`. `new`: cells and values"
        if not new:
            return []
        place = {id(x): i for i, x in enumerate(self.trace.tensors)}
        advance, keep = [], []
        for i, (x, text) in enumerate(new):
            j = place[id(x)]
            if self.table.gate:
                text = f'tl.where(go, {text}, t{j})'
            advance.append(f'tl.store(a{j}, ({text}).to({stored(x)}))')
            keep.append(f'tl.store(fresh + tl.load(at)*{len(new)} + {i}, {text})')
        return ['if ADVANCE:', *indented(advance), 'else:', *indented(keep)]


types = dict(Triton.types) | {torch.int64: 'tl.int64', torch.int32: 'tl.int32'}


def stored(x):
    if x.dtype not in types:
        raise NotOnDevice
    return types[x.dtype]


def source(lines, size, width, gate):
    "The kernel for rows of one signature"
    body = [
        f'at = words + tl.program_id(0)*{size}',
        f'row = scalars + tl.load(at)*{width}',
        *['go = tl.load(flag) == 0.0'] * bool(gate),
        *lines,
    ]
    flag = 'flag, ' if gate else ''
    head = f'def scalar_rows(words, scalars, fresh, {flag}ADVANCE: tl.constexpr):'
    return '\n'.join(['@jit', head, *indented(body), ''])


class DeviceScalars(ScalarTable):
    """The scalars of `rows`, computed on the device. `known`: the numbers of each row for which
    `launches` are bound: of each signature a `Mirror` of what its rows read, and its kernel.
    `at_once`: nobody else computes from these counters, so that the kernel may write them. Else it
    leaves the new ones in `fresh`, for `advance`. `gate`: if it is closed, new counters are the old"""

    def __init__(self, program, rows, at_once, gate):
        super().__init__(program, rows)
        self.at_once, self.by_kernel, self.gate = at_once, True, gate
        self.known, self.launches, self.pairs = None, [], []
        self.recorded = []  # launches of before, which CUDA graphs have recorded

    def prepare(self, settings, handed=None):
        numbers = [row.numbers(settings) for row in self.rows]
        flat = [v for of_row in numbers for v in of_row.values()]
        if self.same(flat):
            return True
        self.by_kernel = True
        try:
            found = [traced(self.scalars, n) for n in numbers]
            if None in found:
                return False
            self.bind(found)
            self.values = [values for values, *_ in found]
        except Exception:  # a callback needs the number itself: let it have a tensor
            self.by_kernel, self.known = False, None
            return super().prepare(settings, handed)
        self.known = flat
        return True

    def same(self, flat):
        return (
            self.known is not None
            and len(flat) == len(self.known)
            and all(map(is_, flat, self.known))
        )

    def bind(self, found):
        rows = [
            Row(r, *of_row, self, self.rows[r].clock) for r, of_row in enumerate(found)
        ]
        n = max(len(row.cells) for row in rows)
        if not self.pairs:
            new = torch.zeros(len(rows), max(1, n), dtype=torch.float64)
            self.fresh = new.to(self.on_device.device)
        self.pairs = [
            pair for row, xs in zip(rows, self.fresh) for pair in zip(row.cells, xs)
        ]
        by_signature = {}
        for row in rows:
            by_signature.setdefault(row.signature, []).append(row)
        old = {(signature, m.size): (m, k) for signature, m, k in self.launches}
        self.recorded += [x for x in self.launches if x[1].captured]
        self.launches = []
        for signature, mine in by_signature.items():
            words = [w for row in mine for w in row.words]
            mirror, kernel = old.get((signature, len(words)), (None, None))
            if mirror is None:
                mirror = Mirror(len(words), self.on_device.device)
                kernel = self.kernel(signature, mirror, len(mine))
            mirror.write(0, words)
            self.launches.append((signature, mirror, kernel))

    def kernel(self, signature, mirror, n):
        device = self.on_device.device
        interpreted = runtime.interprets(device)
        key = signature, interpreted
        if key not in written:
            (written[key],) = runtime.functions(signature, ['scalar_rows'], interpreted)
        gate = [self.gate.flag] if self.gate else []
        args = [mirror.there, self.on_device, self.fresh, *gate, self.at_once]
        return runtime.BoundKernel(written[key], n, args, device)

    def compute(self):
        if not self.by_kernel:
            return
        for _, mirror, kernel in self.launches:
            mirror.send()
            runtime.launch([kernel], self.on_device.device)

    def named(self, r):
        if not self.by_kernel:
            return super().named(r)
        there = self.on_device[r].unbind()
        return {
            n: there[i] if isinstance(v, DeviceNumber) else v
            for i, (n, v) in enumerate(zip(self.names, self.values[r]))
        }

    def advance(self):
        if not self.by_kernel:
            self.counters = [*map(self.gated, self.counters)]
            super().advance()
        elif not self.at_once and self.pairs:
            foreach_copy(*map(list, zip(*self.pairs)))

    def gated(self, counted):
        "The counters of a row, or what they were if the gate is closed"
        clock, new = counted
        if self.gate is None:
            return counted
        go = self.gate.flag == 0
        return clock, {n: torch.where(go, v, clock.values[n]) for n, v in new.items()}
