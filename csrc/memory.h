// Memory for scratch and for results, and what holds it.
#pragma once

#include <stdint.h>

namespace fastcv {

constexpr int64_t kHugePageBytes = int64_t(2) << 20;

// At least so many bytes, not cleared, beginning at a cache line, or at a huge page where they fill one. Given back by
// free(). Null: memory ran out. Defined in parallel.cpp.
char* allocate(int64_t bytes);

// What a core's second-level cache holds: 1 to 2 MiB, which kernels have been measured with, and 1 where the system does not say.
// Defined in parallel.cpp.
int64_t second_level_cache_bytes();

}  // namespace fastcv
