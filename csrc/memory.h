// Memory for scratch and for results.
#pragma once

#include <stdint.h>

namespace fastcv {

constexpr int64_t kHugePageBytes = int64_t(2) << 20;

// At least so many bytes, not cleared, beginning at a cache line, or at a huge page where they fill one. Given back by
// free(). Null: memory ran out. Defined in parallel.cpp.
char* allocate(int64_t bytes);

}  // namespace fastcv
