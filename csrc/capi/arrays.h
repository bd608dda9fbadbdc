// What the C interface's functions share: a caller's arrays and parameters, checked, in the kernels' terms.
//
// Kernels trust their arguments. Whatever would make one read or write a wrong byte is refused here, before anything is written;
// the first thing that is wrong is the call's status.
#pragma once

#include <stdint.h>

#include "../../fastcv/capi/fastcv.h"
#include "../dispatch.h"

namespace fastcv::capi {

constexpr int kMaxAxes = kMaxBatchAxes + 3;
// Neither sums nor products with strides and dilations of such numbers leave 128 bits.
constexpr int64_t kMaxSize = int64_t(1) << 60;
using Wide = __int128;

inline int itemsize_of(int dtype) {
    switch (dtype) {
        case FASTCV_FLOAT32:
        case FASTCV_INT32: return 4;
        case FASTCV_FLOAT64:
        case FASTCV_INT64: return 8;
        case FASTCV_BOOL: return 1;
        default: return 0;
    }
}

struct Array {
    char* data = nullptr;
    int ndim = 0, dtype = 0, itemsize = 0;
    int64_t shape[kMaxAxes] = {}, stride_bytes[kMaxAxes] = {};

    bool empty() const {
        for (int i = 0; i < ndim; i++)
            if (shape[i] == 0) return true;
        return false;
    }
    // Whether it lies without gaps, its axes from the coarsest to the finest in this order.
    bool dense(const int* order) const {
        int64_t step = itemsize;
        for (int i = ndim; i-- > 0;) {
            const int axis = order[i];
            if (shape[axis] != 1 && stride_bytes[axis] != step) return false;
            step *= shape[axis];
        }
        return true;
    }
    bool contiguous() const {
        static const int order[kMaxAxes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
        return empty() || dense(order);
    }
    // Of four axes.
    bool channels_last() const {
        static const int order[4] = {0, 2, 3, 1};
        return empty() || dense(order);
    }
    bool packed() const { return contiguous() || channels_last(); }
    Tensor tensor() const { return {data, {stride_bytes[0], stride_bytes[1], stride_bytes[2], stride_bytes[3]}}; }
};

inline int status_of(Status status) {
    switch (status) {
        case Status::ok: return FASTCV_OK;
        case Status::out_of_memory: return FASTCV_OUT_OF_MEMORY;
        case Status::index_out_of_range: return FASTCV_BAD_INDEX;
        case Status::infeasible: return FASTCV_INFEASIBLE;
        default: return FASTCV_BAD_COST;
    }
}

class Check {
public:
    bool failed() const { return status_ != FASTCV_OK; }
    int status() const { return status_; }
    void need(bool holds, int otherwise) {
        if (!failed() && !holds) status_ = otherwise;
    }
    void shape(bool holds) { need(holds, FASTCV_BAD_SHAPE); }
    void parameter(bool holds) { need(holds, FASTCV_BAD_PARAMETER); }

    Array array(const fastcv_array* a, int least_axes, int most_axes) {
        Array result;
        need(a && a->shape && a->ndim >= least_axes && a->ndim <= most_axes && itemsize_of(a->dtype), FASTCV_BAD_ARRAY);
        if (failed()) return result;
        result.data = static_cast<char*>(a->data);
        result.ndim = a->ndim, result.dtype = a->dtype, result.itemsize = itemsize_of(a->dtype);
        int64_t bytes = result.itemsize;
        for (int i = a->ndim; i-- > 0;) {
            const int64_t size = a->shape[i];
            result.shape[i] = size;
            result.stride_bytes[i] = a->strides ? a->strides[i] : bytes;
            shape(size >= 0 && size <= kMaxSize && !__builtin_mul_overflow(bytes, size > 1 ? size : 1, &bytes));
            if (failed()) return result;
        }
        need(result.data || result.empty(), FASTCV_BAD_ARRAY);
        return result;
    }
    Array floats(const fastcv_array* a, int least_axes, int most_axes) {
        const Array result = array(a, least_axes, most_axes);
        need(result.dtype == FASTCV_FLOAT32 || result.dtype == FASTCV_FLOAT64, FASTCV_BAD_ARRAY);
        return result;
    }
    // `axes` axes, or one less: then the first is there with size 1.
    Array batched(Array a, int axes) {
        if (failed() || a.ndim == axes) return a;
        for (int i = axes; --i > 0;) a.shape[i] = a.shape[i - 1], a.stride_bytes[i] = a.stride_bytes[i - 1];
        a.shape[0] = 1, a.stride_bytes[0] = 0;
        a.ndim = axes;
        return a;
    }
    Array image(const fastcv_array* a) { return batched(floats(a, 3, 4), 4); }
    Array indices(const fastcv_array* a) {
        const Array result = batched(array(a, 3, 4), 4);
        need(result.dtype == FASTCV_INT32 || result.dtype == FASTCV_INT64, FASTCV_BAD_ARRAY);
        return result;
    }
    void same_dtype(const Array& a, const Array& b) { need(a.dtype == b.dtype, FASTCV_BAD_ARRAY); }
    void same_axes(const Array& a, const Array& b, int begin, int end) {
        for (int i = begin; i < end; i++) shape(a.shape[i] == b.shape[i]);
    }
    // What two given arrays of the caller have in common: both are batches, or neither is.
    void both_batched(const fastcv_array* a, const fastcv_array* b) { if (!failed()) shape(a->ndim == b->ndim); }

private:
    int status_ = FASTCV_OK;
};

// The functions of the table, in a file for each operation.
int conv2d(const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_conv2d_parameters*);
int conv2d_grad_input(const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_conv2d_parameters*);
int conv2d_grad_weight(const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_conv2d_parameters*);
int conv_transpose2d(const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_array*,
                     const fastcv_conv2d_parameters*);
int conv_transpose2d_grad_input(const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_conv2d_parameters*);
int conv_transpose2d_grad_weight(const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_conv2d_parameters*);
int max_pool2d(const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_pool2d_parameters*);
int max_pool2d_grad_input(const fastcv_array*, const fastcv_array*, const fastcv_array*);
int max_unpool2d(const fastcv_array*, const fastcv_array*, const fastcv_array*);
int max_unpool2d_grad_input(const fastcv_array*, const fastcv_array*, const fastcv_array*);
int gram_matrix(const fastcv_array*, const fastcv_array*, double);
int gram_matrix_grad_input(const fastcv_array*, const fastcv_array*, const fastcv_array*, double);
int attention(const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_array*,
              const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_attention_parameters*);
int attention_grad(const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_array*,
                   const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_array*, const fastcv_array*,
                   const fastcv_array*, const fastcv_array*, const fastcv_attention_parameters*);
int linear_sum_assignment(const fastcv_array*, const fastcv_assignment_parameters*, int64_t*, int64_t*, int64_t*, double*, double*,
                          int64_t*);
int linear_sum_assignment_batch(const fastcv_array*, const fastcv_assignment_parameters*, int64_t*, int64_t*);

const fastcv_api& table();

}  // namespace fastcv::capi
