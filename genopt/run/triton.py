"""Triton as a dialect: how it writes what the table of operations asks for. Beside that: the lines
with which every source starts, and how elements are read and written. `triton_emit.py` writes
kernels.

In float32, `/` and `tl.sqrt` of Triton are approximations. The dialect takes the operations that
round as IEEE 754 says, as the reference does. Kernels are limited by memory, so this should cost no
time. Other functions come from `libdevice`, CUDA's or ROCm's."""

import math
import torch
from ..lower.operations import Dialect

__all__ = ['Triton', 'arguments', 'header', 'indented', 'prelude', 'starts']

# What stands before a source that somebody wants to run by itself
header = '''import triton.language as tl
from triton import jit
from triton.language.extra import libdevice
'''

# `narrowed` and `widened` are functions because Triton's interpreter rounds bfloat16 otherwise than
# a GPU; `triton_runtime` gives it others
conversions = '''
@jit
def narrowed(x):
    return x.to(tl.bfloat16)

@jit
def widened(x):
    return x.to(tl.float32)
'''

# Random bits, from a counter, as in C; and rounding up or down, so that the mean is `x`
rounding = '''
@jit
def mixed(u):
    u = (u ^ (u >> 16)) * 0x85ebca6b
    u = (u ^ (u >> 13)) * 0xc2b2ae35
    return u ^ (u >> 16)

@jit
def salt(seed, name, key):
    u = mixed(mixed(seed.to(tl.uint32)) ^ (seed >> 32).to(tl.uint32))
    return mixed(mixed(u + name) + key.to(tl.uint32))

@jit
def word(h, i):
    return mixed(h + i.to(tl.uint32) * 0x9e3779b9)

@jit
def at_random(x, h, i):
    bits = x.to(tl.uint32, bitcast=True)
    random = word(h, i) >> 16
    finite = (bits & 0x7f800000) != 0x7f800000
    nan = tl.where(x != x, 0x40, 0)
    rounded = ((bits + tl.where(finite, random, 0)) >> 16) | nan
    return rounded.to(tl.uint16).to(tl.bfloat16, bitcast=True)

@jit
def random_part(h, i):
    return (word(h, i) >> 16).to(tl.float32) * 1.52587890625e-05
'''

# Random numbers in callbacks; `random.py` says which. `circle` is the cosine and the sine of `t` turns.
# libdevice's functions of float64 can take any angle, and have 48 bytes of a thread's memory for that
random = '''
@jit
def philox(a, draw, key, seed):
    b = tl.full(a.shape, draw, tl.uint32)
    c = (a * 0 + key.to(tl.uint32)).to(tl.uint32)
    d = (a * 0 + (key >> 32).to(tl.uint32)).to(tl.uint32)
    k = seed.to(tl.uint32)
    l = (seed >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        high, low = tl.umulhi(a, tl.full(a.shape, 0xD2511F53, tl.uint32)), a * 0xD2511F53
        a = tl.umulhi(c, tl.full(a.shape, 0xCD9E8D57, tl.uint32)) ^ b ^ k
        b = (c * 0xCD9E8D57).to(tl.uint32)
        c = high ^ d ^ l
        d = low.to(tl.uint32)
        k = (k + 0x9E3779B9).to(tl.uint32)
        l = (l + 0xBB67AE85).to(tl.uint32)
    return a, b, c, d

@jit
def circle_fp32(t):
    q = tl.floor(4.0 * t + 0.5)
    r = (t - 0.25 * q) * 6.283185307179586
    z = r * r
    s = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * r + r
    e = (2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2
    return in_quarter(q, s, e * z * z - 0.5 * z + 1.0)

@jit
def circle_fp64(t):
    q = tl.floor(4.0 * t + 0.5)
    r = (t - 0.25 * q) * 6.283185307179586
    z = r * r
    s = (1.5896230157654656e-10 * z - 2.5050747762857807e-8) * z + 2.7557313621385722e-6
    s = ((s * z - 1.984126982958954e-4) * z + 8.333333333322118e-3) * z - 1.6666666666666630e-1
    e = (-1.1358536521387682e-11 * z + 2.087570084197473e-9) * z - 2.755731417929674e-7
    e = ((e * z + 2.4801587288851704e-5) * z - 1.3888888888873056e-3) * z + 4.166666666666659e-2
    return in_quarter(q, s * z * r + r, e * z * z - 0.5 * z + 1.0)

@jit
def in_quarter(q, s, e):
    n = q.to(tl.int32)
    x = tl.where((n & 1) == 0, e, s)
    y = tl.where((n & 1) == 0, s, e)
    return tl.where(((n + 1) & 2) == 0, x, -x), tl.where((n & 2) == 0, y, -y)

@jit
def uniform_fp32(a):
    return (a >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08

@jit
def uniform_fp64(a):
    return a.to(tl.float64) * 2.3283064365386963e-10

@jit
def normal_fp32(a, b):
    u = (a >> 1).to(tl.int32).to(tl.float32) * 4.656612873077393e-10
    r = tl.sqrt_rn(-2.0 * libdevice.log(u + 2.3283064365386963e-10))
    x, y = circle_fp32(b.to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10)
    return r * x, r * y

@jit
def normal_fp64(a, b):
    u = (a.to(tl.float64) + 0.5) * 2.3283064365386963e-10
    r = tl.sqrt(-2.0 * libdevice.log(u))
    x, y = circle_fp64(b.to(tl.int32, bitcast=True).to(tl.float64) * 2.3283064365386963e-10)
    return r * x, r * y

@jit
def side_by_side(a, b, c, d, i):
    return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), i.shape)

@jit
def quarters(start, i):
    return ((start >> 2) + tl.arange(0, i.numel // 4)).to(tl.uint32)

@jit
def draw_uniform_TYPE(draw, key, seed, start, i):
    a, b, c, d = philox(quarters(start, i), draw, key, seed)
    a, b, c, d = uniform_TYPE(a), uniform_TYPE(b), uniform_TYPE(c), uniform_TYPE(d)
    return side_by_side(a, b, c, d, i)

@jit
def draw_normal_TYPE(draw, key, seed, start, i):
    a, b, c, d = philox(quarters(start, i), draw, key, seed)
    a, b = normal_TYPE(a, b)
    c, d = normal_TYPE(c, d)
    return side_by_side(a, b, c, d, i)

@jit
def one_uniform_TYPE(draw, key, seed):
    a, b, c, d = philox((key * 0).to(tl.uint32), draw, key, seed)
    return uniform_TYPE(a)

@jit
def one_normal_TYPE(draw, key, seed):
    a, b, c, d = philox((key * 0).to(tl.uint32), draw, key, seed)
    x, y = normal_TYPE(a, b)
    return x
'''

# Parameters with something beside them; `contract/weights.py` says how. A parameter comes and goes as
# float32, in values that its own dtype has
weights = '''
@jit
def load_kahan_TYPE(p, rest):
    return p + rest

@jit
def first_kahan_TYPE(x):
    return ROUNDED

@jit
def rest_kahan_TYPE(x):
    lost = x - ROUNDED
    return tl.where((lost - lost) == 0.0, lost, 0.0)

@jit
def load_master_TYPE(p, x):
    return tl.where(ROUNDED == p, x, p)

@jit
def first_master_TYPE(x):
    return x

@jit
def rest_master_TYPE(x):
    return x

@jit
def load_bits(p, rest):
    bits = p.to(tl.int32, bitcast=True)
    rest = tl.where(((bits & 0x7fffffff) == 0) & (rest < 0), 0, rest)
    return (bits + rest).to(tl.float32, bitcast=True)

@jit
def bits_of(x):
    return tl.where(x != x, 0x7fc00000, x.to(tl.int32, bitcast=True)).to(tl.uint32)

@jit
def first_bits(bits):
    return ((bits + 0x8000) & 0xffff0000).to(tl.float32, bitcast=True)

@jit
def load_exact_bits_TYPE(p, low):
    return load_bits(p, low.to(tl.int32))

@jit
def first_exact_bits_TYPE(x):
    return first_bits(bits_of(x))

@jit
def rest_exact_bits_TYPE(x):
    return bits_of(x).to(tl.int16)

@jit
def upper_bits(x, random):
    bits = bits_of(x)
    finite = (bits & 0x7f800000) != 0x7f800000
    return (bits + tl.where(finite, random >> 24, 0)) & 0xffffff00

@jit
def load_extra_bits_TYPE(p, low):
    return load_bits(p, low.to(tl.int32) * 256)

@jit
def first_extra_bits_TYPE(x, random):
    return first_bits(upper_bits(x, random))

@jit
def rest_extra_bits_TYPE(x, random):
    return (upper_bits(x, random) >> 8).to(tl.int8)
'''
rounded = dict(bf16='widened(narrowed(x))', f16='x.to(tl.float16).to(tl.float32)')

# How two numbers are joined, all of a block, all of each row, and in each lane all up to it that are
# of the same parameter `t`. NaN stays
reducing = '''
@jit
def join_NAME(a, b):
    return JOINED

@jit
def all_NAME(x):
    return tl.reduce(x, 0, join_NAME)

@jit
def row_NAME(x):
    return tl.reduce(x, 1, join_NAME)[:, None]

@jit
def scan_NAME(ta, a, tb, b):
    return tb, tl.where(ta == tb, join_NAME(a, b), b)

@jit
def running_NAME(t, x):
    parameter, total = tl.associative_scan((t, x), 0, scan_NAME)
    return total
'''
joined = dict(
    add='a + b',
    max='tl.where((a > b) | (a != a), a, b)',
    min='tl.where((a < b) | (a != a), a, b)',
)


def prelude(code):
    "The functions that `code` uses"
    lines = conversions if 'narrowed' in code or 'widened' in code else ''
    lines += rounding if 'salt(' in code else ''
    for name in 'fp32', 'fp64':
        if f'uniform_{name}(' in code or f'normal_{name}(' in code:
            lines += random.replace('TYPE', name)
    for name, text in rounded.items():
        if f'_{name}(' in code:
            lines += weights.replace('TYPE', name).replace('ROUNDED', text)
    for name, text in joined.items():
        if f'_{name}(' in code:
            lines += reducing.replace('NAME', name).replace('JOINED', text)
    return lines


# What a kernel may be given, in order, and of which type; T is that of the arithmetic
arguments = dict(
    table='*i64',  # a row for each name; then numbers of elements, rows of scalars, keys
    seed='*i64',  # of random numbers, in this step
    rounding='*i64',  # the seed of what is rounded at random
    tiles='*i32',  # pairs: parameter, place in it
    segments='*i32',  # fours: parameter or -1, first tile, tiles, whether it ends a parameter
    scalars='*T',  # scalars[row][width]
    crosses='*T',  # values of cross reductions
    singles='*T',  # single numbers of each parameter, kept between kernels
    partials='*T',  # what each segment has reduced
    flag='*fp32',  # of a gate: 0 if the step is done
    scale='*fp32',  # of a gate: what gradients are divided by
    n='i32',  # parameters
    chunks='i32',  # `LANES` segments each
    BLOCK='constexpr',  # elements of a tile
    LANES='constexpr',  # parameters, or segments, that one program takes at once
)

starts = {'+': '0.0', 'max': 'float("-inf")', 'min': 'float("inf")'}


class Triton(Dialect):
    "How Triton writes what the table of operations asks for; `T` is tl.float32 or tl.float64"

    infinity = 'float("inf")'
    types = {
        torch.float32: 'tl.float32',
        torch.float64: 'tl.float64',
        torch.bfloat16: 'tl.bfloat16',
        torch.float16: 'tl.float16',
        torch.uint8: 'tl.uint8',
        torch.int8: 'tl.int8',
        torch.int16: 'tl.int16',
        torch.int32: 'tl.int32',
    }
    short = {torch.bfloat16: 'bf16', torch.float16: 'f16'}  # as in C
    own = 'abs', 'floor', 'ceil', 'erf'  # Triton's own functions, exact in both types
    zero, half, one = '0.0', '0.5', '1.0'

    def __init__(self, dtype):
        self.dtype, self.T = dtype, self.types[dtype]
        self.single = dtype is torch.float32
        self.number_type = 'fp32' if self.single else 'fp64'

    def let(self, name, text, is_bool=False):
        "The statement that names the value of `text`"
        return f'{name} = {text}'

    def constant(self, v, dtype):
        if dtype is torch.bool:
            return str(bool(v))
        if dtype is torch.int32:
            return str(v)
        v = float(v)
        text = repr(v) if math.isfinite(v) else f'float("{v}")'
        return text if self.single else f'tl.full((), {text}, {self.T})'

    def number(self, condition):
        return f'({condition}).to({self.T})'

    def function(self, name, *args):
        if name == 'sqrt':
            return f'tl.sqrt{"_rn" if self.single else ""}({args[0]})'
        module = 'tl' if name in self.own else 'libdevice'
        return f'{module}.{name}({", ".join(args)})'

    def choose(self, condition, a, b):
        return f'tl.where({condition}, {a}, {b})'

    def negate(self, condition):
        return f'({condition} == False)'

    def cast(self, x, dtype):
        return f'tl.cast({x}, {self.types[dtype]})'

    def bits(self, x, dtype):
        return f'tl.cast({x}, {self.types[dtype]}, bitcast=True)'

    def divide(self, a, b):
        return f'tl.div_rn({a}, {b})' if self.single else f'({a}/{b})'

    def fma(self, a, b, c):
        return f'tl.fma({a}, {b}, {c})'

    # -- Memory --

    def load(self, dtype, pointer, mask=''):
        "What `pointer` points to, which is of `dtype`, in the type of the arithmetic. Bits stay bits"
        if dtype in (torch.int8, torch.int16):
            return f'tl.load({pointer}{mask.replace("0.0", "0")})'
        text = f'tl.load({pointer}{mask})'
        if dtype is torch.bfloat16:
            text = f'widened({text})'
            return text if self.single else f'{text}.to({self.T})'
        return text if dtype == self.dtype else f'{text}.to({self.T})'

    def store(self, dtype, pointer, text, mask=''):
        if dtype is torch.bfloat16:
            text = f'narrowed(tl.cast({text}, tl.float32))'
        return f'tl.store({pointer}, {text}{mask})'


def indented(lines):
    return [f'    {line}' for line in lines]
