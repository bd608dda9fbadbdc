#define FASTCV_ISA baseline
#include "parallel.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <atomic>

#include "memory.h"

namespace fastcv {
namespace {

std::atomic<int> requested_threads{0};  // 0: OpenMP decides
std::atomic<bool> used_threads{false};
std::atomic<bool> forked{false};

// libgomp waits forever for a pool that a fork did not copy; a child of a parent that used one computes on one thread.
void after_fork_in_child() {
    if (used_threads) forked = true;
}

struct Kept {
    char* data = nullptr;
    int64_t bytes = 0;
    bool in_use = false;
    ~Kept() { free(data); }
};
thread_local Kept kept;

}  // namespace

int num_threads() {
    if (forked) return 1;
    const int n = requested_threads;
#if defined(_OPENMP)
    return n > 0 ? n : omp_get_max_threads();
#else
    return n > 0 ? n : 1;
#endif
}

char* allocate(int64_t bytes) {
    const int64_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : 64;
    if (bytes > INT64_MAX - alignment) return nullptr;
    const int64_t size = (bytes + alignment - 1) / alignment * alignment;
    void* p = aligned_alloc(size_t(alignment), size_t(size));
#if defined(__linux__)
    if (p && alignment == kHugePageBytes) madvise(p, size_t(size), MADV_HUGEPAGE);
#endif
    return static_cast<char*>(p);
}

int64_t second_level_cache_bytes() {
    constexpr int64_t kMiB = int64_t(1) << 20;
    static const int64_t bytes = [] {
#if defined(_SC_LEVEL2_CACHE_SIZE)
        const int64_t told = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
        const int64_t told = 0;
#endif
        return told < kMiB ? kMiB : told > 2 * kMiB ? 2 * kMiB : told;
    }();
    return bytes;
}

void set_num_threads(int n) { requested_threads = n; }

void note_parallel_region() {
    static const int registered = pthread_atfork(nullptr, nullptr, after_fork_in_child);
    (void)registered;
    used_threads = true;
}

Scratch::Scratch(int64_t bytes) : data_(nullptr), kept_(bytes <= kKeptScratchBytes && !kept.in_use) {
    if (bytes < 0) {  // a size that went beyond 64 bits
        kept_ = false;
        return;
    }
    if (!kept_) {
        data_ = allocate(bytes);
        return;
    }
    if (kept.bytes < bytes) {
        free(kept.data);
        kept.data = allocate(bytes);
        kept.bytes = kept.data ? bytes : 0;
    }
    data_ = kept.data;
    kept.in_use = data_ != nullptr;
}

char* Scratch::data() const { return data_; }

Scratch::~Scratch() {
    if (!kept_)
        free(data_);
    else if (data_)
        kept.in_use = false;
}

}  // namespace fastcv
