"""Kernels: the stages of a program as C functions over a table of pointers.

A kernel goes over all parameters of a program, wherever they lie in memory. The table has a row
of addresses for each name: `p`, `grad`, the states, scratch memory. Parameters are cut into tiles
of at most `block` elements; a tile knows its parameter and its place in it. Each parameter has a
row of scalars. SGD with momentum, for instance, becomes a function for one tile with the loop

    for (i = 0; i < n; i++) {
      const T e0 = m0[i], e1 = m1[i], e2 = m2[i];     // p, grad, grad_avg
      const T v5 = (e2 * s0);
      const T v7 = FMA(s1, e1, v5);
      const T v9 = FMA((-s2), v7, e0);
      m0[i] = v9;
      m2[i] = v7;
    }

A round is a loop over tiles. Where it reduces, each tile leaves a partial result. These are added
up in order, so the result does not depend on the number of threads.

A stage is a C function. `run` calls the stage that it is told, or all of them with the cross
reductions between (`emit_cross.py`). `names.py` says what is called how."""

from ..lower.operations import reduction
from ..lower.values import CROSS, ELEMENTS, SCALAR
from .c import C, each_parameter, folded, function, joined, starts
from .c_codes import CCode
from .c_prelude import block, drawn, prelude
from .c_stored import Coded, stored_as
from .emit_cross import all_stages
from .names import operands
from .random import kind_of

__all__ = ['source']

most_reduced = (
    512  # elements that are reduced in T, before what they come to is added in double
)


def source(program, names):
    "The C source of `program`, a function `run`. `names`: its `CNames`"
    writers = {c: CCode(c, k) for k, c in enumerate(names.codes)}
    flats = {k: s.flat for k, s in enumerate(program.stages) if s.flat}
    code = [
        line
        for k, f in flats.items()
        for line in StageEmitter(names, k, f, writers).source()
    ]
    run = [f'if (a->stage == {k}) {{ stage_{k}(a); return; }}' for k in flats]
    if program.one_call:
        run += all_stages(program, names)
    legend = [f'm{i}: {n}' for n, i in names.slots.items()]
    legend += [f's{i}: {n}' for n, i in names.scalars.items()]
    lines = [
        prelude,
        f'/* {", ".join(legend)} */',
        f'typedef {names.d.T} T;',
        f'#define BLOCK {block}',
        *(line for c in writers.values() for line in c.source()),
        *code,
        *function('void run(const Args* a)', run),
    ]
    return '\n'.join(lines) + '\n'


class StageEmitter:
    """Writes the flat part of stage `number`: a C function, and for each round one for a tile.
    `stored`: how what it reads and writes is stored, by name. `writers`: of the codes"""

    def __init__(self, names, number, flat, writers):
        self.names, self.number, self.flat = names.of_stage(flat), number, flat
        self.stored = {n: stored_as(n, names, writers) for n in flat.names}

    def source(self):
        code, body = [], ['T* w = (T*)a->singles; (void)w;']
        for k, r in enumerate(self.flat.rounds):
            stores = self.flat.stores if k == len(self.flat.rounds) - 1 else {}
            body += self.arithmetic(r)
            if r.reduced or stores:
                code += self.tile(k, r, stores)
                body.append(f'over_tiles(a, tile_{self.number}_{k});')
            body += self.fold(r)
        return code + function(
            f'static void stage_{self.number}(const Args* a)', [*body, *self.hand_out()]
        )

    # -- One tile --

    def tile(self, k, r, stores):
        "The function for one tile in round `k`"
        names, values = self.names, [*r.elements, *r.reduced]
        loads = self.loads(values, stores)
        used = [self.stored[n] for n in dict.fromkeys([*loads, *stores])]
        head = [
            'const int64_t t = a->tile_parameter[k], o = (int64_t)a->tile_place[k]*BLOCK;',
            'const int64_t rest = a->numel[t] - o, n = rest < BLOCK ? rest : BLOCK;',
            'const double* s = a->scalars + a->row[t]*a->width;',
            'const T* w = (const T*)a->singles; (void)s; (void)w;',
            *(line for x in used for line in x.pointers()),
            *(line for n in stores for line in self.stored[n].salt()),
            *names.load_scalars(values),
            *names.load_singles(values),
        ]
        body = [
            *(
                f'const T {names.of(v)} = {self.stored[n].load()};'
                for n, v in loads.items()
            ),
            *map(names.define, r.elements),
            *(line for j, v in enumerate(r.reduced) for line in self.accumulate(j, v)),
            *(self.store(n, v) for n, v in stores.items()),
        ]
        loop = self.loop(r, loads, stores, body)
        return function(
            f'static void tile_{self.number}_{k}(const Args* a, int64_t k)', head + loop
        )

    def loads(self, values, stores):
        "What is loaded from memory: name -> value"
        read = [*operands(values), *stores.values()]
        return {
            v.name: v for v in read if v.kind == ELEMENTS and v.name in self.flat.loads
        }

    def store(self, n, v):
        return self.stored[n].store(self.names.text(v, self.names.compute_dtype))

    def loop(self, r, loads, stores, body):
        """The loop over the elements of a tile, in blocks where a round reduces, draws random numbers
        or has to do with codes"""
        draws = [v for v in r.elements if v.draw is not None]
        coded = {
            n: x for n in (*loads, *stores) if isinstance(x := self.stored[n], Coded)
        }
        sizes = [x.block for x in coded.values()] + [drawn] * bool(draws)
        size = min(sizes, default=most_reduced)
        before = [x.load_scale() for n, x in coded.items() if n in loads]
        before += [line for v in draws for line in self.fill(v)]
        if r.reduced:
            return self.reducing_loop(size, r.reduced, before, body)
        if not sizes:
            return [
                '#pragma omp simd',
                *function('for (int64_t i = 0; i < n; i++)', body),
            ]
        kept = [x for n, x in coded.items() if n in stores]
        before += [x.block_start() for x in kept]
        after = [line for x in kept for line in x.store_block(size)]
        arrays = [x.array() for x in kept]
        return [*arrays, *in_blocks(size, before, body, after)]

    def fill(self, v):
        "Make the random numbers `v` of this block"
        given = f'o + b, {v.draw}, a->keys[t], a->seed'
        fill = f'fill_{kind_of(v)}_{self.names.d.T}'
        return [f'T u_{v.name}[{drawn}];', f'{fill}(u_{v.name}, {given});']

    # -- Reductions --

    def accumulate(self, j, v):
        "Take an element into the reduction `v`, the `j`-th of its round"
        names, red = self.names, reduction(v)
        x = red.element(
            names.d, *(names.text(o, names.compute_dtype) for o in v.operands)
        )
        if red.sign == '+':
            return [joined(f'a{j}', x, '+')]
        return [
            f'const T x{j} = {x};',
            f'bad{j} |= x{j} != x{j};',
            joined(f'a{j}', f'x{j}', red.sign),
        ]

    def reducing_loop(self, size, reduced, before, body):
        "The loop of a tile that reduces: `size` elements in T, and what these come to in double"
        signs = dict(enumerate(reduction(v).sign for v in reduced))
        total = [
            f'double total{j} = {starts[sign]}; int bad{j} = 0;'
            for j, sign in signs.items()
        ]
        before = [*(f'T a{j} = {starts[sign]};' for j, sign in signs.items()), *before]
        after = [folded(f'total{j}', f'a{j}', sign) for j, sign in signs.items()]
        save = [
            f'a->partials[k*{len(signs)} + {j}] = bad{j} ? NAN : total{j};'
            for j in signs
        ]
        return [*total, *in_blocks(size, before, body, after, clauses(signs)), *save]

    def fold(self, r):
        "Fold the partial results of the tiles, in order, for each parameter"
        width, lines = len(r.reduced), []
        for j, v in enumerate(r.reduced):
            red = reduction(v)
            total, partial = (
                f'a->sums[t*{width} + {j}]',
                f'a->partials[k*{width} + {j}]',
            )
            take = [
                'const int64_t t = a->tile_parameter[k];',
                folded(total, partial, red.sign),
            ]
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

    # -- Single numbers --

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
        "Hand out single numbers as leaves, and write those that are states"
        names, f = self.names, self.flat

        def value(v):
            if v.kind in (SCALAR, CROSS):
                return f'(T)a->scalars[a->row[t]*a->width + {names.scalars[v.name]}]'
            return names.single_at(v)

        lines = [f'{names.leaf_at(v)} = {value(v)};' for v in f.leaves]
        lines += [
            f'const T new{i} = {value(v)};'
            for i, v in enumerate(f.single_stores.values())
        ]
        lines += [
            f'*(T*)a->table[{names.slots[n]}*a->n + t] = new{i};'
            for i, n in enumerate(f.single_stores)
        ]
        return each_parameter(lines)


def in_blocks(size, before, body, after, clauses=''):
    """A loop over blocks of `size` elements, and in it the one over elements. `clauses`: what the
    vectorized loop has to know of accumulators"""
    lines = [
        f'const int64_t end = n - b < {size} ? n : b + {size};',
        *before,
        f'#pragma omp simd{clauses}',
        *function('for (int64_t i = b; i < end; i++)', body),
        *after,
    ]
    return function(f'for (int64_t b = 0; b < n; b += {size})', lines)


def clauses(signs):
    "The clauses of OpenMP for accumulators, number -> sign"
    found = []
    for j, sign in signs.items():
        found.append(f' reduction({sign}:a{j})')
        if sign != '+':
            found.append(f' reduction(|:bad{j})')
    return ''.join(found)
