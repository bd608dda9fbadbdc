// The contents page: every op's parameters and kernels, once.
//
// Glossary, the same letters in every file:
//   N batch   C input channels   K filters   G groups   H x W input   R x S window   P x Q output   T tiles
//   lane: one element of a vector register.   strip: a padded, phase-split copy of some input rows (strip.h), or of pixels with their channels side by side (pixel_strip.h).
// Sizes count elements; a name that ends in _bytes counts bytes.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace fastcv {

enum class Status { ok, out_of_memory, index_out_of_range, invalid_cost, infeasible, interrupted };

// A 4-D array somewhere in memory: any strides, any alignment.
struct Tensor {
    char* data;
    int64_t stride_bytes[4];
};

// Whether an image's channels lie side by side, and all else whole elements apart.
inline bool channels_last(const Tensor& image, int itemsize) {
    bool whole = image.stride_bytes[1] == itemsize;
    for (int i = 0; i < 4; i++) whole = whole && image.stride_bytes[i] % itemsize == 0;
    return whole;
}
struct ChannelsLast {
    bool input = false, output = false;
};
inline ChannelsLast channels_last(const Tensor& input, const Tensor& output, int itemsize) {
    return {channels_last(input, itemsize), channels_last(output, itemsize)};
}

enum class Activation { none, relu, relu6, leaky_relu, sigmoid, tanh, silu, gelu };

// What happens to a sum before it is stored.
struct Epilogue {
    const char* bias = nullptr;  // K elements, or null
    int64_t bias_stride_bytes = 0;
    Activation activation = Activation::none;
    double slope = 0;  // leaky_relu's
};

// A convolution's sizes. Bottom and right padding follow from P and Q: what is read outside the input is zero.
// Padding may be negative (an input gradient of a convolution that was padded by more than its window).
struct Conv2dShape {
    int64_t N, C, H, W;
    int64_t K, R, S;
    int64_t P, Q;
    int64_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
    int64_t G;
};

enum class Conv2dAlgorithm { automatic, direct, winograd };

// Added to the size of Winograd's tiles that are whole phases (Conv2dChoice::tile).
constexpr int kWholePhases = 8;

// The algorithm that a convolution takes, and what decided: estimated milliseconds of one sample on one core.
struct Conv2dChoice {
    enum Kind { strip_pixels, strip_channels, clipped, depthwise, winograd, pointwise } kind;
    // winograd: outputs a tile and dimension, 4, 3 or 2; kWholePhases + 3 or 2 if a tile is a whole phase of the dilation, of at
    // most so many.
    int tile;
    // The taps that see the input at all; the kernels are given only these.
    int64_t first_row, rows, first_column, columns;
    double direct_cost;     // of the best kernel that multiplies tap by tap
    double winograd_cost;   // infinite where Winograd does not apply
};

// Weights in the form that the chosen kernel reads; lives as long as the plan.
struct Conv2dPacked {
    void* data = nullptr;
    bool finite = true;
    Conv2dChoice choice{};
};

// A transposed convolution is the input gradient of a convolution, and its shape is that convolution's: it maps (N, K, P, Q) to
// (N, C, H, W). Weights are packed for one of these; the choice says which, and is all that the packed form depends on.
struct ConvTranspose2dChoice {
    enum Kind { convolution, phases, phases_channels, winograd, depthwise, pixel } kind;
    Conv2dChoice as_convolution;  // with stride 1 it is an ordinary one; winograd: its tile
};
struct ConvTranspose2dPacked {
    void* data = nullptr;
    bool finite = true;
    ConvTranspose2dChoice choice{};
};

struct GramShape {
    int64_t N, C, H, W;
};

// A window that moves over planes. Bottom and right padding follow from P and Q.
struct Pool2dShape {
    int64_t N, C, H, W;
    int64_t R, S;
    int64_t P, Q;
    int64_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
};

// P x Q numbers of a plane, each with its index in an H x W plane: y * W + x. Indices have the numbers' shape.
struct IndexedShape {
    int64_t N, C, H, W;
    int64_t P, Q;
};

// An array of attention: batch axes, then a head, a row (query or key) and a column, with any strides and alignment.
constexpr int kMaxBatchAxes = 8;
struct HeadTensor {
    char* data = nullptr;
    int64_t batch_stride_bytes[kMaxBatchAxes] = {};
    int64_t stride_bytes[3] = {};
};

// Scaled dot product attention. Here S counts keys:
//   N samples (all batch axes together)   H heads of keys   G heads of queries that share one   L queries   S keys
//   E columns of queries and keys   F columns of values
struct AttentionShape {
    int batch_axes;
    int64_t batch[kMaxBatchAxes];
    int64_t N, H, G, L, S, E, F;
    double scale, softcap;     // softcap 0: none
    int64_t left, right;       // keys before and after a query's own that it sees; negative: all. Causal is right = 0
    bool bottom_right;         // a query's own key: the last query's is the last key, not the first query's the first
    const int64_t* kv_lengths; // N numbers of keys, or null: S
    double dropout;
    uint64_t seed;
};
enum class AttentionMask { none, boolean, additive };

// What its gradient takes and gives. `lse` has one column; `grad_mask` may be null, is zero at first, and has stride 0 along
// axes that it is summed over. The other gradients are C-contiguous, in the shapes of query, key and value.
struct AttentionGradArrays {
    HeadTensor grad_output, query, key, value, output, lse;
    AttentionMask mask_kind;
    HeadTensor mask;
    void *grad_query, *grad_key, *grad_value;
    const HeadTensor* grad_mask;
};

// Costs of an assignment problem: a 2-D array of float or double anywhere in memory.
struct CostMatrix {
    const char* data;
    int64_t rows, columns;
    int64_t stride_bytes[2];
    int itemsize;
};

struct AssignmentRules {
    bool maximize = false;
    bool forbid_nan = false;  // NaN pairs may not be, and as few rows as possible go without; otherwise they are refused
    double cost_limit = 0;    // rows that would cost more go without; +infinity (with maximize: -infinity) for no limit
    bool (*interrupted)() = nullptr;  // asked on the calling thread now and then; true ends the call
};

// Where a cost was refused, or which problem has no solution.
struct AssignmentFault {
    int64_t problem, row, column;
};

// The result of one problem: pairs in order of their rows, room for min(rows, columns) of them; duals where asked for.
struct Assignment {
    int64_t* row;
    int64_t* column;
    int64_t pairs;
    double* u;  // rows, or null
    double* v;  // columns
};

// Predictions of B images with Q queries each, and the objects to match them with: those of image b are begin[b] to before
// begin[b + 1], and its pairs are written from pairs_begin[b] on, in order of the queries.
struct DetrProblem {
    int64_t B, Q, K;  // K classes
    const char *logits, *boxes;
    int64_t logits_stride_bytes[3], boxes_stride_bytes[3];
    const int64_t* labels;
    const void* target_boxes;  // contiguous
    const int64_t *begin, *pairs_begin;
    double cost_class, cost_bbox, cost_giou;
    bool focal;
};

struct KernelTable {
    const char* isa;

    Conv2dChoice (*conv2d_choose)(const Conv2dShape&, int itemsize, Conv2dAlgorithm, bool packed, ChannelsLast);
    Status (*conv2d)(const Conv2dShape&, int itemsize, Conv2dAlgorithm, Tensor input, Tensor weight, Tensor output,
                     const Epilogue&);
    // bytes that conv2d_pack writes for this choice; 0: the kernel reads the weights where they lie
    int64_t (*conv2d_packed_bytes)(const Conv2dShape&, int itemsize, const Conv2dChoice&);
    // true: all of them are finite. With others, winograd would give NaN where a direct sum gives infinity.
    bool (*conv2d_pack)(const Conv2dShape&, int itemsize, const Conv2dChoice&, Tensor weight, void* packed);
    Status (*conv2d_packed)(const Conv2dShape&, int itemsize, const Conv2dPacked&, Tensor input, Tensor weight,
                            Tensor output, const Epilogue&);
    Status (*conv2d_grad_weight)(const Conv2dShape&, int itemsize, Tensor grad_output, Tensor input,
                                 Tensor grad_weight);

    // Without bias and activation, the gradient of conv2d by its input. Entries are those of conv2d.
    ConvTranspose2dChoice (*conv_transpose2d_choose)(const Conv2dShape&, int itemsize, bool packed, ChannelsLast);
    Status (*conv_transpose2d)(const Conv2dShape&, int itemsize, Tensor input, Tensor weight, Tensor output, const Epilogue&);
    int64_t (*conv_transpose2d_packed_bytes)(const Conv2dShape&, int itemsize, const ConvTranspose2dChoice&);
    bool (*conv_transpose2d_pack)(const Conv2dShape&, int itemsize, const ConvTranspose2dChoice&, Tensor weight, void* packed);
    Status (*conv_transpose2d_packed)(const Conv2dShape&, int itemsize, const ConvTranspose2dPacked&, Tensor input, Tensor weight,
                                      Tensor output, const Epilogue&);
    // Gram matrices are (N, C, C): the fourth stride plays no part. Their rows in `output` are contiguous. `grad_input` lies as
    // NCHW or channels-last without gaps.
    Status (*gram_matrix)(const GramShape&, int itemsize, double scale, Tensor input, Tensor output);
    Status (*gram_matrix_grad_input)(const GramShape&, int itemsize, double scale, Tensor grad_output, Tensor input,
                                     Tensor grad_input);

    // Indices are integers of index_bytes, 4 or 8. Results are planar or channels-last, and indices lie as output does.
    Status (*max_pool2d)(const Pool2dShape&, int itemsize, int index_bytes, Tensor input, Tensor output,
                         Tensor indices);   // indices.data null: output alone
    Status (*max_pool2d_grad_input)(const IndexedShape&, int itemsize, int index_bytes, Tensor grad_output,
                                    Tensor indices, Tensor grad_input);
    Status (*max_unpool2d)(const IndexedShape&, int itemsize, int index_bytes, Tensor input, Tensor indices,
                           Tensor output);
    Status (*max_unpool2d_grad_input)(const IndexedShape&, int itemsize, int index_bytes, Tensor grad_output,
                                      Tensor indices, Tensor grad_input);

    // Results are C-contiguous: output (N, H * G, L, F), lse (N, H * G, L), weights (N, H * G, L, S); the last two may be null.
    Status (*attention)(const AttentionShape&, int itemsize, const HeadTensor& query, const HeadTensor& key, const HeadTensor& value,
                        AttentionMask, const HeadTensor& mask, void* output, void* lse, void* weights);
    Status (*attention_grad)(const AttentionShape&, int itemsize, const AttentionGradArrays&);

    Status (*linear_sum_assignment)(const CostMatrix&, const AssignmentRules&, Assignment*, AssignmentFault*);
    // columns: for each problem `columns_stride` elements, one a row; -1 for rows without and behind the last
    Status (*linear_sum_assignment_batch)(const CostMatrix* problems, int64_t count, const AssignmentRules&, int64_t* columns,
                                          int64_t columns_stride, AssignmentFault*);
    // cost: of each image's pairs together. A fault's row is a target and its column a query.
    Status (*detr_match)(const DetrProblem&, int itemsize, bool (*interrupted)(), int64_t* query, int64_t* target, double* cost,
                         AssignmentFault*);

    // The machine's measured limits, for the demo's and the benchmark's share of peak.
    double (*measure_peak)(int itemsize, int threads);    // FLOP/s of fused multiply-adds on registers
};

}  // namespace fastcv
