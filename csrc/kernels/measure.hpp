// The machine's own limit, so that a figure can be given as a share of it.
#pragma once

#include <time.h>

#include "../parallel.h"
#include "../simd.h"

namespace fastcv::FASTCV_ISA {
namespace {

static inline double seconds() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

constexpr int kChains = 12;
constexpr int64_t kChainSteps = 2000000;

// Independent chains of multiply-adds that never leave the registers.
template <class T>
FASTCV_NOINLINE void chains(int64_t steps) {
    Vec<T> acc[kChains];
    FASTCV_UNROLL for (int i = 0; i < kChains; i++) acc[i] = splat(T(i));
    Vec<T> a = splat(T(0.999)), b = splat(T(0.001));
    for (int64_t s = 0; s < steps; s++) {
        keep(a);
        FASTCV_UNROLL for (int i = 0; i < kChains; i++) acc[i] = fma(acc[i], a, b);
    }
    FASTCV_UNROLL for (int i = 0; i < kChains; i++) keep(acc[i]);
}

// FLOP/s of all threads together; the best of several short runs.
static double measure_peak(int itemsize, int threads) {
    double best = 0;
    for (int attempt = 0; attempt < 5; attempt++) {
        double begin = 0, end = 0;
        int team_size = 1;
        parallel(threads, [&](Team team) {
            team.wait_for_all();
            if (team.id == 0) {
                team_size = team.size;
                begin = seconds();
            }
            itemsize == 4 ? chains<float>(kChainSteps) : chains<double>(kChainSteps);
            team.wait_for_all();
            if (team.id == 0) end = seconds();
        });
        const double flops = 2.0 * kChains * (kVectorBytes / itemsize) * double(kChainSteps) * team_size;
        if (flops / (end - begin) > best) best = flops / (end - begin);
    }
    return best;
}

}  // namespace
}  // namespace fastcv::FASTCV_ISA
