// Functions that XLA calls by name, one for each of those that fastcv.jax offers.
#pragma once

#include "../third_party/xla_ffi/c_api.h"

namespace fastcv::xla {

struct Handler {
    const char* name;
    XLA_FFI_Handler* function;
};
extern const Handler kHandlers[];  // ended by a null

}  // namespace fastcv::xla
