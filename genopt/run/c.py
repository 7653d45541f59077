"""C: the flat part of a stage as one function over a table of pointers.

The function goes over all parameters of a program, wherever they lie in memory. The table has a row of addresses for each name (`p`, `grad`, the
states, scratch memory). Parameters are cut into tiles of at most `block` elements; a tile knows its parameter and its place in it. Each parameter has
a row of scalars. A round is a loop over tiles; where it reduces, each tile leaves a partial result, and these are joined in order, so the result does
not depend on the number of threads.

    SGD with momentum becomes           for (i = 0; i < n; i++) {
                                          const T e0 = m0[i], e1 = m1[i], e2 = m2[i];            // p, grad, grad_avg
                                          const T v5 = (e2 * s0);
                                          const T v7 = FMA(s1, e1, v5);
                                          const T v9 = FMA((-s2), v7, e0);
                                          m0[i] = v9;
                                          m2[i] = v7;
                                        }"""

import math
import torch
from ..lower.operations import Dialect, reduction, write
from ..lower.record import CROSS, ELEMENTS, SCALAR, SINGLE, aten

__all__ = ['block', 'look_source', 'source']

block = 2048  # elements of a tile; of 1,024 to 131,072 tried, 1,024 to 4,096 are the quickest for ResNets, by a tenth
types = {
    torch.float32: 'float',
    torch.float64: 'double',
    torch.bfloat16: 'bf16',
    torch.float16: 'f16',
}

prelude = r'''
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#define INLINE static inline __attribute__((always_inline))
typedef struct { uint16_t x; } bf16;
INLINE float bits_as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
INLINE uint32_t float_as_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
INLINE float load_bf16(bf16 x) { return bits_as_float((uint32_t)x.x << 16); }
INLINE bf16 store_bf16(float f) {                       /* to the nearest, ties to even; NaN stays */
  const uint32_t u = float_as_bits(f), rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  const bf16 r = { (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded) }; return r;
}
#ifdef __FLT16_MAX__
typedef _Float16 f16;
static inline float load_f16(f16 x) { return (float)x; }
static inline f16 store_f16(float f) { return (f16)f; }
#endif
#define load_float(x) (x)
#define store_float(x) (x)
#define load_double(x) (x)
#define store_double(x) (x)
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FMA_float(a, b, c) __builtin_fmaf(a, b, c)
#define FMA_double(a, b, c) __builtin_fma(a, b, c)
#else
#define FMA_float(a, b, c) ((a)*(b) + (c))
#define FMA_double(a, b, c) ((a)*(b) + (c))
#endif
/* exp, exp2, log and log2 in float, which a compiler can vectorize; within two units in the last place */
INLINE float two_to(float n, float x) {                 /* x * 2^n in two steps, so that what is too small for a float comes out as zero */
  const int32_t k = (int32_t)n, half = k >> 1;
  return x * bits_as_float((uint32_t)(half + 127) << 23) * bits_as_float((uint32_t)(k - half + 127) << 23);
}
INLINE float exp_small(float r) {
  float q = 1.9875691500e-4f;
  q = q*r + 1.3981999507e-3f; q = q*r + 8.3334519073e-3f; q = q*r + 4.1665795894e-2f; q = q*r + 1.6666665459e-1f; q = q*r + 5.0000001201e-1f;
  return q*r*r + r + 1.0f;
}
INLINE float fast_expf(float x) {
  x = x > 89.0f ? 89.0f : x; x = x < -104.0f ? -104.0f : x;
  const float n = floorf(x*1.44269504088896341f + 0.5f);
  return two_to(n, exp_small(x - n*0.693359375f + n*2.12194440e-4f));
}
INLINE float fast_exp2f(float x) {
  x = x > 129.0f ? 129.0f : x; x = x < -150.0f ? -150.0f : x;
  const float n = floorf(x + 0.5f);
  return two_to(n, exp_small((x - n)*0.693147180559945f));
}
INLINE float log_of(float x, int base2) {
  const float big = x < 1.17549435e-38f ? x*8388608.0f : x;    /* below it the exponent is not to be seen */
  const uint32_t u = float_as_bits(big);
  float e = (float)((int32_t)(u >> 23) - 126) - (x < 1.17549435e-38f ? 23.0f : 0.0f);
  float m = bits_as_float((u & 0x007fffff) | 0x3f000000);
  const float low = m < 0.707106781186547524f ? 1.0f : 0.0f;
  e -= low; m = m + low*m - 1.0f;
  const float z = m*m;
  float q = 7.0376836292e-2f;
  q = q*m - 1.1514610310e-1f; q = q*m + 1.1676998740e-1f; q = q*m - 1.2420140846e-1f; q = q*m + 1.4249322787e-1f;
  q = q*m - 1.6668057665e-1f; q = q*m + 2.0000714765e-1f; q = q*m - 2.4999993993e-1f; q = q*m + 3.3333331174e-1f;
  const float y = q*m*z - 0.5f*z;
  const float r = base2 ? (m + y)*1.44269504088896341f + e : (m + (y - e*2.12194440e-4f)) + e*0.693359375f;
  return r + (x > 0.0f ? 0.0f : x == 0.0f ? -INFINITY : NAN) + (x > FLT_MAX ? INFINITY : 0.0f);       /* gcc 12 does not vectorize other forms */
}
INLINE float fast_logf(float x) { return log_of(x, 0); }
INLINE float fast_log2f(float x) { return log_of(x, 1); }

typedef struct {
  const int64_t* table;                                        /* addresses[name][parameter] */
  int64_t n;                                                   /* parameters */
  const int64_t* numel;                                        /* of each */
  const int32_t* tile_parameter; const int32_t* tile_place; int64_t tiles;
  const double* scalars; int64_t width; const int32_t* row;    /* scalars[row][k], and the row of each parameter */
  void* singles; void* leaves; double* partials; double* sums; /* memory for single numbers of each parameter, and of each tile */
  int64_t parallel;
} Args;
'''


class C(Dialect):
    "How C writes what the table of operations asks for; `T` is float or double"

    fast = 'exp', 'exp2', 'log', 'log2'
    names = dict(abs='fabs')
    infinity = 'INFINITY'

    def __init__(self, T):
        self.T = T
        self.suffix = 'f' if T == 'float' else ''
        self.zero, self.half, self.one = [f'{v}{self.suffix}' for v in (0.0, 0.5, 1.0)]

    def constant(self, v, dtype):
        if dtype is torch.bool:
            return str(int(v))
        v = float(v)
        if math.isfinite(v):
            return f'(({self.T}){v!r})'
        return 'NAN' if math.isnan(v) else 'INFINITY' if v > 0 else '(-INFINITY)'

    def number(self, condition):
        return f'({self.T})({condition})'

    def function(self, name, *args):
        fast = 'fast_' if self.suffix and name in self.fast else ''
        return f'{fast}{self.names.get(name, name)}{self.suffix}({", ".join(args)})'

    def choose(self, condition, a, b):
        return f'(({condition}) ? {a} : {b})'

    def negate(self, condition):
        return f'(!{condition})'

    def fma(self, a, b, c):
        return f'FMA_{self.T}({a}, {b}, {c})'


class Emitter:
    """Writes the source of one flat part. Values are called `m3` where they lie in memory, `e3` when they are loaded from there, `s3` if they are
    scalars, `w3` if they are single numbers that are kept from round to round, and by their own name `v3` where they are computed"""

    def __init__(self, flat, scalars, dtypes, compute_dtype):
        self.flat, self.dtypes, self.compute_dtype = flat, dtypes, compute_dtype
        self.T, self.d = types[compute_dtype], C(types[compute_dtype])
        self.slots = {n: i for i, n in enumerate((*flat.names, *flat.single_names))}
        self.scalars = {n: i for i, n in enumerate(scalars)}
        self.kept = {
            v: i
            for i, v in enumerate(
                dict.fromkeys(v for r in flat.rounds for v in (*r.singles, *r.reduced))
            )
        }
        self.width = max(1, len(self.kept))

    # -- names --

    def name(self, v):
        if v.kind in (SCALAR, CROSS):
            return f's{self.scalars[v.name]}'
        if v in self.kept:
            return f'w{self.kept[v]}'
        return (
            f'e{self.slots[v.name]}'
            if v.name in self.flat.loads or v.name in self.flat.single_loads
            else v.name
        )

    def text(self, v, dtype):
        "`v` where an operand of `dtype` is wanted"
        if dtype is torch.bool and v.dtype is not torch.bool:
            return f'({self.name(v)} != 0)'
        return (
            self.name(v)
            if dtype is torch.bool or v.dtype is not torch.bool
            else f'(T){self.name(v)}'
        )

    def type(self, v):
        return 'int' if v.dtype is torch.bool else 'T'

    def stored(self, name):
        return types[self.dtypes[name]]

    def kept_at(self, v, t='t'):
        return f'w[{t}*{self.width} + {self.kept[v]}]'

    # -- lines --

    def define(self, v):
        "One operation. Dividing elements by a scalar is multiplying them by its reciprocal, which takes a fraction of the time"
        if (
            v.op is aten.div.Tensor
            and (i := self.reciprocal(v.args[1])) is not None
            and v.kind == ELEMENTS
        ):
            return f'const T {v.name} = {self.text(v.args[0], v.dtype)} * r{i};'
        return f'const {self.type(v)} {self.name(v)} = {write(v, self.d, self.text, self.compute_dtype)};'

    def reciprocal(self, by):
        return self.scalars.get(f'r_{by.name}') if getattr(by, 'kind', None) == SCALAR else None

    def operands(self, values):
        return [*dict.fromkeys(o for v in values for o in v.operands)]

    def load_scalars(self, values):
        used = [o for o in self.operands(values) if o.kind in (SCALAR, CROSS)]
        inverse = [i for o in used if (i := self.reciprocal(o)) is not None]
        return [f'const T {self.name(o)} = (T)s[{self.scalars[o.name]}];' for o in used] + [
            f'const T r{i} = (T)s[{i}];' for i in inverse
        ]

    def load_singles(self, values, made=()):
        "The single numbers that `values` read, but for those `made` just there"
        used = [o for o in self.operands(values) if o.kind == SINGLE and o not in made]

        def place(o):
            return (
                self.kept_at(o)
                if o in self.kept
                else f'*(const T*)a->table[{self.slots[o.name]}*a->n + t]'
            )

        return [
            f'const {self.type(o)} {self.name(o)} = {place(o)}{" != 0" if o.dtype is torch.bool else ""};'
            for o in used
        ]

    # -- a round --

    def loop(self, k, r, stores):
        "The function for one tile in round `k`"
        values = [*r.elements, *r.reduced]
        loads = dict.fromkeys(
            o.name
            for v in values
            for o in v.operands
            if o.kind == ELEMENTS and o.name in self.flat.loads
        )
        loads |= dict.fromkeys(v.name for v in stores.values() if v.name in self.flat.loads)
        memory = [self.pointer(n) for n in dict.fromkeys([*loads, *stores])]
        body = [
            f'const T e{self.slots[n]} = load_{self.stored(n)}(m{self.slots[n]}[i]);' for n in loads
        ]
        body += [self.define(v) for v in r.elements]
        accs = [(j, v, reduction(v)) for j, v in enumerate(r.reduced)]
        for j, v, red in accs:
            x = red.element(self.d, *(self.text(o, self.compute_dtype) for o in v.operands))
            if red.sign == '+':
                body.append(f'a{j} += {x};')
            else:
                body += [
                    f'const T x{j} = {x};',
                    f'bad{j} |= x{j} != x{j};',
                    f'a{j} = x{j} {">" if red.sign == "max" else "<"} a{j} ? x{j} : a{j};',
                ]
        body += [
            f'm{self.slots[n]}[i] = store_{self.stored(n)}({self.text(v, self.compute_dtype)});'
            for n, v in stores.items()
        ]
        head = [
            'const int64_t t = a->tile_parameter[k], o = (int64_t)a->tile_place[k]*BLOCK;',
            'const int64_t rest = a->numel[t] - o, n = rest < BLOCK ? rest : BLOCK;',
            'const double* s = a->scalars + a->row[t]*a->width;',
            'const T* w = (const T*)a->singles; (void)s; (void)w;',
            *memory,
            *self.load_scalars(values),
            *self.load_singles(values),
        ]
        inner = (
            self.joined_loop(accs, body, k)
            if accs
            else ['#pragma omp simd', 'for (int64_t i = 0; i < n; i++) {', *indent(body), '}']
        )
        return [f'static void tile_{k}(const Args* a, int64_t k) {{', *indent(head + inner), '}']

    def pointer(self, n):
        "Where the elements of `n` in this tile lie"
        stored, i = self.stored(n), self.slots[n]
        return f'{stored}* restrict m{i} = ({stored}*)a->table[{i}*a->n + t] + o;'

    def joined_loop(self, accs, body, k):
        "A loop that reduces: a few elements in T, and what they come to in double"
        total = [f'double total{j} = {starts[red.sign]}; int bad{j} = 0;' for j, _, red in accs]
        part = [f'T a{j} = {starts[red.sign]};' for j, _, red in accs]
        clauses = ' '.join(
            f'reduction({red.sign}:a{j})' + (f' reduction(|:bad{j})' if red.sign != '+' else '')
            for j, _, red in accs
        )
        join = [joined(f'total{j}', f'a{j}', red.sign) for j, _, red in accs]
        save = [f'a->partials[k*{len(accs)} + {j}] = bad{j} ? NAN : total{j};' for j, _, _ in accs]
        few = [
            *part,
            'const int64_t end = n - b < 512 ? n : b + 512;',
            f'#pragma omp simd {clauses}',
            'for (int64_t i = b; i < end; i++) {',
            *indent(body),
            '}',
            *join,
        ]
        return [*total, 'for (int64_t b = 0; b < n; b += 512) {', *indent(few), '}', *save]

    def join(self, k, r):
        "The partial results of round `k`, joined in order for each parameter"
        A, lines = len(r.reduced), []
        for j, v in enumerate(r.reduced):
            red = reduction(v)
            sums = f'a->sums[t*{A} + {j}]'
            lines.append(f'for (int64_t t = 0; t < a->n; t++) {sums} = {starts[red.sign]};')
            x = f'a->partials[k*{A} + {j}]'
            here = sums.replace('t*', '(int64_t)a->tile_parameter[k]*')
            update = (
                f'{here} += {x};'
                if red.sign == '+'
                else f'{here} = ({x} {">" if red.sign == "max" else "<"} {here}) | ({x} != {x}) ? {x} : {here};'
            )
            lines.append(f'for (int64_t k = 0; k < a->tiles; k++) {update}')
            lines.append(
                f'for (int64_t t = 0; t < a->n; t++) {{ const double x = {sums}, n = (double)a->numel[t]; (void)n; '
                f'{self.kept_at(v)} = (T)({self.ended(red)}); }}'
            )
        return lines

    def ended(self, red):
        return red.end(C('double'), 'x', 'n')

    def arithmetic(self, r):
        "The arithmetic on single numbers before round `k`"
        if not r.singles:
            return []
        save = [f'{self.kept_at(v)} = (T){self.name(v)};' for v in r.singles]
        return [
            'for (int64_t t = 0; t < a->n; t++) {',
            *indent(
                [
                    'const double* s = a->scalars + a->row[t]*a->width;',
                    *self.load_scalars(r.singles),
                    *self.load_singles(r.singles, r.singles),
                    *map(self.define, r.singles),
                    *save,
                ]
            ),
            '}',
        ]

    def hand_out(self):
        "Single numbers that are written, or handed out"
        f, lines = self.flat, []

        def of(v):
            if v.kind in (SCALAR, CROSS):
                return f'(T)a->scalars[a->row[t]*a->width + {self.scalars[v.name]}]'
            return (
                self.kept_at(v)
                if v in self.kept
                else f'*(const T*)a->table[{self.slots[v.name]}*a->n + t]'
            )

        lines += [
            f'((T*)a->leaves)[t*{len(f.leaves)} + {j}] = {of(v)};' for j, v in enumerate(f.leaves)
        ]
        lines += [f'const T new{i} = {of(v)};' for i, v in enumerate(f.single_stores.values())]
        lines += [
            f'*(T*)a->table[{self.slots[n]}*a->n + t] = new{i};'
            for i, n in enumerate(f.single_stores)
        ]
        return ['for (int64_t t = 0; t < a->n; t++) {', *indent(lines), '}'] if lines else []

    def source(self):
        f, code, body = self.flat, [], []
        for k, r in enumerate(f.rounds):
            stores = f.stores if k == len(f.rounds) - 1 else {}
            body += self.arithmetic(r)
            if r.reduced or stores:
                code += self.loop(k, r, stores)
                each = f'for (int64_t k = 0; k < a->tiles; k++) tile_{k}(a, k);'
                body += [
                    'if (a->parallel) {',
                    '  #pragma omp parallel for schedule(static)',
                    f'  {each}',
                    f'}} else {each}',
                ]
            body += self.join(k, r)
        legend = (
            '/* '
            + ', '.join(
                [f'm{i}: {n}' for n, i in self.slots.items()]
                + [f's{i}: {n}' for n, i in self.scalars.items()]
            )
            + ' */'
        )
        return '\n'.join(
            [
                prelude,
                legend,
                f'typedef {self.T} T;',
                f'#define BLOCK {block}',
                *code,
                'void run(const Args* a) {',
                *indent(['T* w = (T*)a->singles; (void)w;', *body, *self.hand_out()]),
                '}',
                '',
            ]
        )


def look_source(dtype):
    "The C source of a look at gradients: `sums[0]` is then the first parameter with an element whose square is not finite, or -1"
    stored = types[dtype]
    T = 'double' if stored == 'double' else 'float'
    return '\n'.join(
        [
            prelude,
            f'#define BLOCK {block}',
            f'''
static void tile(const Args* a, int64_t k) {{
  const int64_t t = a->tile_parameter[k], o = (int64_t)a->tile_place[k]*BLOCK;
  const int64_t rest = a->numel[t] - o, n = rest < BLOCK ? rest : BLOCK;
  const {stored}* m = (const {stored}*)a->table[t] + o;
  int bad = 0;
  #pragma omp simd reduction(|:bad)
  for (int64_t i = 0; i < n; i++) {{ const {T} x = load_{stored}(m[i]); bad |= !(x*x <= {"DBL" if T == "double" else "FLT"}_MAX); }}
  a->partials[k] = bad;
}}
void run(const Args* a) {{
  if (a->parallel) {{
    #pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < a->tiles; k++) tile(a, k);
  }} else for (int64_t k = 0; k < a->tiles; k++) tile(a, k);
  a->sums[0] = -1;
  for (int64_t k = 0; k < a->tiles; k++) if (a->partials[k] != 0) {{ a->sums[0] = a->tile_parameter[k]; return; }}
}}''',
            '',
        ]
    )


starts = {'+': '0', 'max': '-INFINITY', 'min': 'INFINITY'}


def joined(total, x, sign):
    "The statement that joins the partial result `x` to `total`"
    return (
        f'{total} += {x};'
        if sign == '+'
        else f'{total} = {x} {">" if sign == "max" else "<"} {total} ? {x} : {total};'
    )


def indent(lines):
    return [f'  {line}' for line in lines]


def source(flat, scalars, dtypes, compute_dtype):
    """The C source of a flat part, a function `run`. `scalars`: the names in a row of scalars, in order; `dtypes`: of what lies in memory, by name"""
    return Emitter(flat, scalars, dtypes, compute_dtype).source()
