// What the convolutions' files share.
#pragma once

#include "launch.h"

namespace fastcv::cuda {

// A result (N, channels, height, width) with its strides.
inline Tensor result_tensor(const Result& r, int64_t itemsize, int64_t channels, int64_t height, int64_t width) {
    const int64_t plane = height * width * itemsize;
    if (r.channels_last)
        return {static_cast<char*>(r.data), {channels * plane, itemsize, width * channels * itemsize, channels * itemsize}};
    return {static_cast<char*>(r.data), {channels * plane, plane, width * itemsize, itemsize}};
}

}  // namespace fastcv::cuda
