// Indices outside their planes, which only the device sees.
//
// To raise an IndexError in the call that was given one, the host would have to wait for the device. So a kernel skips such an
// index, and writes 1 to a word of host memory that it can reach. Calls look at that word after they have queued their
// work; none waits. An error so comes late, from a later call or from `synchronize`, unless CUDA_LAUNCH_BLOCKING=1 makes every launch
// wait. All kernels write the same value, so the order of writes does not show.
#pragma once

#include "launch.h"

namespace fastcv::cuda {

// The word of a device, as that device sees it.
uint32_t* fault_word(int device);

}  // namespace fastcv::cuda
