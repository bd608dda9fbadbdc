// One vector type per instruction set, behind plain names.
//
// Everything here is compiled once per instruction set, inside that set's own namespace and with internal linkage, so
// that the linker can never pick an AVX-512 copy of a helper for a machine without it. Arithmetic uses GCC's vector
// extensions; an intrinsic appears only where the language has no word for it: fused multiply-add, masked loads and
// stores, compression.
//
// `fma` is written out everywhere and the compiler may not contract a * b + c (-ffp-contract=off): the Winograd
// transforms are faster as separate adds, which run on pipes that the multipliers leave idle.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if !defined(FASTCV_ISA) || !defined(FASTCV_VECTOR_BYTES)
#error "a file in isa/ names the instruction set and its vector width before it includes kernels"
#endif

#define FASTCV_INLINE static inline __attribute__((always_inline))
#define FASTCV_NOINLINE static __attribute__((noinline))
#define FASTCV_UNROLL _Pragma("GCC unroll 32")

namespace fastcv::FASTCV_ISA {
namespace {

FASTCV_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
FASTCV_INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
FASTCV_INLINE int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0); }
// Rounds a up to a multiple of b.
FASTCV_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

constexpr int kVectorBytes = FASTCV_VECTOR_BYTES;
// 32 architectural vector registers, or 16: decides the register tiles.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif

template <class T>
struct VectorOf {
    typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VectorOf<T>::type;

template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <class T>
constexpr T kInfinity = T(__builtin_inf());

template <class T>
FASTCV_INLINE Vec<T> zero() {
    return Vec<T>{};
}

// x - 0 is x for every x, -0 and NaN included; x + 0 is not.
template <class T>
FASTCV_INLINE Vec<T> splat(T x) {
    return x - Vec<T>{};
}

// Scalars and vectors are read and written through memcpy: arrays may start at any byte.
template <class T>
FASTCV_INLINE T load_scalar(const void* p) {
    T x;
    __builtin_memcpy(&x, p, sizeof(T));
    return x;
}
template <class T>
FASTCV_INLINE void store_scalar(void* p, T x) {
    __builtin_memcpy(p, &x, sizeof(T));
}
template <class T>
FASTCV_INLINE Vec<T> load(const T* p) {
    Vec<T> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
template <class T>
FASTCV_INLINE void store(T* p, Vec<T> v) {
    __builtin_memcpy(p, &v, sizeof v);
}

// Keeps a loaded value in a register. Without it GCC folds the load back into every fma that uses it and reads memory
// several times; measured on 8x3 tiles: 62 against 90 GFLOP/s.
template <class V>
FASTCV_INLINE void keep(V& v) {
#if defined(__x86_64__)
    asm volatile("" : "+v"(v));
#elif defined(__aarch64__)
    asm volatile("" : "+w"(v));
#else
    (void)v;
#endif
}

FASTCV_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}
FASTCV_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_pd(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_pd(a, b, c);
#elif defined(__aarch64__)
    return vfmaq_f64(c, a, b);
#else
    return a * b + c;
#endif
}

// ---- the first n lanes, 0 <= n; n >= lanes means all of them

#if defined(__AVX512F__)
FASTCV_INLINE unsigned first_lanes(int64_t n) { return n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1; }
FASTCV_INLINE Vec<float> load_first(const float* p, int64_t n) {
    return _mm512_maskz_loadu_ps(__mmask16(first_lanes(n)), p);
}
FASTCV_INLINE Vec<double> load_first(const double* p, int64_t n) {
    return _mm512_maskz_loadu_pd(__mmask8(first_lanes(n)), p);
}
FASTCV_INLINE void store_first(float* p, Vec<float> v, int64_t n) {
    _mm512_mask_storeu_ps(p, __mmask16(first_lanes(n)), v);
}
FASTCV_INLINE void store_first(double* p, Vec<double> v, int64_t n) {
    _mm512_mask_storeu_pd(p, __mmask8(first_lanes(n)), v);
}
// Lanes whose bit is set, moved to the front and stored there.
FASTCV_INLINE void store_lanes(float* p, Vec<float> v, uint32_t lanes) {
    store_first(p, _mm512_maskz_compress_ps(__mmask16(lanes), v), __builtin_popcount(lanes));
}
FASTCV_INLINE void store_lanes(double* p, Vec<double> v, uint32_t lanes) {
    store_first(p, _mm512_maskz_compress_pd(__mmask8(lanes), v), __builtin_popcount(lanes));
}
#else
template <class T>
FASTCV_INLINE Vec<T> load_first(const T* p, int64_t n) {
    if (n >= kLanes<T>) return load(p);
    Vec<T> v = zero<T>();
    if (n > 0) __builtin_memcpy(&v, p, size_t(n) * sizeof(T));
    return v;
}
template <class T>
FASTCV_INLINE void store_first(T* p, Vec<T> v, int64_t n) {
    if (n >= kLanes<T>)
        store(p, v);
    else if (n > 0)
        __builtin_memcpy(p, &v, size_t(n) * sizeof(T));
}
template <class T>
FASTCV_INLINE void store_lanes(T* p, Vec<T> v, uint32_t lanes) {
    for (int i = 0; i < kLanes<T>; i++)
        if (lanes >> i & 1) store_scalar(p++, v[i]);
}
#endif

#if defined(__AVX512F__)
// Some lanes next to each other, to be worked out once for many loads. What lies at the others is not read; they become zero.
template <class T>
struct LaneRange {
    uint32_t lanes;
    LaneRange() = default;
    LaneRange(int64_t first, int64_t last) : lanes(first_lanes(last) & ~first_lanes(first)) {}
};
FASTCV_INLINE Vec<float> load_range(const float* p, LaneRange<float> r) { return _mm512_maskz_loadu_ps(__mmask16(r.lanes), p); }
FASTCV_INLINE Vec<double> load_range(const double* p, LaneRange<double> r) { return _mm512_maskz_loadu_pd(__mmask8(r.lanes), p); }
FASTCV_INLINE void store_range(float* p, Vec<float> v, LaneRange<float> r) { _mm512_mask_storeu_ps(p, __mmask16(r.lanes), v); }
FASTCV_INLINE void store_range(double* p, Vec<double> v, LaneRange<double> r) { _mm512_mask_storeu_pd(p, __mmask8(r.lanes), v); }
// a and its right neighbour b, moved: a[N] a[N + 1] .. b[0] .. b[N - 1], 0 < N < lanes. The mask of all lanes costs nothing;
// without it GCC warns of its own header.
template <class T, int N>
FASTCV_INLINE Vec<T> shift_lanes(Vec<T> a, Vec<T> b) {
    if constexpr (kLanes<T> == 8) return Vec<T>(_mm512_maskz_alignr_epi64(0xff, __m512i(b), __m512i(a), N));
    else return Vec<T>(_mm512_maskz_alignr_epi32(0xffff, __m512i(b), __m512i(a), N));
}
#endif

// ---- permutations, written as index lists that the compiler turns into unpack, shuffle or permute

// even<T>(a, b): a0 a2 .. b0 b2 ..   odd<T>(a, b): a1 a3 .. b1 b3 ..
// interleave_low(a, b): a0 b0 a1 b1 ..   interleave_high(a, b): the upper halves likewise
template <class T>
FASTCV_INLINE Vec<T> even(Vec<T> a, Vec<T> b) {
    if constexpr (kLanes<T> == 2) return __builtin_shufflevector(a, b, 0, 2);
    else if constexpr (kLanes<T> == 4) return __builtin_shufflevector(a, b, 0, 2, 4, 6);
    else if constexpr (kLanes<T> == 8) return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
    else return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
template <class T>
FASTCV_INLINE Vec<T> odd(Vec<T> a, Vec<T> b) {
    if constexpr (kLanes<T> == 2) return __builtin_shufflevector(a, b, 1, 3);
    else if constexpr (kLanes<T> == 4) return __builtin_shufflevector(a, b, 1, 3, 5, 7);
    else if constexpr (kLanes<T> == 8) return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
    else return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
template <class T>
FASTCV_INLINE Vec<T> interleave_low(Vec<T> a, Vec<T> b) {
    if constexpr (kLanes<T> == 2) return __builtin_shufflevector(a, b, 0, 2);
    else if constexpr (kLanes<T> == 4) return __builtin_shufflevector(a, b, 0, 4, 1, 5);
    else if constexpr (kLanes<T> == 8) return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    else return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
template <class T>
FASTCV_INLINE Vec<T> interleave_high(Vec<T> a, Vec<T> b) {
    if constexpr (kLanes<T> == 2) return __builtin_shufflevector(a, b, 1, 3);
    else if constexpr (kLanes<T> == 4) return __builtin_shufflevector(a, b, 2, 6, 3, 7);
    else if constexpr (kLanes<T> == 8) return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
    else return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// Shuffles that stay inside 16-byte units, and shuffles of whole units, are cheaper than those above where vectors have several.
//
// within_low<T>(a, b): of each unit of a and b, the lower half's elements in turn; within_high likewise.
// even_units<T>(a, b): units 0, 2 .. of a, then of b; odd_units: units 1, 3 ..
template <class T>
FASTCV_INLINE Vec<T> within_low(Vec<T> a, Vec<T> b) {
    if constexpr (kVectorBytes == 16) return interleave_low<T>(a, b);
    else if constexpr (kLanes<T> == 4) return __builtin_shufflevector(a, b, 0, 4, 2, 6);
    else if constexpr (kLanes<T> == 16)
        return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    else if constexpr (sizeof(T) == 4) return __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
    else return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
}
template <class T>
FASTCV_INLINE Vec<T> within_high(Vec<T> a, Vec<T> b) {
    if constexpr (kVectorBytes == 16) return interleave_high<T>(a, b);
    else if constexpr (kLanes<T> == 4) return __builtin_shufflevector(a, b, 1, 5, 3, 7);
    else if constexpr (kLanes<T> == 16)
        return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    else if constexpr (sizeof(T) == 4) return __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    else return __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
}
template <class T>
FASTCV_INLINE Vec<T> even_units(Vec<T> a, Vec<T> b) {
    static_assert(sizeof(T) == 8);
    if constexpr (kLanes<T> == 8) return __builtin_shufflevector(a, b, 0, 1, 4, 5, 8, 9, 12, 13);
    else if constexpr (kLanes<T> == 4) return __builtin_shufflevector(a, b, 0, 1, 4, 5);
    else return a;
}
template <class T>
FASTCV_INLINE Vec<T> odd_units(Vec<T> a, Vec<T> b) {
    static_assert(sizeof(T) == 8);
    if constexpr (kLanes<T> == 8) return __builtin_shufflevector(a, b, 2, 3, 6, 7, 10, 11, 14, 15);
    else if constexpr (kLanes<T> == 4) return __builtin_shufflevector(a, b, 2, 3, 6, 7);
    else return b;
}

// Transposes a square of lanes x lanes elements held in that many registers: first the small squares of a unit's elements, then
// units as if they were elements. 16 x 16 floats take 57 cycles on Zen 4; log2(lanes) equal rounds of `interleave` took 88.
template <class T>
FASTCV_INLINE void transpose(Vec<T>* rows) {
    constexpr int L = kLanes<T>, kInUnit = 16 / int(sizeof(T)), kUnits = L / kInUnit;
    Vec<double> a[L], b[L];  // (of any type: moved as pairs of floats, or doubles)
    FASTCV_UNROLL for (int i = 0; i < L; i++) a[i] = reinterpret_cast<Vec<double>>(rows[i]);
    if constexpr (kInUnit == 4) {
        FASTCV_UNROLL for (int i = 0; i < L; i += 2) {
            const Vec<float> first = reinterpret_cast<Vec<float>>(rows[i]), second = reinterpret_cast<Vec<float>>(rows[i + 1]);
            a[i] = reinterpret_cast<Vec<double>>(within_low<float>(first, second));
            a[i + 1] = reinterpret_cast<Vec<double>>(within_high<float>(first, second));
        }
    }
    // Unit u of b[g + kUnits * k] is column kInUnit * u + k of rows kInUnit * g and on.
    FASTCV_UNROLL for (int g = 0; g < kUnits; g++)
        FASTCV_UNROLL for (int k = 0; k < kInUnit / 2; k++) {
            const Vec<double> first = a[g * kInUnit + k], second = a[g * kInUnit + k + kInUnit / 2];
            b[g + kUnits * (2 * k)] = within_low<double>(first, second);
            b[g + kUnits * (2 * k + 1)] = within_high<double>(first, second);
        }
    FASTCV_UNROLL for (int k = 0; k < kInUnit; k++) {
        Vec<double>* const units = b + kUnits * k;
        FASTCV_UNROLL for (int done = 1; done < kUnits; done *= 2) {
            Vec<double> next[kUnits];
            FASTCV_UNROLL for (int i = 0; i < kUnits / 2; i++) {
                next[i] = even_units<double>(units[2 * i], units[2 * i + 1]);
                next[i + kUnits / 2] = odd_units<double>(units[2 * i], units[2 * i + 1]);
            }
            FASTCV_UNROLL for (int i = 0; i < kUnits; i++) units[i] = next[i];
        }
        FASTCV_UNROLL for (int u = 0; u < kUnits; u++) rows[kInUnit * u + k] = reinterpret_cast<Vec<T>>(units[u]);
    }
}

// ---- lanes that carry a position: comparing, choosing, and integers as wide as the elements

template <class T>
struct PositionOf;
template <>
struct PositionOf<float> {
    typedef int32_t type;
};
template <>
struct PositionOf<double> {
    typedef int64_t type;
};
template <class T>
using Position = typename PositionOf<T>::type;

// One truth a lane. `more` is false and `unordered` true where an operand is NaN.
#if defined(__AVX512F__)
template <class T>
struct MaskOf;
template <>
struct MaskOf<float> {
    typedef __mmask16 type;
};
template <>
struct MaskOf<double> {
    typedef __mmask8 type;
};
template <class T>
using Mask = typename MaskOf<T>::type;

FASTCV_INLINE __mmask16 more(Vec<float> a, Vec<float> b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
FASTCV_INLINE __mmask8 more(Vec<double> a, Vec<double> b) { return _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ); }
FASTCV_INLINE __mmask16 unordered(Vec<float> a, Vec<float> b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
FASTCV_INLINE __mmask8 unordered(Vec<double> a, Vec<double> b) { return _mm512_cmp_pd_mask(a, b, _CMP_UNORD_Q); }
FASTCV_INLINE __mmask8 less_or_equal(Vec<double> a, Vec<double> b) { return _mm512_cmp_pd_mask(a, b, _CMP_LE_OQ); }
FASTCV_INLINE __mmask8 equal(Vec<double> a, Vec<double> b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
FASTCV_INLINE __mmask16 equal(Vec<int32_t> a, Vec<int32_t> b) { return _mm512_cmpeq_epi32_mask(__m512i(a), __m512i(b)); }
FASTCV_INLINE __mmask8 equal(Vec<int64_t> a, Vec<int64_t> b) { return _mm512_cmpeq_epi64_mask(__m512i(a), __m512i(b)); }
// The lanes of m that are equal.
template <class T>
FASTCV_INLINE Mask<T> equal_where(Mask<T> m, Vec<Position<T>> a, Vec<Position<T>> b) {
    if constexpr (sizeof(T) == 4) return _mm512_mask_cmpeq_epi32_mask(m, __m512i(a), __m512i(b));
    else return _mm512_mask_cmpeq_epi64_mask(m, __m512i(a), __m512i(b));
}
template <class T>
FASTCV_INLINE bool any(Mask<T> m) {
    return m != 0;
}
template <class T>
FASTCV_INLINE bool all(Mask<T> m) {
    return m == Mask<T>(-1);
}
FASTCV_INLINE unsigned bits(Mask<double> m) { return m; }
FASTCV_INLINE unsigned negative(Vec<int64_t> v) { return _mm512_movepi64_mask(__m512i(v)); }
// a where the mask says so, else b.
FASTCV_INLINE Vec<float> choose(__mmask16 m, Vec<float> a, Vec<float> b) { return _mm512_mask_blend_ps(m, b, a); }
FASTCV_INLINE Vec<double> choose(__mmask8 m, Vec<double> a, Vec<double> b) { return _mm512_mask_blend_pd(m, b, a); }
FASTCV_INLINE Vec<int32_t> choose(__mmask16 m, Vec<int32_t> a, Vec<int32_t> b) {
    return Vec<int32_t>(_mm512_mask_blend_epi32(m, __m512i(b), __m512i(a)));
}
FASTCV_INLINE Vec<int64_t> choose(__mmask8 m, Vec<int64_t> a, Vec<int64_t> b) {
    return Vec<int64_t>(_mm512_mask_blend_epi64(m, __m512i(b), __m512i(a)));
}
#else
template <class T>
using Mask = Vec<Position<T>>;

FASTCV_INLINE Mask<float> more(Vec<float> a, Vec<float> b) { return a > b; }
FASTCV_INLINE Mask<double> more(Vec<double> a, Vec<double> b) { return a > b; }
#if defined(__AVX2__)
FASTCV_INLINE Mask<float> unordered(Vec<float> a, Vec<float> b) { return Mask<float>(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)); }
FASTCV_INLINE Mask<double> unordered(Vec<double> a, Vec<double> b) { return Mask<double>(_mm256_cmp_pd(a, b, _CMP_UNORD_Q)); }
#else
FASTCV_INLINE Mask<float> unordered(Vec<float> a, Vec<float> b) { return (a != a) | (b != b); }
FASTCV_INLINE Mask<double> unordered(Vec<double> a, Vec<double> b) { return (a != a) | (b != b); }
#endif
FASTCV_INLINE Mask<double> less_or_equal(Vec<double> a, Vec<double> b) { return a <= b; }
template <class V>
FASTCV_INLINE auto equal(V a, V b) {
    return a == b;
}
template <class T>
FASTCV_INLINE Mask<T> equal_where(Mask<T> m, Vec<Position<T>> a, Vec<Position<T>> b) {
    return m & (a == b);
}
template <class T>
FASTCV_INLINE bool any(Mask<T> m) {
    uint64_t words[sizeof m / 8], seen = 0;
    __builtin_memcpy(words, &m, sizeof m);
    FASTCV_UNROLL for (const uint64_t word : words) seen |= word;
    return seen != 0;
}
template <class T>
FASTCV_INLINE bool all(Mask<T> m) {
    return !any<T>(~m);
}
FASTCV_INLINE unsigned bits(Mask<double> m) {
#if defined(__AVX2__)
    return unsigned(_mm256_movemask_pd(Vec<double>(m)));
#else
    unsigned result = 0;
    for (int i = 0; i < kLanes<double>; i++) result |= unsigned(m[i] & 1) << i;
    return result;
#endif
}
// The lanes below 0, a bit each.
FASTCV_INLINE unsigned negative(Vec<int64_t> v) { return bits(v < 0); }
// a where the mask says so, else b.
template <class M, class V>
FASTCV_INLINE V choose(M m, V a, V b) {
    return m ? a : b;
}
#endif

// The smaller and the larger; b where either is NaN.
#if defined(__AVX512F__)
FASTCV_INLINE Vec<double> lower(Vec<double> a, Vec<double> b) { return _mm512_maskz_min_pd(0xff, a, b); }  // as for shift_lanes
FASTCV_INLINE Vec<float> upper(Vec<float> a, Vec<float> b) { return _mm512_maskz_max_ps(0xffff, a, b); }
FASTCV_INLINE Vec<double> upper(Vec<double> a, Vec<double> b) { return _mm512_maskz_max_pd(0xff, a, b); }
#elif defined(__AVX2__)
FASTCV_INLINE Vec<double> lower(Vec<double> a, Vec<double> b) { return _mm256_min_pd(a, b); }
FASTCV_INLINE Vec<float> upper(Vec<float> a, Vec<float> b) { return _mm256_max_ps(a, b); }
FASTCV_INLINE Vec<double> upper(Vec<double> a, Vec<double> b) { return _mm256_max_pd(a, b); }
#elif defined(__SSE2__)
FASTCV_INLINE Vec<double> lower(Vec<double> a, Vec<double> b) { return _mm_min_pd(a, b); }
FASTCV_INLINE Vec<float> upper(Vec<float> a, Vec<float> b) { return _mm_max_ps(a, b); }
FASTCV_INLINE Vec<double> upper(Vec<double> a, Vec<double> b) { return _mm_max_pd(a, b); }
#else
FASTCV_INLINE Vec<double> lower(Vec<double> a, Vec<double> b) { return a < b ? a : b; }
template <class V>
FASTCV_INLINE V upper(V a, V b) {
    return a > b ? a : b;
}
#endif

// 0, 1, 2 ..
template <class T>
FASTCV_INLINE Vec<Position<T>> lane_indices() {
    Vec<Position<T>> v{};
    FASTCV_UNROLL for (int l = 0; l < kLanes<T>; l++) v[l] = l;
    return v;
}

// The lanes from n on, which load_first does not load.
template <class T>
FASTCV_INLINE Mask<T> lanes_from(int64_t n) {
#if defined(__AVX512F__)
    return Mask<T>(~first_lanes(n));
#else
    return lane_indices<T>() >= Position<T>(n < kLanes<T> ? n : kLanes<T>);
#endif
}

// The lanes from `first` up to `last`, either of which may lie outside the vector.
template <class T>
FASTCV_INLINE Mask<T> lanes_between(int64_t first, int64_t last) {
    return Mask<T>(lanes_from<T>(larger(first, 0)) & ~lanes_from<T>(larger(last, 0)));
}

// Lanes that a mask selects: what lies at the others is neither read nor written, and `otherwise` stands for them.
#if defined(__AVX512F__)
template <class T>
FASTCV_INLINE Vec<T> load_where(Mask<T> m, const T* p, Vec<T> otherwise) {
    if constexpr (sizeof(T) == 4) return _mm512_mask_loadu_ps(otherwise, m, p);
    else return _mm512_mask_loadu_pd(otherwise, m, p);
}
template <class T>
FASTCV_INLINE void store_where(Mask<T> m, T* p, Vec<T> v) {
    if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(p, m, v);
    else _mm512_mask_storeu_pd(p, m, v);
}
#else
template <class T>
FASTCV_INLINE Vec<T> load_where(Mask<T> m, const T* p, Vec<T> otherwise) {
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return choose(m, Vec<T>(_mm256_maskload_ps(p, __m256i(m))), otherwise);
    else return choose(m, Vec<T>(_mm256_maskload_pd(p, __m256i(m))), otherwise);
#else
    for (int l = 0; l < kLanes<T>; l++)
        if (m[l]) otherwise[l] = load_scalar<T>(p + l);
    return otherwise;
#endif
}
template <class T>
FASTCV_INLINE void store_where(Mask<T> m, T* p, Vec<T> v) {
    for (int l = 0; l < kLanes<T>; l++)
        if (m[l]) store_scalar(p + l, v[l]);
}
#endif

// Positions as a caller's array holds them: 4 or 8 bytes each, the first n lanes. They are not negative.
template <class T>
struct Narrow {  // as many 32-bit lanes as there are elements in a vector
    typedef int32_t type __attribute__((vector_size(4 * kLanes<T>)));
};
FASTCV_INLINE void store_positions(int32_t* p, Vec<int32_t> v, int64_t n) {
    store_first(reinterpret_cast<float*>(p), reinterpret_cast<Vec<float>>(v), n);
}
FASTCV_INLINE void store_positions(int64_t* p, Vec<int64_t> v, int64_t n) {
    store_first(reinterpret_cast<double*>(p), reinterpret_cast<Vec<double>>(v), n);
}
FASTCV_INLINE void store_positions(int64_t* p, Vec<int32_t> v, int64_t n) {
#if defined(__AVX512F__)
    const auto first = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
    const auto second = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    // (With a mask of all lanes, since GCC 12 warns of uninitialised use in the form without one.)
    const Vec<int64_t> low = reinterpret_cast<Vec<int64_t>>(_mm512_maskz_cvtepi32_epi64(0xff, reinterpret_cast<__m256i>(first)));
    const Vec<int64_t> high = reinterpret_cast<Vec<int64_t>>(_mm512_maskz_cvtepi32_epi64(0xff, reinterpret_cast<__m256i>(second)));
#else
    // Little-endian: a number of 32 bits with zero behind it is the same number in 64.
    const Vec<int64_t> low = reinterpret_cast<Vec<int64_t>>(interleave_low<int32_t>(v, Vec<int32_t>{}));
    const Vec<int64_t> high = reinterpret_cast<Vec<int64_t>>(interleave_high<int32_t>(v, Vec<int32_t>{}));
#endif
    store_positions(p, low, n);
    store_positions(p + kLanes<int64_t>, high, n - kLanes<int64_t>);
}
FASTCV_INLINE void store_positions(int32_t* p, Vec<int64_t> v, int64_t n) {
    const typename Narrow<double>::type narrow = __builtin_convertvector(v, typename Narrow<double>::type);
    if (n >= kLanes<double>)
        __builtin_memcpy(p, &narrow, sizeof narrow);
    else
        for (int l = 0; l < n; l++) store_scalar(p + l, narrow[l]);
}

// The way back, for any integers: those that do not fit into a lane come as -1, and lanes from n on as anything.
FASTCV_INLINE void load_positions(Vec<int32_t>& v, const int32_t* p, int64_t n) {
    v = reinterpret_cast<Vec<int32_t>>(load_first(reinterpret_cast<const float*>(p), n));
}
FASTCV_INLINE void load_positions(Vec<int64_t>& v, const int64_t* p, int64_t n) {
    v = reinterpret_cast<Vec<int64_t>>(load_first(reinterpret_cast<const double*>(p), n));
}
FASTCV_INLINE void load_positions(Vec<int32_t>& v, const int64_t* p, int64_t n) {
    Vec<int64_t> low, high;
    load_positions(low, p, n);
    load_positions(high, p + kLanes<int64_t>, n - kLanes<int64_t>);
#if defined(__AVX512F__)
    const __m256i first = _mm512_maskz_cvtusepi64_epi32(__mmask8(-1), reinterpret_cast<__m512i>(low));
    const __m256i second = _mm512_maskz_cvtusepi64_epi32(__mmask8(-1), reinterpret_cast<__m512i>(high));
    v = reinterpret_cast<Vec<int32_t>>(_mm512_maskz_inserti64x4(__mmask8(-1), _mm512_castsi256_si512(first), second, 1));
#else
    const Vec<int32_t> a = reinterpret_cast<Vec<int32_t>>(low), b = reinterpret_cast<Vec<int32_t>>(high);
    v = even<int32_t>(a, b) | (odd<int32_t>(a, b) != 0);
#endif
}
FASTCV_INLINE void load_positions(Vec<int64_t>& v, const int32_t* p, int64_t n) {
    typename Narrow<double>::type narrow{};
    if (n >= kLanes<double>)
        __builtin_memcpy(&narrow, p, sizeof narrow);
    else
        for (int l = 0; l < n; l++) narrow[l] = load_scalar<int32_t>(p + l);
    v = __builtin_convertvector(narrow, Vec<int64_t>);
}

// To the elements from `at` on of an array of integers of index_bytes, 4 or 8.
template <class V>
FASTCV_INLINE void store_positions(char* indices, int index_bytes, int64_t at, V v, int64_t n) {
    if (index_bytes == 8)
        store_positions(reinterpret_cast<int64_t*>(indices) + at, v, n);
    else
        store_positions(reinterpret_cast<int32_t*>(indices) + at, v, n);
}
template <class T>
FASTCV_INLINE Vec<Position<T>> load_positions(const char* indices, int index_bytes, int64_t at, int64_t n) {
    Vec<Position<T>> v;
    if (index_bytes == 8)
        load_positions(v, reinterpret_cast<const int64_t*>(indices) + at, n);
    else
        load_positions(v, reinterpret_cast<const int32_t*>(indices) + at, n);
    return v;
}
// The lanes of a mask, to the elements from `at` on.
template <class T>
FASTCV_INLINE void store_positions_where(Mask<T> m, char* indices, int index_bytes, int64_t at, Vec<Position<T>> v) {
    char* p = indices + at * index_bytes;
#if defined(__AVX512F__)
    const __m512i wide = __m512i(v);
    if constexpr (sizeof(T) == 4) {
        if (index_bytes == 4) {
            _mm512_mask_storeu_epi32(p, m, wide);
        } else {
            const auto low = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
            const auto high = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
            _mm512_mask_storeu_epi64(p, __mmask8(m), _mm512_maskz_cvtepi32_epi64(0xff, reinterpret_cast<__m256i>(low)));
            _mm512_mask_storeu_epi64(p + 64, __mmask8(m >> 8), _mm512_maskz_cvtepi32_epi64(0xff, reinterpret_cast<__m256i>(high)));
        }
    } else {
        if (index_bytes == 8)
            _mm512_mask_storeu_epi64(p, m, wide);
        else
            _mm512_mask_cvtepi64_storeu_epi32(p, m, wide);
    }
#else
    for (int l = 0; l < kLanes<T>; l++) {
        if (!m[l]) continue;
        if (index_bytes == 8)
            store_scalar(p + 8 * l, int64_t(v[l]));
        else
            store_scalar(p + 4 * l, int32_t(v[l]));
    }
#endif
}

template <class T>
FASTCV_INLINE T sum_lanes(Vec<T> v) {
    // Pairwise, in a fixed order.
    T lane[kLanes<T>];
    __builtin_memcpy(lane, &v, sizeof v);
    for (int width = kLanes<T> / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) lane[i] += lane[i + width];
    return lane[0];
}

template <class T>
FASTCV_INLINE T lowest_lane(Vec<T> v) {
    if constexpr (kLanes<T> == 8) v = lower(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
    if constexpr (kLanes<T> == 8) v = lower(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
    if constexpr (kLanes<T> == 4) v = lower(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
    return v[0] < v[1] ? v[0] : v[1];
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
