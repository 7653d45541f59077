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
            *self.store(self.recorded.nearest, at_random=False),
            *self.store(self.recorded.at_random, at_random=True),
        ]

    def load(self, x, scale):
        "The element that the code `x` stands for"
        return f'decode_{self.number}((float){x}, {scale})'

    def store_function(self, at_random):
        "The name of the function that stores a block"
        return f'store_{self.number}{at_random_suffix[at_random]}'

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
        """The loop for the reductions of a round. A maximum loses NaN, so the loop looks for NaN, once for
        each text of an element"""
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

    def store(self, f, at_random):
        "The functions that store an element, elements, and a block, with the codes that `f` gives"
        k = f'{self.number}{at_random_suffix[at_random]}'
        conditions = of_scale_alone(f)
        taken = ''.join(f', int {name(v)}' for v in conditions)
        given = ''.join(f', {name(v)}' for v in conditions)
        return [
            *self.code_of_element(k, f, conditions, taken),
            *self.codes_of_elements(k, at_random, taken, given),
            *self.store_block(k, at_random, f, conditions),
        ]

    def code_of_element(self, k, f, conditions, taken):
        values = [v for v in f.values if v not in conditions]
        return function(
            f'INLINE float code_{k}(float e, float scale, float noise{taken})',
            ['(void)noise;', *map(define, values), f'return {name(f.out)};'],
        )

    def codes_of_elements(self, k, at_random, taken, given):
        noise = '(float)bits[i]*0x1.0p-16f' if at_random else '0.0f'
        low, high = self.code.limits
        return function(
            f'INLINE void codes_{k}(const float* restrict x, int32_t n, {self.stored}* restrict m, '
            f'float scale, const random_bits* restrict bits{taken})',
            [
                '(void)bits;',
                '#pragma omp simd',
                'for (int32_t i = 0; i < n; i++)',
                f'  m[i] = ({self.stored})as_code(code_{k}(x[i], scale, {noise}{given}), {low}, {high});',
            ],
        )

    def store_block(self, k, at_random, f, conditions):
        "With a loop for each outcome of `conditions`, and what these are made of before it"
        single_numbers = [v for v in f.values if v.kind == SINGLE and conditions]
        call = lambda values: f'codes_{k}(x, (int32_t)n, m, scale, bits{values});'
        size = self.code.block
        return function(
            f'static void store_{k}(const float* x, int64_t n, {self.stored}* m, float* s, uint32_t h)',
            [
                f'const float scale = *s = scale_{self.number}(x);',
                f'_Alignas(64) random_bits bits[{size}]; (void)h;',
                *([f'fill_bits(bits, {size}, h);'] if at_random else []),
                *map(define, single_numbers),
                *each_outcome([*map(name, conditions)], call),
            ],
        )


at_random_suffix = {False: '', True: '_at_random'}  # of the names of functions


def of_scale_alone(f):
    "The conditions on the scale alone that elements of the function `f` depend on"
    deciding = operands([v for v in f.values if v.kind == ELEMENTS])
    return [v for v in deciding if v.kind == SINGLE and v.dtype is torch.bool]


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
