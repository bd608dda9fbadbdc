// Random bits by counting: Philox4x32-10. The same key and counter give the same bits on every machine, in any order, on any
// number of threads, so a dropped element can be found again without having been kept.
//
// John Salmon, Mark Moraes, Ron Dror, David Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011.
#pragma once

#include "simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

typedef uint64_t Wide __attribute__((vector_size(kVectorBytes)));
constexpr int kWideLanes = kVectorBytes / 8;

// Products of the lanes' lower 32 bits.
FASTCV_INLINE Wide multiply_lower(Wide a, Wide b) {
#if defined(__AVX512F__)
    return Wide(_mm512_maskz_mul_epu32(0xff, __m512i(a), __m512i(b)));
#elif defined(__AVX2__)
    return Wide(_mm256_mul_epu32(__m256i(a), __m256i(b)));
#else
    return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// Sixteen blocks of four words, counters (first + 0 .. 15, row, head): word w of block i goes to words[16 * w + i].
static inline void philox(uint32_t (&words)[64], uint64_t seed, uint32_t first, uint32_t row, uint64_t head) {
    const Wide even = Wide{} + uint64_t(0xD2511F53), odd = Wide{} + uint64_t(0xCD9E8D57);
    for (int i = 0; i < 16; i += kWideLanes) {
        Wide c0 = Wide{};
        for (int lane = 0; lane < kWideLanes; lane++) c0[lane] = first + uint32_t(i + lane);
        Wide c1 = Wide{} + uint64_t(row), c2 = Wide{} + (head & 0xffffffffu), c3 = Wide{} + (head >> 32);
        uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
        for (int round = 0; round < 10; round++) {
            const Wide a = multiply_lower(c0, even), b = multiply_lower(c2, odd);
            c0 = (b >> 32) ^ c1 ^ uint64_t(key0);
            c1 = b;
            c2 = (a >> 32) ^ c3 ^ uint64_t(key1);
            c3 = a;
            key0 += 0x9E3779B9u;
            key1 += 0xBB67AE85u;
        }
        for (int lane = 0; lane < kWideLanes; lane++) {
            words[i + lane] = uint32_t(c0[lane]);
            words[16 + i + lane] = uint32_t(c1[lane]);
            words[32 + i + lane] = uint32_t(c2[lane]);
            words[48 + i + lane] = uint32_t(c3[lane]);
        }
    }
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
