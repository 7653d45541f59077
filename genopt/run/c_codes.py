"""States in codes, in C: the functions of a `Code`, written from what `lower.codes` has recorded of
them. Those of `int8`, for instance, shortened:

    INLINE float decode_0(float q, float scale) { ... return v12; }
    static float scale_0(const float* restrict x) {              // x: a block, filled up with zeros
      float v3 = -INFINITY; ...                                  // v3: the largest of |x|
      ...
    }
    INLINE float code_0(float x, float scale, float noise, int v4) { ... }      // v4: scale < 0
    INLINE void codes_0(const float* restrict x, ..., int v4) {
      for (int32_t i = 0; i < n; i++) m[i] = as_code(code_0(x[i], scale, ..., v4), 0, 255);
    }
    static void store_0(const float* restrict x, ...) {
      const float scale = *s = scale_0(x);
      const int v4 = scale < 0;
      if (v4) codes_0(x, ..., 1);                                // a loop for each kind of block
      else codes_0(x, ..., 0);
    }

A condition on the scale alone is the same for a whole block, so there is a loop for each outcome."""

import torch
from ..lower.codes import recorded_code
from ..lower.operations import reduction, write
from ..lower.stages import rounds_of
from ..lower.values import ELEMENTS, SCALAR, SINGLE
from .c import C, each_outcome, function, joined, starts, types
from .names import as_operand, operands

__all__ = ['CCode']

single = C('float')


class CCode:
    "Writes the functions of `code`, which is the `number`-th of its kernel"

    def __init__(self, code, number):
        self.code, self.number = code, number
        self.recorded = recorded_code(code)
        self.stored = types[code.dtype]

    def source(self):
        return [
            f'/* code {self.number}: {self.code} */',
            *self.decode(),
            *self.scale(),
            *self.store(self.recorded.nearest, ''),
            *self.store(self.recorded.at_random, '_at_random'),
        ]

    def load(self, x, scale):
        "The element that the code `x` stands for"
        return f'decode_{self.number}((float){x}, {scale})'

    def store_function(self, at_random):
        "The name of the function that stores a block"
        return f'store_{self.number}{"_at_random" if at_random else ""}'

    def decode(self):
        f = self.recorded.decode
        head = f'INLINE float decode_{self.number}(float q, float scale)'
        return function(head, [*map(define, f.values), f'return {name(f.out)};'])

    # -- The scale of a block --

    def scale(self):
        "The function for the scale of a block `x` of floats: a loop for each round of reductions"
        f = self.recorded.scales
        body = []
        for r in rounds_of(f.values, [f.out]):
            body += map(define, r.singles)
            body += self.reducing_loop(r) if r.reduced else []
        head = f'static float scale_{self.number}(const float* restrict x)'
        return function(head, [*body, f'return {name(f.out)};'])

    def reducing_loop(self, r):
        """The loop for the reductions of a round. A maximum loses NaN, so the loop looks for NaN, once
        for each text of an element"""
        texts = {v: element_text(v) for v in r.reduced}
        keeps_nan = {v: reduction(v).sign == '+' for v in r.reduced}
        bad = {}  # text of an element -> the flag that one of them is NaN
        for v, t in texts.items():
            if not keeps_nan[v]:
                bad.setdefault(t, f'bad_{name(v)}')
        before = [f'int {flag} = 0;' for flag in bad.values()]
        body = ['const float e = x[i]; (void)e;', *map(define, r.elements)]
        body += [f'{flag} |= {t} != {t};' for t, flag in bad.items()]
        clauses, after = [f'reduction(|:{flag})' for flag in bad.values()], []
        for v, t in texts.items():
            red, total = reduction(v), f'sum_{name(v)}'
            before.append(f'float {total} = {starts[red.sign]};')
            body.append(joined(total, t, red.sign))
            clauses.append(f'reduction({red.sign}:{total})')
            end = red.end(single, total, f'{self.code.block}.0f')
            if not keeps_nan[v]:
                end = single.choose(bad[t], 'NAN', end)
            after.append(f'const float {name(v)} = {end};')
        head = f'for (int i = 0; i < {self.code.block}; i++)'
        pragma = f'#pragma omp simd {" ".join(clauses)}'
        return [*before, pragma, *function(head, body), *after]

    # -- The codes of a block --

    def store(self, f, how):
        "The functions that store a block, with the codes that `f` gives. `how`: ends their names"
        k = f'{self.number}{how}'
        deciding = operands([v for v in f.values if v.kind == ELEMENTS])
        flags = [v for v in deciding if v.kind == SINGLE and v.dtype is torch.bool]
        taken = ''.join(f', int {name(v)}' for v in flags)
        of_one = [v for v in f.values if v not in flags]
        one = function(
            f'INLINE float code_{k}(float e, float scale, float noise{taken})',
            ['(void)noise;', *map(define, of_one), f'return {name(f.out)};'],
        )
        noise = '(float)bits[i]*0x1.0p-16f' if how else '0.0f'
        given = ''.join(f', {name(v)}' for v in flags)
        low, high = self.code.limits
        block = function(
            f'INLINE void codes_{k}(const float* restrict x, int32_t n, {self.stored}* restrict m, '
            f'float scale, const random_bits* restrict bits{taken})',
            [
                '(void)bits;',
                '#pragma omp simd',
                'for (int32_t i = 0; i < n; i++)',
                f'  m[i] = ({self.stored})as_code(code_{k}(x[i], scale, {noise}{given}), {low}, {high});',
            ],
        )
        before = [v for v in f.values if v.kind == SINGLE] if flags else []
        call = lambda values: f'codes_{k}(x, (int32_t)n, m, scale, bits{values});'
        size = self.code.block
        whole = function(
            f'static void store_{k}(const float* x, int64_t n, {self.stored}* m, float* s, uint32_t h)',
            [
                f'const float scale = *s = scale_{self.number}(x);',
                f'_Alignas(64) random_bits bits[{size}]; (void)h;',
                *([f'fill_bits(bits, {size}, h);'] if how else []),
                *map(define, before),
                *each_outcome([name(v) for v in flags], call),
            ],
        )
        return [*one, *block, *whole]


def name(v):
    "What a value is called. An element of a block that is given is `e`"
    if v.kind == SCALAR:
        return single.constant(v.example.item(), v.dtype)
    return 'e' if v.name == 'x' else v.name


def text(v, dtype):
    return as_operand(single, v, name(v), dtype)


def define(v):
    return f'const {single.number_types[v.dtype]} {name(v)} = {write(v, single, text, torch.float32)};'


def element_text(v):
    "What the reduction `v` takes of each element"
    return reduction(v).element(single, *(text(o, torch.float32) for o in v.operands))
