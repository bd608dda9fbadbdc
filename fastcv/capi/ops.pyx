# cython: language_level=3, freethreading_compatible=True
"""fastcv's functions for `cimport`, without the GIL; ops.pxd lists them."""

cdef const fastcv_api *_api = fastcv_import()


cdef const char *status_text(int status) noexcept nogil:
    return _api.status_text(status)


cdef int conv2d(
    const fastcv_array *input, const fastcv_array *weight, const fastcv_array *bias,
    const fastcv_array *output, const fastcv_conv2d_parameters *parameters
) noexcept nogil:
    return _api.conv2d(input, weight, bias, output, parameters)


cdef int conv2d_grad_input(
    const fastcv_array *grad_output, const fastcv_array *weight, const fastcv_array *grad_input,
    const fastcv_conv2d_parameters *parameters
) noexcept nogil:
    return _api.conv2d_grad_input(grad_output, weight, grad_input, parameters)


cdef int conv2d_grad_weight(
    const fastcv_array *grad_output, const fastcv_array *input, const fastcv_array *grad_weight,
    const fastcv_conv2d_parameters *parameters
) noexcept nogil:
    return _api.conv2d_grad_weight(grad_output, input, grad_weight, parameters)


cdef int conv_transpose2d(
    const fastcv_array *input, const fastcv_array *weight, const fastcv_array *bias,
    const fastcv_array *output, const fastcv_conv2d_parameters *parameters
) noexcept nogil:
    return _api.conv_transpose2d(input, weight, bias, output, parameters)


cdef int conv_transpose2d_grad_input(
    const fastcv_array *grad_output, const fastcv_array *weight, const fastcv_array *grad_input,
    const fastcv_conv2d_parameters *parameters
) noexcept nogil:
    return _api.conv_transpose2d_grad_input(grad_output, weight, grad_input, parameters)


cdef int conv_transpose2d_grad_weight(
    const fastcv_array *grad_output, const fastcv_array *input, const fastcv_array *grad_weight,
    const fastcv_conv2d_parameters *parameters
) noexcept nogil:
    return _api.conv_transpose2d_grad_weight(grad_output, input, grad_weight, parameters)


cdef int max_pool2d(
    const fastcv_array *input, const fastcv_array *output, const fastcv_array *indices,
    const fastcv_pool2d_parameters *parameters
) noexcept nogil:
    return _api.max_pool2d(input, output, indices, parameters)


cdef int max_pool2d_grad_input(
    const fastcv_array *grad_output, const fastcv_array *indices, const fastcv_array *grad_input
) noexcept nogil:
    return _api.max_pool2d_grad_input(grad_output, indices, grad_input)


cdef int max_unpool2d(
    const fastcv_array *input, const fastcv_array *indices, const fastcv_array *output
) noexcept nogil:
    return _api.max_unpool2d(input, indices, output)


cdef int max_unpool2d_grad_input(
    const fastcv_array *grad_output, const fastcv_array *indices, const fastcv_array *grad_input
) noexcept nogil:
    return _api.max_unpool2d_grad_input(grad_output, indices, grad_input)


cdef int gram_matrix(
    const fastcv_array *input, const fastcv_array *output, double scale
) noexcept nogil:
    return _api.gram_matrix(input, output, scale)


cdef int gram_matrix_grad_input(
    const fastcv_array *grad_output, const fastcv_array *input, const fastcv_array *grad_input,
    double scale
) noexcept nogil:
    return _api.gram_matrix_grad_input(grad_output, input, grad_input, scale)


cdef int scaled_dot_product_attention(
    const fastcv_array *query, const fastcv_array *key, const fastcv_array *value,
    const fastcv_array *mask, const fastcv_array *kv_lengths, const fastcv_array *output,
    const fastcv_array *lse, const fastcv_array *weights,
    const fastcv_attention_parameters *parameters
) noexcept nogil:
    return _api.scaled_dot_product_attention(
        query, key, value, mask, kv_lengths, output, lse, weights, parameters
    )


cdef int scaled_dot_product_attention_grad(
    const fastcv_array *grad_output, const fastcv_array *query, const fastcv_array *key,
    const fastcv_array *value, const fastcv_array *output, const fastcv_array *lse,
    const fastcv_array *mask, const fastcv_array *kv_lengths, const fastcv_array *grad_query,
    const fastcv_array *grad_key, const fastcv_array *grad_value, const fastcv_array *grad_mask,
    const fastcv_attention_parameters *parameters
) noexcept nogil:
    return _api.scaled_dot_product_attention_grad(
        grad_output, query, key, value, output, lse, mask, kv_lengths, grad_query, grad_key,
        grad_value, grad_mask, parameters
    )


cdef int linear_sum_assignment(
    const fastcv_array *costs, const fastcv_assignment_parameters *parameters, int64_t *rows,
    int64_t *columns, int64_t *pairs, double *u, double *v, int64_t *fault
) noexcept nogil:
    return _api.linear_sum_assignment(costs, parameters, rows, columns, pairs, u, v, fault)


cdef int linear_sum_assignment_batch(
    const fastcv_array *costs, const fastcv_assignment_parameters *parameters, int64_t *columns,
    int64_t *fault
) noexcept nogil:
    return _api.linear_sum_assignment_batch(costs, parameters, columns, fault)
