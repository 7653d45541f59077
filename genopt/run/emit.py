"""Kernels: the stages of a program as one C function over a table of pointers.

The function goes over all parameters of a program, wherever they lie in memory. The table has a row of addresses for each
name (`p`, `grad`, the states, scratch memory). Parameters are cut into tiles of at most `block` elements; a tile knows its
parameter and its place in it. Each parameter has a row of scalars. A round is a loop over tiles; where it reduces, each tile
leaves a partial result, and these are added up in order, so the result does not depend on the number of threads.

    SGD with momentum becomes           for (i = 0; i < n; i++) {
                                          const T e0 = m0[i], e1 = m1[i], e2 = m2[i];     // p, grad, grad_avg
                                          const T v5 = (e2 * s0);
                                          const T v7 = FMA(s1, e1, v5);
                                          const T v9 = FMA((-s2), v7, e0);
                                          m0[i] = v9;
                                          m2[i] = v7;
                                        }

Values are called `m3` where they lie in memory, `e3` when they are loaded from there, `s3` if they are scalars, `w3` if they
are single numbers that are kept from round to round, and by their own name `v3` where they are computed.

A stage is a C function. `run` calls the one that it is told, or all of them with the cross reductions between."""

from copy import copy
import torch
from ..lower.operations import cross_kind, reduction, write
from ..lower.record import CROSS, ELEMENTS, SCALAR, SINGLE, aten
from .c import C, block, prelude, starts, types

__all__ = ['look_source', 'source']


def source(program, scalars, dtypes):
    """The C source of `program`, a function `run`. `scalars`: the names in a row of scalars, in order; `dtypes`: of what lies
    in memory, by name"""
    names = Names(program, scalars, dtypes)
    flats = [s.flat for s in program.stages]
    code = [line for k, f in enumerate(flats) if f for line in StageEmitter(names, k, f).source()]
    one = [line for k, f in enumerate(flats) if f for line in one_stage(k)]
    everything = all_stages(program, names) if program.one_call else []
    legend = [f'm{i}: {n}' for n, i in names.slots.items()] + [
        f's{i}: {n}' for n, i in names.scalars.items()
    ]
    lines = [
        prelude,
        f'/* {", ".join(legend)} */',
        f'typedef {names.T} T;',
        f'#define BLOCK {block}',
        *code,
        *function('void run(const Args* a)', [*one, *everything]),
    ]
    return '\n'.join(lines) + '\n'


def one_stage(k):
    return [f'if (a->stage == {k}) {{ stage_{k}(a); return; }}']


def function(head, body):
    return [f'{head} {{', *indent(body), '}']


def indent(lines):
    return [f'  {line}' for line in lines]


def each_parameter(body):
    return function('for (int64_t t = 0; t < a->n; t++)', body) if body else []


def folded(total, x, sign):
    "The statement that takes `x` into the result `total` of a reduction. NaN stays"
    if sign == '+':
        return f'{total} += {x};'
    better = '>' if sign == 'max' else '<'
    return f'{total} = ({x} {better} {total}) | ({x} != {x}) ? {x} : {total};'


class Names:
    "What the values of a program are called in C. `slots`: rows of the table; `kept`: single numbers of each parameter"

    def __init__(self, program, scalars, dtypes):
        flats = [s.flat for s in program.stages if s.flat]
        self.dtypes, self.compute_dtype = dtypes, program.layout.compute_dtype
        self.T = types[self.compute_dtype]
        self.d = C(self.T)
        self.slots = numbered(program.names_in_memory)
        self.scalars = numbered(scalars)
        self.kept = numbered(v for f in flats for r in f.rounds for v in (*r.singles, *r.reduced))
        self.leaves = numbered(v for f in flats for v in f.leaves)
        self.width = max(1, len(self.kept))
        self.loaded = frozenset()

    def of_stage(self, flat):
        "The same names, where a stage loads what another has computed"
        names = copy(self)
        names.loaded = frozenset((*flat.loads, *flat.single_loads))
        return names

    def of(self, v):
        if v.kind in (SCALAR, CROSS):
            return f's{self.scalars[v.name]}'
        if v in self.kept:
            return f'w{self.kept[v]}'
        return f'e{self.slots[v.name]}' if v.name in self.loaded else v.name

    def text(self, v, dtype):
        "`v` where an operand of `dtype` is wanted"
        return as_operand(v, self.of(v), dtype)

    def type(self, v):
        return 'int' if v.dtype is torch.bool else 'T'

    def stored(self, name):
        return types[self.dtypes[name]]

    def kept_at(self, v):
        return f'w[t*{self.width} + {self.kept[v]}]'

    def leaf_at(self, v):
        return f'((T*)a->leaves)[t*{max(1, len(self.leaves))} + {self.leaves[v]}]'

    def single_at(self, v):
        "Where a single number of parameter `t` is kept"
        return (
            self.kept_at(v) if v in self.kept else f'*(T*)a->table[{self.slots[v.name]}*a->n + t]'
        )

    def reciprocal(self, by):
        "The place of the reciprocal of a scalar in its row, if it has one"
        return self.scalars.get(f'r_{by.name}') if getattr(by, 'kind', None) == SCALAR else None

    def define(self, v):
        "One operation. To divide elements by a scalar takes several times as long as to multiply them by its reciprocal"
        inverse = self.reciprocal(v.args[1]) if v.op is aten.div.Tensor else None
        if inverse is not None and v.kind == ELEMENTS:
            return f'const T {v.name} = {self.text(v.args[0], v.dtype)} * r{inverse};'
        return f'const {self.type(v)} {self.of(v)} = {write(v, self.d, self.text, self.compute_dtype)};'

    def load_scalars(self, values):
        used = [o for o in operands(values) if o.kind in (SCALAR, CROSS)]
        inverse = [i for o in used if (i := self.reciprocal(o)) is not None]
        lines = [f'const T {self.of(o)} = (T)s[{self.scalars[o.name]}];' for o in used]
        return lines + [f'const T r{i} = (T)s[{i}];' for i in inverse]

    def load_singles(self, values, made=()):
        "The single numbers that `values` read, but for those `made` just there"
        used = [o for o in operands(values) if o.kind == SINGLE and o not in made]
        return [f'const {self.type(o)} {self.of(o)} = {self.single_at(o)}{truth(o)};' for o in used]


def numbered(xs):
    return {x: i for i, x in enumerate(dict.fromkeys(xs))}


def operands(values):
    return [*dict.fromkeys(o for v in values for o in v.operands)]


def truth(v):
    return ' != 0' if v.dtype is torch.bool else ''


def as_operand(v, name, dtype):
    if dtype is torch.bool:
        return name if v.dtype is torch.bool else f'({name} != 0)'
    return f'(T){name}' if v.dtype is torch.bool else name


class StageEmitter:
    "Writes the flat part of stage `number` as a C function, and a function for one tile in each of its rounds"

    def __init__(self, names, number, flat):
        self.names, self.number, self.flat = names.of_stage(flat), number, flat

    def source(self):
        code, body = [], ['T* w = (T*)a->singles; (void)w;']
        for k, r in enumerate(self.flat.rounds):
            stores = self.flat.stores if k == len(self.flat.rounds) - 1 else {}
            body += self.arithmetic(r)
            if r.reduced or stores:
                code += self.tile(k, r, stores)
                body.append(f'over_tiles(a, tile_{self.number}_{k});')
            body += self.fold(r)
        return [
            *code,
            *function(f'static void stage_{self.number}(const Args* a)', body + self.hand_out()),
        ]

    # -- one tile --

    def tile(self, k, r, stores):
        "The function for one tile in round `k`"
        names, values = self.names, [*r.elements, *r.reduced]
        loads = self.loads(values, stores)
        body = [
            f'const T {names.of(v)} = load_{names.stored(n)}(m{names.slots[n]}[i]);'
            for n, v in loads.items()
        ]
        body += map(names.define, r.elements)
        body += [line for j, v in enumerate(r.reduced) for line in self.accumulate(j, v)]
        body += [self.store(n, v) for n, v in stores.items()]
        head = [
            'const int64_t t = a->tile_parameter[k], o = (int64_t)a->tile_place[k]*BLOCK;',
            'const int64_t rest = a->numel[t] - o, n = rest < BLOCK ? rest : BLOCK;',
            'const double* s = a->scalars + a->row[t]*a->width;',
            'const T* w = (const T*)a->singles; (void)s; (void)w;',
            *map(self.pointer, dict.fromkeys([*loads, *stores])),
            *names.load_scalars(values),
            *names.load_singles(values),
        ]
        if r.reduced:
            loop = self.reducing_loop(r.reduced, body)
        else:
            loop = ['#pragma omp simd', *function('for (int64_t i = 0; i < n; i++)', body)]
        return function(
            f'static void tile_{self.number}_{k}(const Args* a, int64_t k)', head + loop
        )

    def loads(self, values, stores):
        "What is loaded from memory: name -> value"
        read = [*operands(values), *stores.values()]
        return {v.name: v for v in read if v.kind == ELEMENTS and v.name in self.flat.loads}

    def pointer(self, n):
        "Where the elements of `n` in this tile lie"
        stored, i = self.names.stored(n), self.names.slots[n]
        return f'{stored}* restrict m{i} = ({stored}*)a->table[{i}*a->n + t] + o;'

    def store(self, n, v):
        text = self.names.text(v, self.names.compute_dtype)
        return f'm{self.names.slots[n]}[i] = store_{self.names.stored(n)}({text});'

    # -- reductions --

    def accumulate(self, j, v):
        "Take an element into the reduction `v`, the `j`-th of its round"
        names, red = self.names, reduction(v)
        x = red.element(names.d, *(names.text(o, names.compute_dtype) for o in v.operands))
        if red.sign == '+':
            return [f'a{j} += {x};']
        better = '>' if red.sign == 'max' else '<'
        return [
            f'const T x{j} = {x};',
            f'bad{j} |= x{j} != x{j};',
            f'a{j} = x{j} {better} a{j} ? x{j} : a{j};',
        ]

    def reducing_loop(self, reduced, body):
        "Some elements in T, and what these come to in double"
        signs = [reduction(v).sign for v in reduced]
        total = [
            f'double total{j} = {starts[sign]}; int bad{j} = 0;' for j, sign in enumerate(signs)
        ]
        few = [f'T a{j} = {starts[sign]};' for j, sign in enumerate(signs)]
        few += [
            'const int64_t end = n - b < 512 ? n : b + 512;',
            f'#pragma omp simd {clauses(signs)}',
        ]
        few += function('for (int64_t i = b; i < end; i++)', body)
        few += [folded(f'total{j}', f'a{j}', sign) for j, sign in enumerate(signs)]
        save = [
            f'a->partials[k*{len(signs)} + {j}] = bad{j} ? NAN : total{j};'
            for j in range(len(signs))
        ]
        return [*total, *function('for (int64_t b = 0; b < n; b += 512)', few), *save]

    def fold(self, r):
        "Fold the partial results of the tiles, in order, for each parameter"
        width, lines = len(r.reduced), []
        for j, v in enumerate(r.reduced):
            red = reduction(v)
            total, partial = f'a->sums[t*{width} + {j}]', f'a->partials[k*{width} + {j}]'
            take = ['const int64_t t = a->tile_parameter[k];', folded(total, partial, red.sign)]
            end = red.end(C('double'), 'x', 'n')
            lines += each_parameter([f'{total} = {starts[red.sign]};'])
            lines += function('for (int64_t k = 0; k < a->tiles; k++)', take)
            lines += each_parameter(
                [
                    f'const double x = {total}, n = (double)a->numel[t]; (void)n;',
                    f'{self.names.kept_at(v)} = (T)({end});',
                ]
            )
        return lines

    # -- single numbers --

    def arithmetic(self, r):
        "The arithmetic on single numbers before a round"
        names = self.names
        if not r.singles:
            return []
        return each_parameter(
            [
                'const double* s = a->scalars + a->row[t]*a->width; (void)s;',
                *names.load_scalars(r.singles),
                *names.load_singles(r.singles, r.singles),
                *map(names.define, r.singles),
                *(f'{names.kept_at(v)} = (T){names.of(v)};' for v in r.singles),
            ]
        )

    def hand_out(self):
        "Single numbers that are written, or handed out"
        names, f = self.names, self.flat

        def value(v):
            if v.kind in (SCALAR, CROSS):
                return f'(T)a->scalars[a->row[t]*a->width + {names.scalars[v.name]}]'
            return names.single_at(v)

        lines = [f'{names.leaf_at(v)} = {value(v)};' for v in f.leaves]
        lines += [f'const T new{i} = {value(v)};' for i, v in enumerate(f.single_stores.values())]
        lines += [
            f'*(T*)a->table[{names.slots[n]}*a->n + t] = new{i};'
            for i, n in enumerate(f.single_stores)
        ]
        return each_parameter(lines)


def clauses(signs):
    "What OpenMP must know of the accumulators"
    found = []
    for j, sign in enumerate(signs):
        found.append(f'reduction({sign}:a{j})')
        if sign != '+':
            found.append(f'reduction(|:bad{j})')
    return ' '.join(found)


# -- All stages in one call --


def all_stages(program, names):
    "The stages, one after the other, and between them what joins all parameters"
    lines = ['const double* s = a->scalars; (void)s;']
    loaded = set()
    for k, stage in enumerate(program.stages):
        if stage.flat:
            lines.append(f'stage_{k}(a);')
        values = [*stage.joins, *stage.cross]
        scalars = [o for o in operands(values) if o.kind == SCALAR and o not in loaded]
        lines += [f'const T {names.of(o)} = (T)s[{names.scalars[o.name]}];' for o in scalars]
        loaded |= {*scalars}
        for v in values:
            lines += cross(v, names)
        lines += [save_cross(v, names) for v in values if v.name in names.scalars]
    return lines


def cross_name(v, names):
    "A cross value in C; of a vector, its member of parameter `t`"
    if v.kind == SCALAR:
        return names.of(v)
    if v.is_cross_reduction and cross_kind(v) == 'vector':
        return joined_at(v, names)
    return f'c_{v.name}'


def joined_at(v, names):
    "What parameter `t` hands to the join `v`"
    of = v.args[0]
    return names.leaf_at(of) if of in names.leaves else names.single_at(of)


def cross(v, names):
    "The lines that compute a cross value. Vectors are not kept: whoever reduces one computes its members"
    T, kind = names.type(v), cross_kind(v)
    text = lambda o, dtype: as_operand(o, cross_name(o, names), dtype)
    if kind == 'vector':
        return []
    if kind == 'scalar':
        return [f'const {T} c_{v.name} = {write(v, names.d, text, names.compute_dtype)};']
    if v.is_cross_reduction:
        sign, element, end = kind, joined_at(v, names), 'total'
        members = []
    else:
        red = reduction(v)
        members = [
            f'const {names.type(o)} c_{o.name} = {write(o, names.d, text, names.compute_dtype)};'
            for o in vectors(v)
        ]
        sign, element = (
            red.sign,
            red.element(names.d, *(text(o, names.compute_dtype) for o in v.operands)),
        )
        end = red.end(C('double'), 'total', '(double)a->n')
    total = f'total_{v.name}'
    take = each_parameter([*members, f'const double x = {element};', folded(total, 'x', sign)])
    return [
        f'double {total} = {starts[sign]};',
        *take,
        f'const T c_{v.name} = (T)({end.replace("total", total)});',
    ]


def vectors(v):
    "The vectors that `v` is made of, each after its operands, but for what the parameters hand out"
    found = []
    for o in v.operands:
        if o.kind == CROSS and not o.is_cross_reduction and cross_kind(o) == 'vector':
            found += [*vectors(o), o]
    return [*dict.fromkeys(found)]


def save_cross(v, names):
    "Write a cross value to each row of scalars, for the stages behind it"
    place = names.scalars[v.name]
    return f'for (int64_t r = 0; r < a->rows; r++) a->scalars[r*a->width + {place}] = (double){cross_name(v, names)};'


# -- Looking --


def look_source(dtype):
    """The C source of a look at gradients: `sums[0]` is then the first parameter with an element whose square is not finite,
    or -1"""
    stored = types[dtype]
    T, largest = ('double', 'DBL_MAX') if stored == 'double' else ('float', 'FLT_MAX')
    return f'''{prelude}
#define BLOCK {block}
static void tile(const Args* a, int64_t k) {{
  const int64_t t = a->tile_parameter[k], o = (int64_t)a->tile_place[k]*BLOCK;
  const int64_t rest = a->numel[t] - o, n = rest < BLOCK ? rest : BLOCK;
  const {stored}* m = (const {stored}*)a->table[t] + o;
  int bad = 0;
  #pragma omp simd reduction(|:bad)
  for (int64_t i = 0; i < n; i++) {{ const {T} x = load_{stored}(m[i]); bad |= !(x*x <= {largest}); }}
  a->partials[k] = bad;
}}
void run(const Args* a) {{
  over_tiles(a, tile);
  a->sums[0] = -1;
  for (int64_t k = 0; k < a->tiles; k++) if (a->partials[k] != 0) {{ a->sums[0] = a->tile_parameter[k]; return; }}
}}
'''
