// The contents page of the CUDA kernels: what module.cpp binds. Shapes are those of ../ops.h, with its glossary.
//
// Pointers are the device's, sizes count elements, strides bytes; all of them are multiples of the element's size. Every function
// queues its work on the caller's stream and returns; it never waits for the device, and allocates nothing but, in a device's first call, the word of faults.h. A launch that fails
// is a std::runtime_error with CUDA's text. The caller has checked shapes; only indices are looked at here, by the device.
#pragma once

#include "../ops.h"

namespace fastcv::cuda {

enum class Dtype { float32, float64, float16, bfloat16 };
constexpr int item_bytes(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

// Where a call runs. `stream` is a cudaStream_t.
struct Queue {
    int device;
    void* stream;
};

// A new result (N, C, H, W) without gaps: as NCHW, or channels-last.
struct Result {
    void* data;
    bool channels_last;
};

// Numbers of index_bytes, 4 or 8.
struct Indices {
    Tensor tensor;
    int bytes;
};

// `indices`: as `output` lies; null where nobody asks for them.
void max_pool2d(const Pool2dShape&, Dtype, Tensor input, Result output, void* indices, int index_bytes, Queue);
void max_pool2d_grad_input(const IndexedShape&, Dtype, Tensor grad_output, Indices, Result grad_input, void* workspace, Queue);

void max_unpool2d(const IndexedShape&, Dtype, Tensor input, Indices, Result output, void* workspace, Queue);
void max_unpool2d_grad_input(const IndexedShape&, Dtype, Tensor grad_output, Indices, Result grad_input, Queue);

// Bytes of `workspace` for so many planes; it needs no values, and is the caller's again once the stream has come so far.
int64_t indexed_workspace_bytes(int64_t planes);

// Maps (N, C, H, W) to (N, K, P, Q). Bottom and right padding follow from P and Q. `weight` is (K, C / G, R, S).
void conv2d(const Conv2dShape&, Dtype, Tensor input, Tensor weight, Result output, const Epilogue&, void* workspace, Queue);
// conv2d's input gradient, of a convolution with this shape: maps (N, K, P, Q) to (N, C, H, W).
void conv_transpose2d(const Conv2dShape&, Dtype, Tensor input, Tensor weight, Result output, const Epilogue&, void* workspace,
                      Queue);
// `grad_weight`: C-contiguous.
void conv2d_grad_weight(const Conv2dShape&, Dtype, Tensor grad_output, Tensor input, void* grad_weight, void* workspace, Queue);
// Bytes of `workspace`, for both directions and for the gradient by the weight.
int64_t conv2d_workspace_bytes(const Conv2dShape&, Dtype);
int64_t conv2d_grad_weight_workspace_bytes(const Conv2dShape&, Dtype);
// `output`: (N, C, C) without gaps. Gram matrices' fourth stride plays no part.
void gram_matrix(const GramShape&, Dtype, double scale, Tensor input, void* output, void* workspace, Queue);
int64_t gram_matrix_workspace_bytes(const GramShape&, Dtype);
void gram_matrix_grad_input(const GramShape&, Dtype, double scale, Tensor grad_output, Tensor input, Result grad_input, Queue);

// An attention's inputs; in its shape kv_lengths is null. Where an array broadcasts, strides are 0.
struct AttentionCall {
    AttentionShape s;
    HeadTensor query, key, value;
    AttentionMask mask_kind;
    HeadTensor mask;
    HeadTensor lengths;  // integers of length_bytes, 4 or 8, with batch axes alone; or null
    int length_bytes;
};
// Results are without gaps. lse: float32 where elements have two bytes, else of their type; null unless asked for, and then
// needed if weights are.
void attention(const AttentionCall&, Dtype, void* output, void* lse, void* weights, Queue);

// A gradient's result, without gaps, and the axes (batch.., heads, rows, columns) along which its array broadcast.
constexpr int kMaxHeadAxes = kMaxBatchAxes + 3;
struct SharedResult {
    void* data;
    bool shared[kMaxHeadAxes];
};
struct AttentionGradients {
    HeadTensor grad_output, output, lse;
    SharedResult query, key, value, mask;  // mask: null unless asked for
};
void attention_grad(const AttentionCall&, const AttentionGradients&, Dtype, void* workspace, Queue);
int64_t attention_grad_workspace_bytes(const AttentionCall&, const AttentionGradients&, Dtype);

// An index outside its plane is skipped where it is found, and noted (faults.h). Whether one was noted on this device since the
// last time somebody asked; it waits for nothing, so kernels that still run may yet find one.
bool take_index_fault(int device);

void synchronize(int device);
int device_count();

}  // namespace fastcv::cuda
