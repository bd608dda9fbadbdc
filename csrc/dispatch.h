// One table of kernels per instruction set; `kernels()` is the one in use.
#pragma once

#include "ops.h"

namespace fastcv {

// Sets that this build has, plainest first, ended by a null: name, table, and whether this CPU runs it.
struct IsaEntry {
    const char* name;
    const KernelTable* (*table)();
    bool (*runs_here)();
};
extern const IsaEntry kIsas[];

// Chooses by name, or the best that runs here where name is null or empty. Null: there is none of that name here.
const KernelTable* select_kernels(const char* name);
const KernelTable& kernels();

}  // namespace fastcv
