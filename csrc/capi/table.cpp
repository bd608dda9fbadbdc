// The C interface's one table.
#include "arrays.h"

namespace fastcv::capi {
namespace {

const char* status_text(int status) {
    switch (status) {
        case FASTCV_OK: return "no error";
        case FASTCV_OUT_OF_MEMORY: return "memory ran out";
        case FASTCV_BAD_ARRAY: return "an array is missing, or has a dtype, a number of axes or a layout that it may not have";
        case FASTCV_BAD_SHAPE: return "shapes do not fit each other or the parameters";
        case FASTCV_BAD_PARAMETER: return "a parameter is outside its range";
        case FASTCV_BAD_INDEX: return "an index is outside its plane";
        case FASTCV_BAD_COST: return "a cost is NaN or infinite in the wrong direction";
        case FASTCV_INFEASIBLE: return "no assignment avoids infinite costs";
        default: return "unknown status";
    }
}

}  // namespace

const fastcv_api& table() {
    static const fastcv_api api = {
        FASTCV_API_VERSION,
        status_text,
        conv2d,
        conv2d_grad_input,
        conv2d_grad_weight,
        conv_transpose2d,
        conv_transpose2d_grad_input,
        conv_transpose2d_grad_weight,
        max_pool2d,
        max_pool2d_grad_input,
        max_unpool2d,
        max_unpool2d_grad_input,
        gram_matrix,
        gram_matrix_grad_input,
        attention,
        attention_grad,
        linear_sum_assignment,
        linear_sum_assignment_batch,
    };
    return api;
}

}  // namespace fastcv::capi
