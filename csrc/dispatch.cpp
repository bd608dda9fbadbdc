#include "dispatch.h"

#include <string.h>

namespace fastcv {

// What the object files of one instruction set export, and the table that they fill.
#define FASTCV_TABLE(name)                                                       \
    namespace name {                                                             \
    void add_convolution(KernelTable&);                                          \
    void add_pooling(KernelTable&);                                              \
    void add_matrices(KernelTable&);                                             \
    void add_assignment(KernelTable&);                                           \
    static const KernelTable* table() {                                          \
        static const KernelTable kernels = [] {                                  \
            KernelTable filled{};                                                \
            filled.isa = #name;                                                  \
            add_convolution(filled);                                             \
            add_pooling(filled);                                                 \
            add_matrices(filled);                                                \
            add_assignment(filled);                                              \
            return filled;                                                       \
        }();                                                                     \
        return &kernels;                                                         \
    }                                                                            \
    }

#if defined(__x86_64__)
FASTCV_TABLE(baseline)
FASTCV_TABLE(avx2)
FASTCV_TABLE(avx512)

static bool always() { return true; }
static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

const IsaEntry kIsas[] = {
    {"baseline", baseline::table, always},
    {"avx2", avx2::table, has_avx2},
    {"avx512", avx512::table, has_avx512},
    {nullptr, nullptr, nullptr},
};
#elif defined(__aarch64__)
FASTCV_TABLE(neon)
static bool always() { return true; }
const IsaEntry kIsas[] = {{"neon", neon::table, always}, {nullptr, nullptr, nullptr}};
#else
FASTCV_TABLE(baseline)
static bool always() { return true; }
const IsaEntry kIsas[] = {{"baseline", baseline::table, always}, {nullptr, nullptr, nullptr}};
#endif

static const KernelTable* selected = nullptr;

const KernelTable* select_kernels(const char* name) {
    const KernelTable* best = nullptr;
    for (const IsaEntry* isa = kIsas; isa->name; isa++) {
        const bool wanted = !name || !*name || strcmp(name, isa->name) == 0;
        if (wanted && isa->runs_here()) best = isa->table();
    }
    if (best) selected = best;
    return best;
}

const KernelTable& kernels() { return *selected; }

}  // namespace fastcv
