"""The lines with which every kernel in C starts: how elements are loaded and stored, elementary
functions, random numbers, and the loop over tiles. A kernel takes a pointer to its `Args`."""

from .c_struct import structure

__all__ = ['Args', 'block', 'drawn', 'prelude']

# Elements of a tile. 1,024 to 4,096 are the quickest for ResNets, of 1,024 to 131,072, by a tenth
block = 2048
drawn = 256  # the random numbers that are made at once

Args = structure(
    'Args',
    table='const int64_t*',  # addresses[name][parameter]
    n='int64_t',  # parameters
    numel='const int64_t*',  # elements of each parameter
    tile_parameter='const int32_t*',  # of each tile its parameter,
    tile_place='const int32_t*',  # and its place in that
    tiles='int64_t',
    scalars='double*',  # scalars[row][width]
    width='int64_t',
    row='const int32_t*',  # of each parameter
    singles='void*',  # single numbers of each parameter, kept between rounds
    leaves='void*',  # and those that are handed out
    partials='double*',  # what each tile has reduced
    sums='double*',  # and what these come to for each parameter
    rows='int64_t',  # of scalars
    stage='int64_t',  # which is run; -1: all
    parallel='int64_t',  # whether threads share the tiles
    seed='int64_t',  # of random numbers, in this step
    keys='const int64_t*',  # of each parameter, for these
    rounding='int64_t',  # the seed of what is rounded at random
)

# -- Elements in memory --

stored = r'''
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#define INLINE static inline __attribute__((always_inline))
typedef struct { uint16_t x; } bf16;
INLINE float bits_as_float(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
INLINE uint32_t float_as_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
INLINE float load_bf16(bf16 x) { return bits_as_float((uint32_t)x.x << 16); }
INLINE bf16 store_bf16(float f) {              /* to the nearest, ties to even; NaN stays */
  const uint32_t u = float_as_bits(f), rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  const bf16 r = { (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded) };
  return r;
}
#define load_float(x) (x)
#define store_float(x) (x)
#define load_double(x) (x)
#define store_double(x) (x)
#ifdef __FLT16_MAX__
typedef _Float16 f16;
static inline float load_f16(f16 x) { return (float)x; }
static inline f16 store_f16(float f) { return (f16)f; }
#else                                                    /* clang before 15 on x86; after github.com/Maratyszcza/FP16 */
typedef struct { uint16_t x; } f16;
INLINE float load_f16(f16 h) {
  const uint32_t w = (uint32_t)h.x << 16, twice = w + w;
  const float normal = bits_as_float((twice >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
  const float small = bits_as_float((twice >> 17) | (126u << 23)) - 0.5f;
  return bits_as_float((w & 0x80000000u) | float_as_bits(twice < (1u << 27) ? small : normal));
}
INLINE f16 store_f16(float f) {
  const uint32_t w = float_as_bits(f), twice = w + w, exponent = twice & 0xFF000000u;
  const uint32_t bias = exponent < 0x71000000u ? 0x71000000u : exponent;
  const float rounded = bits_as_float((bias >> 1) + 0x07800000u) + (fabsf(f) * 0x1.0p+112f) * 0x1.0p-110f;
  const uint32_t bits = float_as_bits(rounded), value = ((bits >> 13) & 0x7C00u) + (bits & 0x0FFFu);
  const f16 r = { (uint16_t)((w >> 16 & 0x8000u) | (twice > 0xFF000000u ? 0x7E00u : value)) }; return r;
}
#endif
/* Random bits: murmur3's finalizer of a counter. The same for the same seed, whatever the threads */
INLINE uint32_t mixed(uint32_t u) {
  u ^= u >> 16; u *= 0x85ebca6bu; u ^= u >> 13; u *= 0xc2b2ae35u; return u ^ (u >> 16);
}
INLINE uint32_t salt(int64_t seed, int64_t name, int64_t parameter, int64_t place) {
  const uint32_t u = mixed(mixed((uint32_t)seed) ^ (uint32_t)(seed >> 32));
  return mixed(mixed(u + (uint32_t)name) + (uint32_t)parameter) + (uint32_t)place * 0x9e3779b9u;
}
INLINE bf16 store_bf16_stochastic(float f, uint32_t u) {        /* up or down, so that the mean is f */
  const uint32_t bits = float_as_bits(f), finite = (bits & 0x7f800000) != 0x7f800000;
  const bf16 r = { (uint16_t)((bits + (finite ? u >> 16 : 0)) >> 16 | (f != f ? 0x40 : 0)) };
  return r;
}
/* 16 random bits for each of `n` elements, two from a word. A multiple of 2^-16 can be added to a
   code without a loss */
typedef uint16_t __attribute__((may_alias)) random_bits;
INLINE void fill_bits(random_bits* restrict bits, int32_t n, uint32_t h) {
  uint32_t* restrict words = (uint32_t*)bits;
  #pragma omp simd
  for (int32_t i = 0; i < n/2; i++) words[i] = mixed(h + (uint32_t)i*0x9e3779b9u);
}
/* The code that a whole number comes to; 0 for NaN, and for what is far too large */
INLINE int32_t as_code(float q, int32_t low, int32_t high) {
  const int32_t code = fabsf(q) < 0x1p30f ? (int32_t)q : 0, least = code < low ? low : code;
  return least > high ? high : least;
}
/* Parameters with something beside them; contract/weights.py says how */
#define WEIGHTS(T) \
INLINE float load_kahan_##T(T p, T rest) { return load_##T(p) + load_##T(rest); } \
INLINE void store_kahan_##T(float x, T* p, T* rest) { \
  const T nearest = store_##T(x); \
  const float lost = x - load_##T(nearest); \
  *p = nearest; \
  *rest = store_##T(lost - lost == 0.0f ? lost : 0.0f); \
} \
INLINE float load_master_##T(T p, float x) { \
  const float written = load_##T(p); \
  return load_##T(store_##T(x)) == written ? x : written; \
} \
INLINE void store_master_##T(float x, T* p, float* master) { *p = store_##T(x); *master = x; }
WEIGHTS(bf16)
WEIGHTS(f16)
INLINE float load_bits(bf16 p, int32_t rest) {
  const uint32_t bits = (uint32_t)p.x << 16;
  return bits_as_float(bits + (uint32_t)((bits & 0x7fffffff) == 0 && rest < 0 ? 0 : rest));
}
INLINE float load_exact_bits_bf16(bf16 p, int16_t low) { return load_bits(p, low); }
INLINE float load_extra_bits_bf16(bf16 p, int8_t low) { return load_bits(p, low*256); }
INLINE void store_exact_bits_bf16(float x, bf16* p, int16_t* low) {
  const uint32_t bits = x != x ? 0x7fc00000u : float_as_bits(x);
  p->x = (uint16_t)((bits + 0x8000u) >> 16);
  *low = (int16_t)(uint16_t)bits;
}
INLINE void store_extra_bits_bf16(float x, bf16* p, int8_t* low, uint32_t random) {
  const uint32_t bits = x != x ? 0x7fc00000u : float_as_bits(x);
  const uint32_t upper = bits + ((bits & 0x7f800000) != 0x7f800000 ? random >> 24 : 0);
  p->x = (uint16_t)(((upper & 0xffffff00u) + 0x8000u) >> 16);
  *low = (int8_t)(uint8_t)(upper >> 8);
}
'''

# -- Elementary functions --

functions = r'''
#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define FMA_float(a, b, c) __builtin_fmaf(a, b, c)
#define FMA_double(a, b, c) __builtin_fma(a, b, c)
#else
#define FMA_float(a, b, c) ((a)*(b) + (c))
#define FMA_double(a, b, c) ((a)*(b) + (c))
#endif
/* exp, exp2, log and log2 in float, as a compiler can vectorize them; within two units in the last
   place */
/* x * 2^n in two steps, so that what is too small for a float becomes zero */
INLINE float two_to(float n, float x) {
  const int32_t k = (int32_t)n, half = k >> 1;
  const float a = bits_as_float((uint32_t)(half + 127) << 23);
  return x * a * bits_as_float((uint32_t)(k - half + 127) << 23);
}
INLINE float exp_small(float r) {
  float q = 1.9875691500e-4f;
  q = q*r + 1.3981999507e-3f; q = q*r + 8.3334519073e-3f; q = q*r + 4.1665795894e-2f;
  q = q*r + 1.6666665459e-1f; q = q*r + 5.0000001201e-1f;
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
  /* the smallest numbers do not show their exponent */
  const float big = x < 1.17549435e-38f ? x*8388608.0f : x;
  const uint32_t u = float_as_bits(big);
  float e = (float)((int32_t)(u >> 23) - 126) - (x < 1.17549435e-38f ? 23.0f : 0.0f);
  float m = bits_as_float((u & 0x007fffff) | 0x3f000000);
  const float low = m < 0.707106781186547524f ? 1.0f : 0.0f;
  e -= low; m = m + low*m - 1.0f;
  const float z = m*m;
  float q = 7.0376836292e-2f;
  q = q*m - 1.1514610310e-1f; q = q*m + 1.1676998740e-1f; q = q*m - 1.2420140846e-1f;
  q = q*m + 1.4249322787e-1f; q = q*m - 1.6668057665e-1f; q = q*m + 2.0000714765e-1f;
  q = q*m - 2.4999993993e-1f; q = q*m + 3.3333331174e-1f;
  const float y = q*m*z - 0.5f*z;
  const float r = base2 ? (m + y)*1.44269504088896341f + e
                        : (m + (y - e*2.12194440e-4f)) + e*0.693359375f;
  /* gcc 12 does not vectorize other forms of this */
  return r + (x > 0.0f ? 0.0f : x == 0.0f ? -INFINITY : NAN) + (x > FLT_MAX ? INFINITY : 0.0f);
}
INLINE float fast_logf(float x) { return log_of(x, 0); }
INLINE float fast_log2f(float x) { return log_of(x, 1); }
'''

# -- Random numbers --

random = r'''
/* Random numbers in callbacks; random.py says which. Four words a, b, c, d for a counter */
#define ROUND { \
  const uint64_t p = (uint64_t)a*0xD2511F53u, q = (uint64_t)c*0xCD9E8D57u; \
  a = (uint32_t)(q >> 32) ^ b ^ k; c = (uint32_t)(p >> 32) ^ d ^ l; b = (uint32_t)q; d = (uint32_t)p; \
  k += 0x9E3779B9u; l += 0xBB67AE85u; }
#define PHILOX(element, draw, key, seed) \
  uint32_t a = (uint32_t)((element) >> 2), b = (uint32_t)(draw), c = (uint32_t)(key), d = (uint32_t)((key) >> 32); \
  uint32_t k = (uint32_t)(seed), l = (uint32_t)((seed) >> 32); \
  ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND ROUND
/* cos and sin of t turns, for t from -1/2 to 1/2, within two units in the last place of 1 */
INLINE void circle_float(float t, float* x, float* y) {
  const float q = floorf(4.0f*t + 0.5f), r = (t - 0.25f*q)*6.283185307179586f, z = r*r;
  const uint32_t n = (uint32_t)(int32_t)q, swap = 0u - (n & 1);
  const float s = ((-1.9515295891e-4f*z + 8.3321608736e-3f)*z - 1.6666654611e-1f)*z*r + r;
  const float e = ((2.443315711809948e-5f*z - 1.388731625493765e-3f)*z + 4.166664568298827e-2f)*z*z - 0.5f*z + 1.0f;
  const uint32_t i = float_as_bits(s), j = float_as_bits(e), both = (i ^ j) & swap;
  *x = bits_as_float((j ^ both) ^ ((n + 1) << 30 & 0x80000000u));
  *y = bits_as_float((i ^ both) ^ (n << 30 & 0x80000000u));
}
INLINE void circle_double(double t, double* x, double* y) { *x = cos(t*6.283185307179586); *y = sin(t*6.283185307179586); }
INLINE float uniform_float(uint32_t a) { return (float)(int32_t)(a >> 8)*0x1.0p-24f; }
INLINE double uniform_double(uint32_t a) { return (double)a*0x1.0p-32; }
INLINE float radius_float(uint32_t a) { return sqrtf(-2.0f*fast_logf((float)(int32_t)(a >> 1)*0x1.0p-31f + 0x1.0p-32f)); }
INLINE double radius_double(uint32_t a) { return sqrt(-2.0*log(((double)a + 0.5)*0x1.0p-32)); }
#define SIMD _Pragma("omp simd")
static void fill_words(uint32_t* restrict w, int64_t start, uint32_t draw, int64_t key, int64_t seed) {
  SIMD for (int32_t i = 0; i < RANDOM; i += 4) {
    PHILOX(start + i, draw, key, seed)
    w[i] = a; w[i+1] = b; w[i+2] = c; w[i+3] = d;
  }
}
#define DRAWS(T) \
INLINE void normal_##T(uint32_t a, uint32_t b, T* x, T* y) { \
  T u, v; \
  circle_##T((T)(int32_t)b*(T)0x1.0p-32, &u, &v); \
  const T r = radius_##T(a); \
  *x = r*u; *y = r*v; \
} \
static void fill_uniform_##T(T* restrict x, int64_t start, uint32_t draw, int64_t key, int64_t seed) { \
  SIMD for (int32_t i = 0; i < RANDOM; i += 4) { \
    PHILOX(start + i, draw, key, seed) \
    x[i] = uniform_##T(a); x[i+1] = uniform_##T(b); x[i+2] = uniform_##T(c); x[i+3] = uniform_##T(d); \
  } \
} \
static void fill_normal_##T(T* restrict x, int64_t start, uint32_t draw, int64_t key, int64_t seed) { \
  uint32_t w[RANDOM]; \
  fill_words(w, start, draw, key, seed); \
  SIMD for (int32_t i = 0; i < RANDOM; i += 2) { \
    T u, v; \
    normal_##T(w[i], w[i+1], &u, &v); \
    x[i] = u; x[i+1] = v; \
  } \
} \
INLINE T one_uniform_##T(uint32_t draw, int64_t key, int64_t seed) { \
  PHILOX((int64_t)0, draw, key, seed) \
  return uniform_##T(a); \
} \
INLINE T one_normal_##T(uint32_t draw, int64_t key, int64_t seed) { \
  PHILOX((int64_t)0, draw, key, seed) \
  T x, y; \
  normal_##T(a, b, &x, &y); \
  return x; \
}
DRAWS(float)
DRAWS(double)
'''

# -- Tiles --

tiles = r'''
/* Parallel regions call libgomp, which torch has loaded, by name. So any compiler will do, and there is one pool of threads. */
typedef void Tile(const Args*, int64_t);
#ifdef GOMP
extern void GOMP_parallel(void (*)(void*), void*, unsigned, unsigned);
extern int omp_get_num_threads(void), omp_get_thread_num(void);
typedef struct { const Args* a; Tile* tile; } Region;
static void share(void* p) {
  const Region* r = (const Region*)p;
  const int64_t n = omp_get_num_threads(), i = omp_get_thread_num(), tiles = r->a->tiles;
  for (int64_t k = tiles*i/n; k < tiles*(i+1)/n; k++) r->tile(r->a, k);
}
#endif
static void over_tiles(const Args* a, Tile* tile) {
#ifdef GOMP
  if (a->parallel) { Region r = { a, tile }; GOMP_parallel(share, &r, 0, 0); return; }
#endif
  for (int64_t k = 0; k < a->tiles; k++) tile(a, k);
}
'''

prelude = ''.join(
    [stored, functions, f'#define RANDOM {drawn}', random, Args.source, tiles]
)
