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
from .c import (
    C,
    block,
    each_parameter,
    folded,
    function,
    joined,
    prelude,
    starts,
    types,
)
from .c_codes import CCode
from .emit_cross import all_stages
from .names import CNames, operands
from .random import kind_of
from .rounding import word_of

__all__ = ['source']

drawn = 256  # the random numbers that `c.py` makes at once


def source(program, scalars, dtypes):
    """The C source of `program`, a function `run`. `scalars`: the names in a row of scalars, in
    order; `dtypes`: of what lies in memory, by name"""
    T = types[program.layout.compute_dtype]
    names = CNames(program, scalars, dtypes, C(T))
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
        f'typedef {T} T;',
        f'#define BLOCK {block}',
        *(line for c in writers.values() for line in c.source()),
        *code,
        *function('void run(const Args* a)', run),
    ]
    return '\n'.join(lines) + '\n'


class StageEmitter:
    """Writes the flat part of stage `number`: a C function, and for each round one for a tile.
    `writers`: of the codes in which states are stored"""

    def __init__(self, names, number, flat, writers):
        self.names, self.number, self.flat = names.of_stage(flat), number, flat
        self.writers = writers

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
        body = [f'const T {names.of(v)} = {self.load(n)};' for n, v in loads.items()]
        body += map(names.define, r.elements)
        body += [
            line for j, v in enumerate(r.reduced) for line in self.accumulate(j, v)
        ]
        body += [self.store(n, v) for n, v in stores.items()]
        head = [
            'const int64_t t = a->tile_parameter[k], o = (int64_t)a->tile_place[k]*BLOCK;',
            'const int64_t rest = a->numel[t] - o, n = rest < BLOCK ? rest : BLOCK;',
            'const double* s = a->scalars + a->row[t]*a->width;',
            'const T* w = (const T*)a->singles; (void)s; (void)w;',
            *(p for n in dict.fromkeys([*loads, *stores]) for p in self.pointers(n)),
            *(self.salt(n) for n in stores if names.stochastic(n)),
            *names.load_scalars(values),
            *names.load_singles(values),
        ]
        coded = [n for n in dict.fromkeys([*loads, *stores]) if names.code(n)]
        draws = [v for v in r.elements if v.draw is not None]
        size = self.elements_at_once(coded, draws)
        before = [*map(self.scale, [n for n in coded if n in loads])]
        before += [line for v in draws for line in self.fill(v)]
        if r.reduced:
            loop = self.reducing_loop(size, r.reduced, body, before)
        elif coded or draws:
            loop = self.loop_in_blocks(size, body, before, stores)
        else:
            loop = [
                '#pragma omp simd',
                *function('for (int64_t i = 0; i < n; i++)', body),
            ]
        return function(
            f'static void tile_{self.number}_{k}(const Args* a, int64_t k)', head + loop
        )

    def loads(self, values, stores):
        "What is loaded from memory: name -> value"
        read = [*operands(values), *stores.values()]
        return {
            v.name: v for v in read if v.kind == ELEMENTS and v.name in self.flat.loads
        }

    def pointers(self, n):
        "Where the elements of `n` in this tile lie, and what is beside them"
        yield self.pointer(n, 'o')
        code = self.names.code(n)
        per = f'/{code.block}' if code else ''
        for beside in self.names.beside(n):
            yield self.pointer(beside, f'o{per}')

    def pointer(self, n, offset):
        stored, i = self.names.stored(n), self.names.slots[n]
        return (
            f'{stored}* restrict m{i} = ({stored}*)a->table[{i}*a->n + t] + {offset};'
        )

    def load(self, n):
        "One element, in the type of the arithmetic"
        i = self.names.slots[n]
        if code := self.names.code(n):
            return self.writers[code].load(f'm{i}[i]', f'c{i}')
        if self.names.pair(n):
            j = self.names.slots[self.names.beside(n)[0]]
            return f'{self.names.pair_function("load", n)}(m{i}[i], m{j}[i])'
        return f'load_{self.names.stored(n)}(m{i}[i])'

    def store(self, n, v):
        text = self.names.text(v, self.names.compute_dtype)
        if self.names.code(n):
            j = self.names.slots[n]
            return f'x{j}[i - b{j}] = (float)({text});'
        bits = f'mixed(h{self.names.slots[n]} + (uint32_t)i * 0x9e3779b9u)'
        random = [bits] * self.names.stochastic(n)
        if self.names.pair(n):
            places = [f'm{self.names.slots[m]} + i' for m in (n, *self.names.beside(n))]
            given = ', '.join([text, *places, *random])
            return f'{self.names.pair_function("store", n)}({given});'
        if random:
            return f'm{self.names.slots[n]}[i] = store_bf16_stochastic({text}, {bits});'
        return f'm{self.names.slots[n]}[i] = store_{self.names.stored(n)}({text});'

    def salt(self, n):
        "What the random bits for `n` in this tile come from"
        i = self.names.slots[n]
        given = f'a->rounding, {word_of(n)}u, a->keys[t], o'
        return f'const uint32_t h{i} = salt({given});'

    # -- States in codes, and random numbers: a loop over blocks around the loop over elements --

    def elements_at_once(self, coded, draws):
        "The elements of the inner loop: the smallest block; 512 if there is none"
        sizes = [self.names.code(n).block for n in coded]
        return min([*sizes, drawn] if draws else sizes, default=512)

    def fill(self, v):
        "Make the random numbers `v` of this block"
        given = f'o + b, {v.draw}, a->keys[t], a->seed'
        fill = f'fill_{kind_of(v)}_{self.names.d.T}'
        return [f'T u_{v.name}[{drawn}];', f'{fill}(u_{v.name}, {given});']

    def loop_in_blocks(self, size, body, before, stores):
        """The loop of a tile, over blocks of `size` elements. What is to be in codes waits in an array
        until its block is complete. `before`: what comes before the elements of a block"""
        stored = [n for n in stores if self.names.code(n)]
        lines = [
            f'const int64_t end = n - b < {size} ? n : b + {size};',
            *before,
            *map(self.block_start, stored),
            '#pragma omp simd',
            *function('for (int64_t i = b; i < end; i++)', body),
            *(line for n in stored for line in self.store_block(n, size)),
        ]
        return [
            *(
                f'float x{self.names.slots[n]}[{self.names.code(n).block}];'
                for n in stored
            ),
            *function(f'for (int64_t b = 0; b < n; b += {size})', lines),
        ]

    def scale(self, n):
        "The scale of this block, as it was before"
        i, j = self.names.slots[n], self.names.scale_slot(n)
        return f'const float c{i} = m{j}[b/{self.names.code(n).block}];'

    def block_start(self, n):
        "Where in its tile the block begins"
        return (
            f'const int64_t b{self.names.slots[n]} = b & -{self.names.code(n).block};'
        )

    def store_block(self, n, size):
        "Store a block, if it is complete after `size` more elements"
        code, number = self.names.code(n), self.writers[self.names.code(n)].number
        i, j = self.names.slots[n], self.names.scale_slot(n)
        salt = (
            f'h{i} + (uint32_t)b{i}/2*0x9e3779b9u' if self.names.stochastic(n) else '0'
        )
        lines = [
            f'for (int64_t i = end - b{i}; i < {code.block}; i++) x{i}[i] = 0.0f;',
            f'store_{number}{"_at_random" * self.names.stochastic(n)}'
            f'(x{i}, end - b{i}, m{i} + b{i}, m{j} + b{i}/{code.block}, {salt});',
        ]
        if code.block == size:
            return lines
        return function(f'if (end == n || end % {code.block} == 0)', lines)

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

    def reducing_loop(self, size, reduced, body, before):
        """The loop of a tile that reduces: `size` elements in T, and what these come to in double.
        `before`: what comes before the elements of a block, which may have fewer"""
        signs = [reduction(v).sign for v in reduced]
        total = [
            f'double total{j} = {starts[sign]}; int bad{j} = 0;'
            for j, sign in enumerate(signs)
        ]
        few = [f'T a{j} = {starts[sign]};' for j, sign in enumerate(signs)]
        few += [
            f'const int64_t end = n - b < {size} ? n : b + {size};',
            *before,
            f'#pragma omp simd {clauses(signs)}',
        ]
        few += function('for (int64_t i = b; i < end; i++)', body)
        few += [folded(f'total{j}', f'a{j}', sign) for j, sign in enumerate(signs)]
        save = [
            f'a->partials[k*{len(signs)} + {j}] = bad{j} ? NAN : total{j};'
            for j in range(len(signs))
        ]
        loop = function(f'for (int64_t b = 0; b < n; b += {size})', few)
        return [*total, *loop, *save]

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


def clauses(signs):
    "The clauses of OpenMP for the accumulators of a loop"
    found = []
    for j, sign in enumerate(signs):
        found.append(f'reduction({sign}:a{j})')
        if sign != '+':
            found.append(f'reduction(|:bad{j})')
    return ' '.join(found)
