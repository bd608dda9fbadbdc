// What is wrong with values, which only the device sees: indices outside their planes, costs without a matching.
//
// To raise an IndexError in the call that was given one, the host would have to wait for the device. So a kernel skips such an
// index, and writes 1 to a word of host memory that it can reach. Calls look at that word after they have queued their
// work; none waits. An error so comes late, from a later call or from `synchronize`, unless CUDA_LAUNCH_BLOCKING=1 makes every launch
// wait. All kernels write the same value, so the order of writes does not show. Each kind of fault has a word of its own.
#pragma once

#include "launch.h"

namespace fastcv::cuda {

enum class Fault { index, label, sizes, invalid_cost, infeasible };

// The words of a device, one for each kind of fault, as that device sees them.
uint32_t* fault_words(int device);
// The word of indices outside their planes.
inline uint32_t* fault_word(int device) { return fault_words(device) + int(Fault::index); }

// Whether such a fault has been noted since the last time somebody asked.
bool take_fault(int device, Fault);

}  // namespace fastcv::cuda
