// The one parallel region, the scratch memory of a call, and the floating-point state inside both.
#pragma once

#include <stdint.h>

#include "ops.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace fastcv {

// Defined in parallel.cpp, which is compiled for the plainest machine.
int num_threads();             // what the user asked for; 1 in a child that was forked after its parent used threads
void set_num_threads(int n);
void note_parallel_region();

// Memory for one call, 64-byte aligned, not cleared. The calling thread keeps up to kKeptScratchBytes of it for its next
// call; what a call needs beyond that is given back when it ends. So memory does not grow with the number of shapes.
constexpr int64_t kKeptScratchBytes = int64_t(32) << 20;
class Scratch {
public:
    explicit Scratch(int64_t bytes);
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    char* data() const;  // null: memory ran out

private:
    char* data_;
    bool kept_;
};

}  // namespace fastcv

namespace fastcv::FASTCV_ISA {
namespace {

// Denormals are flushed inside kernels, where they would cost a hundred cycles each, and the caller's state comes back.
class FlushDenormals {
public:
#if defined(__x86_64__)
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
    ~FlushDenormals() { _mm_setcsr(saved_); }

private:
    unsigned saved_;
#elif defined(__aarch64__)
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" ::"r"(saved_ | (uint64_t(1) << 24)));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

private:
    uint64_t saved_;
#endif
};

// For kernels that must not lose them.
struct KeepDenormals {};

struct Team {
    int id, size;
    void wait_for_all() const {
        if (size > 1) {
#pragma omp barrier
        }
    }
    // This thread's share of n items, contiguous.
    int64_t begin(int64_t n) const { return n * id / size; }
    int64_t end(int64_t n) const { return n * (id + 1) / size; }
};

// How many threads a call of so many floating-point operations deserves: waking one costs about as much as a quarter of a
// million multiply-adds. It bounds scratch memory too, which each thread has a share of.
static inline int threads_for(double flops) {
    const int wanted = num_threads();
    return flops < 1e6 ? 1 : flops < 5e5 * wanted ? int(flops / 5e5) : wanted;
}

// Runs body(team) on each of up to `threads` threads. OpenMP may give fewer; a kernel looks at team.size.
template <class Denormals = FlushDenormals, class Body>
static void parallel(int threads, const Body& body) {
    if (threads <= 1) {
        [[maybe_unused]] Denormals denormals;
        body(Team{0, 1});
        return;
    }
#if defined(_OPENMP)
    note_parallel_region();
#pragma omp parallel num_threads(threads)
    {
        [[maybe_unused]] Denormals denormals;
        body(Team{omp_get_thread_num(), omp_get_num_threads()});
    }
#endif
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
