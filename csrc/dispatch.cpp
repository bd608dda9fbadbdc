#include "dispatch.h"

#include <string.h>

namespace fastcv {

#if defined(__x86_64__)
namespace baseline { const KernelTable* table(); }
namespace avx2 { const KernelTable* table(); }
namespace avx512 { const KernelTable* table(); }

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
namespace neon { const KernelTable* table(); }
static bool always() { return true; }
const IsaEntry kIsas[] = {{"neon", neon::table, always}, {nullptr, nullptr, nullptr}};
#else
namespace baseline { const KernelTable* table(); }
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
