// Functions that XLA calls by name, one for each of those that fastcv.jax offers.
#pragma once

#include "xla_ffi.h"

namespace fastcv::xla {

struct Handler {
    const char* name;
    Function* function;
};
extern const Handler kHandlers[];  // ended by a null

}  // namespace fastcv::xla
