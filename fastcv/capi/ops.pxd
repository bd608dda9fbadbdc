# fastcv's C interface for Cython: `from fastcv.capi.ops cimport conv2d, fastcv_array, FASTCV_FLOAT32`. Modules that do so find
# fastcv.h in fastcv.get_include(). Functions return a status; fastcv.h says what each argument is.
from libc.stdint cimport int64_t, uint64_t

cdef extern from "fastcv.h" nogil:
    enum:
        FASTCV_API_VERSION

    enum fastcv_status:
        FASTCV_OK
        FASTCV_OUT_OF_MEMORY
        FASTCV_BAD_ARRAY
        FASTCV_BAD_SHAPE
        FASTCV_BAD_PARAMETER
        FASTCV_BAD_INDEX
        FASTCV_BAD_COST
        FASTCV_INFEASIBLE

    enum fastcv_dtype:
        FASTCV_FLOAT32
        FASTCV_FLOAT64
        FASTCV_INT32
        FASTCV_INT64
        FASTCV_BOOL

    enum fastcv_activation:
        FASTCV_NO_ACTIVATION
        FASTCV_RELU
        FASTCV_RELU6
        FASTCV_LEAKY_RELU
        FASTCV_SIGMOID
        FASTCV_TANH
        FASTCV_SILU
        FASTCV_GELU

    enum fastcv_conv2d_algorithm:
        FASTCV_AUTO
        FASTCV_DIRECT
        FASTCV_WINOGRAD

    ctypedef struct fastcv_array:
        void *data
        const int64_t *shape
        const int64_t *strides
        int ndim
        int dtype

    ctypedef struct fastcv_conv2d_parameters:
        int64_t stride[2]
        int64_t padding[4]
        int64_t dilation[2]
        int64_t groups
        int activation
        int algorithm
        double slope

    ctypedef struct fastcv_pool2d_parameters:
        int64_t kernel_size[2]
        int64_t stride[2]
        int64_t padding[2]
        int64_t dilation[2]

    ctypedef struct fastcv_attention_parameters:
        double scale
        double softcap
        int64_t window[2]
        int bottom_right
        double dropout_p
        uint64_t seed

    ctypedef struct fastcv_assignment_parameters:
        int maximize
        int forbid
        double cost_limit

    ctypedef struct fastcv_api:
        int version
        const char *(*status_text)(int status) noexcept nogil
        int (*conv2d)(
            const fastcv_array *input, const fastcv_array *weight, const fastcv_array *bias,
            const fastcv_array *output, const fastcv_conv2d_parameters *parameters
        ) noexcept nogil
        int (*conv2d_grad_input)(
            const fastcv_array *grad_output, const fastcv_array *weight,
            const fastcv_array *grad_input, const fastcv_conv2d_parameters *parameters
        ) noexcept nogil
        int (*conv2d_grad_weight)(
            const fastcv_array *grad_output, const fastcv_array *input,
            const fastcv_array *grad_weight, const fastcv_conv2d_parameters *parameters
        ) noexcept nogil
        int (*conv_transpose2d)(
            const fastcv_array *input, const fastcv_array *weight, const fastcv_array *bias,
            const fastcv_array *output, const fastcv_conv2d_parameters *parameters
        ) noexcept nogil
        int (*conv_transpose2d_grad_input)(
            const fastcv_array *grad_output, const fastcv_array *weight,
            const fastcv_array *grad_input, const fastcv_conv2d_parameters *parameters
        ) noexcept nogil
        int (*conv_transpose2d_grad_weight)(
            const fastcv_array *grad_output, const fastcv_array *input,
            const fastcv_array *grad_weight, const fastcv_conv2d_parameters *parameters
        ) noexcept nogil
        int (*max_pool2d)(
            const fastcv_array *input, const fastcv_array *output, const fastcv_array *indices,
            const fastcv_pool2d_parameters *parameters
        ) noexcept nogil
        int (*max_pool2d_grad_input)(
            const fastcv_array *grad_output, const fastcv_array *indices,
            const fastcv_array *grad_input
        ) noexcept nogil
        int (*max_unpool2d)(
            const fastcv_array *input, const fastcv_array *indices, const fastcv_array *output
        ) noexcept nogil
        int (*max_unpool2d_grad_input)(
            const fastcv_array *grad_output, const fastcv_array *indices,
            const fastcv_array *grad_input
        ) noexcept nogil
        int (*gram_matrix)(
            const fastcv_array *input, const fastcv_array *output, double scale
        ) noexcept nogil
        int (*gram_matrix_grad_input)(
            const fastcv_array *grad_output, const fastcv_array *input,
            const fastcv_array *grad_input, double scale
        ) noexcept nogil
        int (*scaled_dot_product_attention)(
            const fastcv_array *query, const fastcv_array *key, const fastcv_array *value,
            const fastcv_array *mask, const fastcv_array *kv_lengths, const fastcv_array *output,
            const fastcv_array *lse, const fastcv_array *weights,
            const fastcv_attention_parameters *parameters
        ) noexcept nogil
        int (*scaled_dot_product_attention_grad)(
            const fastcv_array *grad_output, const fastcv_array *query, const fastcv_array *key,
            const fastcv_array *value, const fastcv_array *output, const fastcv_array *lse,
            const fastcv_array *mask, const fastcv_array *kv_lengths,
            const fastcv_array *grad_query, const fastcv_array *grad_key,
            const fastcv_array *grad_value, const fastcv_array *grad_mask,
            const fastcv_attention_parameters *parameters
        ) noexcept nogil
        int (*linear_sum_assignment)(
            const fastcv_array *costs, const fastcv_assignment_parameters *parameters,
            int64_t *rows, int64_t *columns, int64_t *pairs, double *u, double *v, int64_t *fault
        ) noexcept nogil
        int (*linear_sum_assignment_batch)(
            const fastcv_array *costs, const fastcv_assignment_parameters *parameters,
            int64_t *columns, int64_t *fault
        ) noexcept nogil

    const fastcv_api *fastcv_import() except NULL

cdef const char *status_text(int status) noexcept nogil
cdef int conv2d(
    const fastcv_array *input, const fastcv_array *weight, const fastcv_array *bias,
    const fastcv_array *output, const fastcv_conv2d_parameters *parameters
) noexcept nogil
cdef int conv2d_grad_input(
    const fastcv_array *grad_output, const fastcv_array *weight, const fastcv_array *grad_input,
    const fastcv_conv2d_parameters *parameters
) noexcept nogil
cdef int conv2d_grad_weight(
    const fastcv_array *grad_output, const fastcv_array *input, const fastcv_array *grad_weight,
    const fastcv_conv2d_parameters *parameters
) noexcept nogil
cdef int conv_transpose2d(
    const fastcv_array *input, const fastcv_array *weight, const fastcv_array *bias,
    const fastcv_array *output, const fastcv_conv2d_parameters *parameters
) noexcept nogil
cdef int conv_transpose2d_grad_input(
    const fastcv_array *grad_output, const fastcv_array *weight, const fastcv_array *grad_input,
    const fastcv_conv2d_parameters *parameters
) noexcept nogil
cdef int conv_transpose2d_grad_weight(
    const fastcv_array *grad_output, const fastcv_array *input, const fastcv_array *grad_weight,
    const fastcv_conv2d_parameters *parameters
) noexcept nogil
cdef int max_pool2d(
    const fastcv_array *input, const fastcv_array *output, const fastcv_array *indices,
    const fastcv_pool2d_parameters *parameters
) noexcept nogil
cdef int max_pool2d_grad_input(
    const fastcv_array *grad_output, const fastcv_array *indices, const fastcv_array *grad_input
) noexcept nogil
cdef int max_unpool2d(
    const fastcv_array *input, const fastcv_array *indices, const fastcv_array *output
) noexcept nogil
cdef int max_unpool2d_grad_input(
    const fastcv_array *grad_output, const fastcv_array *indices, const fastcv_array *grad_input
) noexcept nogil
cdef int gram_matrix(
    const fastcv_array *input, const fastcv_array *output, double scale
) noexcept nogil
cdef int gram_matrix_grad_input(
    const fastcv_array *grad_output, const fastcv_array *input, const fastcv_array *grad_input,
    double scale
) noexcept nogil
cdef int scaled_dot_product_attention(
    const fastcv_array *query, const fastcv_array *key, const fastcv_array *value,
    const fastcv_array *mask, const fastcv_array *kv_lengths, const fastcv_array *output,
    const fastcv_array *lse, const fastcv_array *weights,
    const fastcv_attention_parameters *parameters
) noexcept nogil
cdef int scaled_dot_product_attention_grad(
    const fastcv_array *grad_output, const fastcv_array *query, const fastcv_array *key,
    const fastcv_array *value, const fastcv_array *output, const fastcv_array *lse,
    const fastcv_array *mask, const fastcv_array *kv_lengths, const fastcv_array *grad_query,
    const fastcv_array *grad_key, const fastcv_array *grad_value, const fastcv_array *grad_mask,
    const fastcv_attention_parameters *parameters
) noexcept nogil
cdef int linear_sum_assignment(
    const fastcv_array *costs, const fastcv_assignment_parameters *parameters, int64_t *rows,
    int64_t *columns, int64_t *pairs, double *u, double *v, int64_t *fault
) noexcept nogil
cdef int linear_sum_assignment_batch(
    const fastcv_array *costs, const fastcv_assignment_parameters *parameters, int64_t *columns,
    int64_t *fault
) noexcept nogil
