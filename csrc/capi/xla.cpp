// Handlers of XLA's foreign function interface: buffers and attributes to the C interface's arrays and parameters.
//
// They are written against the oldest interface that fastcv.jax supports (0.1, of jaxlib 0.6.1), which newer runtimes accept; a
// handler that claims a newer one registers, and then fails at the call.
//
// A handler runs on a thread of XLA's pool. It waits for nothing but the kernel, whose threads are OpenMP's, takes no lock that
// Python holds, and so cannot be part of a deadlock with that pool.
//
// Buffers are contiguous, and their shapes are those that fastcv.jax has worked out; the C interface checks them once more. Of the
// attributes, `integers` has the integer parameters in the order of the table in fastcv/_gradients, one after the other, and
// `numbers` the others; `absent` has a bit for each optional array that is not there.
#include "xla.h"

#include <math.h>
#include <string.h>

#include "arrays.h"

namespace fastcv::xla {
namespace {

constexpr int kMaxArrays = 16;

// A call's arrays, those that are absent as null, and its parameters.
class Frame {
public:
    explicit Frame(const CallFrame* frame) : frame_(frame) {
        for (int64_t i = 0; i < frame->attributes.count; i++) {
            const Text* name = frame->attributes.names[i];
            if (is(name, "integers")) integers_ = values<int64_t>(i, DataType::int64, &integer_count_);
            if (is(name, "numbers")) numbers_ = values<double>(i, DataType::float64, &number_count_);
            if (is(name, "absent")) absent_ = values<int64_t>(i, DataType::int64, &absent_count_);
        }
        int count = 0;
        int64_t present = 0;
        valid_ = absent_ && absent_count_ == 1 && frame->arguments.count + frame->results.count <= kMaxArrays;
        for (; valid_ && present < frame->arguments.count; count++) {
            if (count == kMaxArrays) valid_ = false;
            else if (*absent_ >> count & 1) arrays_[count] = nullptr;
            else valid_ = set(count, frame->arguments.types[present] == ArgumentType::buffer, frame->arguments.values[present]), present++;
        }
        for (int64_t i = 0; valid_ && i < frame->results.count; i++)
            valid_ = set(int(kMaxArrays + i), frame->results.types[i] == ResultType::buffer, frame->results.values[i]);
    }
    bool valid(int64_t results, int64_t integers, int64_t numbers) const {
        return valid_ && frame_->results.count == results && integer_count_ == integers && number_count_ == numbers;
    }
    const fastcv_array* argument(int i) const { return arrays_[i]; }
    const fastcv_array* result(int i) const { return arrays_[kMaxArrays + i]; }
    int64_t integer(int i) const { return integers_[i]; }
    double number(int i) const { return numbers_[i]; }

private:
    const CallFrame* frame_;
    const int64_t *integers_ = nullptr, *absent_ = nullptr;
    const double* numbers_ = nullptr;
    int64_t integer_count_ = 0, number_count_ = 0, absent_count_ = 0;
    bool valid_ = false;
    fastcv_array storage_[2 * kMaxArrays];
    const fastcv_array* arrays_[2 * kMaxArrays] = {};

    static bool is(const Text* name, const char* text) {
        return name->length == strlen(text) && memcmp(name->characters, text, name->length) == 0;
    }
    template <class T>
    const T* values(int64_t i, DataType dtype, int64_t* count) const {
        if (frame_->attributes.types[i] != AttributeType::array) return nullptr;
        const auto* array = static_cast<const Values*>(frame_->attributes.values[i]);
        if (array->dtype != dtype) return nullptr;
        *count = int64_t(array->count);
        return static_cast<const T*>(array->data);
    }
    bool set(int at, bool is_buffer, void* given) {
        if (!is_buffer) return false;
        const auto* buffer = static_cast<const Buffer*>(given);
        int dtype;
        switch (buffer->dtype) {
            case DataType::float32: dtype = FASTCV_FLOAT32; break;
            case DataType::float64: dtype = FASTCV_FLOAT64; break;
            case DataType::int32: dtype = FASTCV_INT32; break;
            case DataType::int64: dtype = FASTCV_INT64; break;
            case DataType::boolean: dtype = FASTCV_BOOL; break;
            default: return false;
        }
        storage_[at] = {buffer->data, buffer->shape, nullptr, int(buffer->rank), dtype};
        arrays_[at] = &storage_[at];
        return true;
    }
};

Error* error(const CallFrame* frame, ErrorCode code, const char* text) {
    ErrorArguments arguments{offsetof(ErrorArguments, code) + sizeof(ErrorCode), nullptr, text, code};
    return frame->api->create_error(&arguments);
}

// What XLA calls. `run` takes a Frame with so many results, integers and numbers.
template <int (*run)(const Frame&), int results, int integers, int numbers>
Error* handler(CallFrame* frame) {
    Extension* const extension = frame->extensions;
    if (extension && extension->type == ExtensionType::metadata) {
        Version& version = reinterpret_cast<MetadataExtension*>(extension)->metadata->version;
        version.major = kMajorVersion;
        version.minor = kMinorVersion;
        return nullptr;
    }
    const Frame call(frame);
    if (!call.valid(results, integers, numbers))
        return error(frame, ErrorCode::internal, "fastcv: the call does not have the form that this build expects");
    const int status = run(call);
    if (status == FASTCV_OK) return nullptr;
    const ErrorCode code = status == FASTCV_OUT_OF_MEMORY ? ErrorCode::resource_exhausted
                           : status == FASTCV_BAD_INDEX   ? ErrorCode::out_of_range
                                                          : ErrorCode::invalid_argument;
    return error(frame, code, capi::table().status_text(status));
}

// Convolutions: stride, padding, dilation, groups, and for the functions activation and algorithm.

fastcv_conv2d_parameters convolution(const Frame& f, int at) {
    fastcv_conv2d_parameters p = FASTCV_CONV2D_DEFAULTS;
    for (int i = 0; i < 2; i++) p.stride[i] = f.integer(at + i), p.dilation[i] = f.integer(at + 6 + i);
    for (int i = 0; i < 4; i++) p.padding[i] = f.integer(at + 2 + i);
    p.groups = f.integer(at + 8);
    return p;
}
int conv2d(const Frame& f) {
    fastcv_conv2d_parameters p = convolution(f, 0);
    p.activation = int(f.integer(9)), p.algorithm = int(f.integer(10)), p.slope = f.number(0);
    return capi::conv2d(f.argument(0), f.argument(1), f.argument(2), f.result(0), &p);
}
int conv2d_grad_input(const Frame& f) {
    const fastcv_conv2d_parameters p = convolution(f, 0);
    return capi::conv2d_grad_input(f.argument(0), f.argument(1), f.result(0), &p);
}
int conv2d_grad_weight(const Frame& f) {
    const fastcv_conv2d_parameters p = convolution(f, 0);
    return capi::conv2d_grad_weight(f.argument(0), f.argument(1), f.result(0), &p);
}

// Transposed ones: stride, padding down and across, output_padding (which the shapes tell), dilation, groups.
fastcv_conv2d_parameters transposed(const Frame& f) {
    fastcv_conv2d_parameters p = FASTCV_CONV2D_DEFAULTS;
    for (int i = 0; i < 2; i++) p.stride[i] = f.integer(i), p.dilation[i] = f.integer(6 + i);
    for (int i = 0; i < 4; i++) p.padding[i] = f.integer(2 + i / 2);
    p.groups = f.integer(8);
    return p;
}
int conv_transpose2d(const Frame& f) {
    fastcv_conv2d_parameters p = transposed(f);
    p.activation = int(f.integer(9)), p.slope = f.number(0);
    return capi::conv_transpose2d(f.argument(0), f.argument(1), f.argument(2), f.result(0), &p);
}
int conv_transpose2d_grad_input(const Frame& f) {
    const fastcv_conv2d_parameters p = transposed(f);
    return capi::conv_transpose2d_grad_input(f.argument(0), f.argument(1), f.result(0), &p);
}
int conv_transpose2d_grad_weight(const Frame& f) {
    const fastcv_conv2d_parameters p = transposed(f);
    return capi::conv_transpose2d_grad_weight(f.argument(0), f.argument(1), f.result(0), &p);
}

// Gram matrices: whether there is a scale, and the scale. The usual one is 1 / (C * H * W).
double scale(const Frame& f, const fastcv_array* image) {
    if (f.integer(0)) return f.number(0);
    double sizes = 1;
    for (int i = image->ndim < 3 ? 0 : image->ndim - 3; i < image->ndim; i++) sizes *= double(image->shape[i]);
    return 1 / (sizes > 0 ? sizes : 1);
}
int gram_matrix(const Frame& f) { return capi::gram_matrix(f.argument(0), f.result(0), scale(f, f.argument(0))); }
int gram_matrix_grad_input(const Frame& f) {
    return capi::gram_matrix_grad_input(f.argument(0), f.argument(1), f.result(0), scale(f, f.argument(1)));
}

// Pooling: window, stride, padding, dilation, ceil_mode (which the shapes tell), and whether indices are wanted.
int max_pool2d(const Frame& f) {
    fastcv_pool2d_parameters p;
    for (int i = 0; i < 2; i++) {
        p.kernel_size[i] = f.integer(i), p.stride[i] = f.integer(2 + i);
        p.padding[i] = f.integer(4 + i), p.dilation[i] = f.integer(6 + i);
    }
    return capi::max_pool2d(f.argument(0), f.result(0), f.integer(9) ? f.result(1) : nullptr, &p);
}
int max_pool2d_grad_input(const Frame& f) { return capi::max_pool2d_grad_input(f.argument(0), f.argument(1), f.result(0)); }
int max_unpool2d(const Frame& f) { return capi::max_unpool2d(f.argument(0), f.argument(1), f.result(0)); }
int max_unpool2d_grad_input(const Frame& f) {
    return capi::max_unpool2d_grad_input(f.argument(0), f.argument(1), f.result(0));
}

// Attention: integers is_causal, whether there is a scale, enable_gqa (which the shapes tell), alignment, window, whether there is
// a seed, the seed; numbers dropout, scale, softcap.
bool attention_parameters(const Frame& f, const fastcv_array* query, fastcv_attention_parameters* p) {
    const int64_t columns = query->shape[query->ndim - 1];
    p->scale = f.integer(1) ? f.number(1) : columns ? 1 / sqrt(double(columns)) : 1;
    p->softcap = f.number(2);
    p->window[0] = f.integer(4), p->window[1] = f.integer(0) ? 0 : f.integer(5);
    p->bottom_right = int(f.integer(3));
    p->dropout_p = f.number(0);
    p->seed = uint64_t(f.integer(7));
    return f.integer(6) || p->dropout_p <= 0;  // dropout needs a seed
}
int attention(const Frame& f) {
    fastcv_attention_parameters p;
    if (!attention_parameters(f, f.argument(0), &p)) return FASTCV_BAD_PARAMETER;
    return capi::attention(f.argument(0), f.argument(1), f.argument(2), f.argument(3), f.argument(4), f.result(0),
                           f.integer(8) ? f.result(1) : nullptr, f.integer(9) ? f.result(2) : nullptr, &p);
}
int attention_grad(const Frame& f) {
    fastcv_attention_parameters p;
    if (!attention_parameters(f, f.argument(1), &p)) return FASTCV_BAD_PARAMETER;
    return capi::attention_grad(f.argument(0), f.argument(1), f.argument(2), f.argument(3), f.argument(4), f.argument(5),
                                f.argument(6), f.argument(7), f.result(0), f.result(1), f.result(2),
                                f.integer(8) ? f.result(3) : nullptr, &p);
}

}  // namespace

const Handler kHandlers[] = {
    {"conv2d", handler<conv2d, 1, 11, 1>},
    {"conv2d_grad_input", handler<conv2d_grad_input, 1, 9, 0>},
    {"conv2d_grad_weight", handler<conv2d_grad_weight, 1, 9, 0>},
    {"conv_transpose2d", handler<conv_transpose2d, 1, 10, 1>},
    {"conv_transpose2d_grad_input", handler<conv_transpose2d_grad_input, 1, 9, 0>},
    {"conv_transpose2d_grad_weight", handler<conv_transpose2d_grad_weight, 1, 9, 0>},
    {"gram_matrix", handler<gram_matrix, 1, 1, 1>},
    {"gram_matrix_grad_input", handler<gram_matrix_grad_input, 1, 1, 1>},
    {"max_pool2d", handler<max_pool2d, 2, 10, 0>},
    {"max_pool2d_grad_input", handler<max_pool2d_grad_input, 1, 0, 0>},
    {"max_unpool2d", handler<max_unpool2d, 1, 6, 0>},
    {"max_unpool2d_grad_input", handler<max_unpool2d_grad_input, 1, 0, 0>},
    {"scaled_dot_product_attention", handler<attention, 3, 10, 3>},
    {"scaled_dot_product_attention_grad", handler<attention_grad, 4, 9, 3>},
    {nullptr, nullptr},
};

}  // namespace fastcv::xla
