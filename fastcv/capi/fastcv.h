/* fastcv for other compiled code: its functions in one table of pointers, without Python objects and without the GIL.
 *
 *     #include <Python.h>
 *     #include "fastcv.h"                        fastcv.get_include() names the folder
 *     const fastcv_api *api = fastcv_import();   once, with the GIL; NULL: a Python exception is set
 *     int status = api->conv2d(&input, &weight, NULL, &output, NULL);
 *
 * Every function returns a status and may be called from any thread. Pointers, dtypes, sizes and parameters are checked before
 * anything is written; after FASTCV_BAD_INDEX, FASTCV_BAD_COST and FASTCV_INFEASIBLE, results hold anything. That a result overlaps
 * no other array is not checked. What a function computes is on the page of the Python function of the same name.
 */
#ifndef FASTCV_H
#define FASTCV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when the table does, at its end. A change that breaks callers would change the capsule's name. */
#define FASTCV_API_VERSION 1
#define FASTCV_CAPSULE_NAME "fastcv._core.c_api"

enum fastcv_status {
    FASTCV_OK = 0,
    FASTCV_OUT_OF_MEMORY = 1,
    FASTCV_BAD_ARRAY = 2,     /* null where an array is needed, a wrong dtype or number of axes, or a layout that results cannot have */
    FASTCV_BAD_SHAPE = 3,     /* sizes that do not fit each other or the parameters */
    FASTCV_BAD_PARAMETER = 4, /* a number outside its range */
    FASTCV_BAD_INDEX = 5,     /* an index outside its plane */
    FASTCV_BAD_COST = 6,      /* a cost that is NaN or infinite in the wrong direction */
    FASTCV_INFEASIBLE = 7     /* no assignment avoids infinite costs */
};

enum fastcv_dtype {
    FASTCV_FLOAT32 = 0,
    FASTCV_FLOAT64 = 1,
    FASTCV_INT32 = 2,
    FASTCV_INT64 = 3,
    FASTCV_BOOL = 4
};

/* An array anywhere in memory, as a Py_buffer or a memoryview describes it. */
typedef struct fastcv_array {
    void *data;
    const int64_t *shape;   /* elements */
    const int64_t *strides; /* bytes, of any sign and alignment; NULL: C-contiguous */
    int ndim;
    int dtype; /* fastcv_dtype */
} fastcv_array;

enum fastcv_activation {
    FASTCV_NO_ACTIVATION = 0,
    FASTCV_RELU = 1,
    FASTCV_RELU6 = 2,
    FASTCV_LEAKY_RELU = 3,
    FASTCV_SIGMOID = 4,
    FASTCV_TANH = 5,
    FASTCV_SILU = 6,
    FASTCV_GELU = 7
};

enum fastcv_conv2d_algorithm { FASTCV_AUTO = 0, FASTCV_DIRECT = 1, FASTCV_WINOGRAD = 2 };

/* Of conv2d, conv_transpose2d and their gradients; NULL in its place means FASTCV_CONV2D_DEFAULTS. How much output_padding a
 * transposed convolution has follows from the output's size. */
typedef struct fastcv_conv2d_parameters {
    int64_t stride[2];  /* down, across */
    int64_t padding[4]; /* top, bottom, left, right */
    int64_t dilation[2];
    int64_t groups;
    int activation; /* of the two functions, not of their gradients */
    int algorithm;  /* of conv2d */
    double slope;   /* of leaky_relu */
} fastcv_conv2d_parameters;
#define FASTCV_CONV2D_DEFAULTS {{1, 1}, {0, 0, 0, 0}, {1, 1}, 1, FASTCV_NO_ACTIVATION, FASTCV_AUTO, 0.0}

/* ceil_mode follows from the output's size. */
typedef struct fastcv_pool2d_parameters {
    int64_t kernel_size[2];
    int64_t stride[2];
    int64_t padding[2];
    int64_t dilation[2];
} fastcv_pool2d_parameters;

typedef struct fastcv_attention_parameters {
    double scale;
    double softcap;    /* 0: none */
    int64_t window[2]; /* keys before and after a query's own that it sees; -1: all. Causal is window[1] = 0 */
    int bottom_right;  /* a query's own key: 0: the first query's is the first key, 1: the last query's is the last */
    double dropout_p;
    uint64_t seed;
} fastcv_attention_parameters;

typedef struct fastcv_assignment_parameters {
    int maximize;
    int forbid;        /* NaN and infinite pairs: 1: may not be matched, 0: NaN is refused */
    double cost_limit; /* INFINITY (with maximize: -INFINITY) for none */
} fastcv_assignment_parameters;

/* Images are (N, C, H, W) or (C, H, W). "Packed" is C-contiguous, or channels-last without gaps. An argument that may be NULL
 * says so. */
typedef struct fastcv_api {
    int version; /* FASTCV_API_VERSION of the fastcv that runs: at least that of this header */

    const char *(*status_text)(int status);

    int (*conv2d)(const fastcv_array *input, const fastcv_array *weight, const fastcv_array *bias /* or NULL */,
                  const fastcv_array *output, const fastcv_conv2d_parameters *parameters);
    int (*conv2d_grad_input)(const fastcv_array *grad_output, const fastcv_array *weight, const fastcv_array *grad_input,
                             const fastcv_conv2d_parameters *parameters);
    int (*conv2d_grad_weight)(const fastcv_array *grad_output, const fastcv_array *input, const fastcv_array *grad_weight,
                              const fastcv_conv2d_parameters *parameters);

    int (*conv_transpose2d)(const fastcv_array *input, const fastcv_array *weight, const fastcv_array *bias /* or NULL */,
                            const fastcv_array *output, const fastcv_conv2d_parameters *parameters);
    int (*conv_transpose2d_grad_input)(const fastcv_array *grad_output, const fastcv_array *weight,
                                       const fastcv_array *grad_input, const fastcv_conv2d_parameters *parameters);
    int (*conv_transpose2d_grad_weight)(const fastcv_array *grad_output, const fastcv_array *input,
                                        const fastcv_array *grad_weight, const fastcv_conv2d_parameters *parameters);

    /* Indices are INT32 or INT64. output and indices are packed, in the same order. */
    int (*max_pool2d)(const fastcv_array *input, const fastcv_array *output, const fastcv_array *indices /* or NULL */,
                      const fastcv_pool2d_parameters *parameters);
    /* grad_input and output are packed. */
    int (*max_pool2d_grad_input)(const fastcv_array *grad_output, const fastcv_array *indices, const fastcv_array *grad_input);
    int (*max_unpool2d)(const fastcv_array *input, const fastcv_array *indices, const fastcv_array *output);
    int (*max_unpool2d_grad_input)(const fastcv_array *grad_output, const fastcv_array *indices,
                                   const fastcv_array *grad_input);

    /* output (N, C, C) has contiguous rows; grad_input is packed. */
    int (*gram_matrix)(const fastcv_array *input, const fastcv_array *output, double scale);
    int (*gram_matrix_grad_input)(const fastcv_array *grad_output, const fastcv_array *input, const fastcv_array *grad_input,
                                  double scale);

    /* query (..., Hq, L, E), key (..., Hkv, S, E), value (..., Hkv, S, Ev); axes in front of the heads, at most 8, broadcast, as
     * do heads of size 1, or none; otherwise Hq is a multiple of Hkv. mask, of query's dtype or BOOL, broadcasts to
     * (..., Hq, L, S). kv_lengths (INT32 or INT64, contiguous) has a number for each of the axes in front of the heads.
     * output (..., Hq, L, Ev), lse (..., Hq, L) and weights (..., Hq, L, S) are C-contiguous; they have no heads where none of the
     * three inputs has an axis for them. */
    int (*scaled_dot_product_attention)(const fastcv_array *query, const fastcv_array *key, const fastcv_array *value,
                                        const fastcv_array *mask /* or NULL */, const fastcv_array *kv_lengths /* or NULL */,
                                        const fastcv_array *output, const fastcv_array *lse /* or NULL */,
                                        const fastcv_array *weights /* or NULL */,
                                        const fastcv_attention_parameters *parameters);
    /* Gradients are C-contiguous, in the shapes of query, key, value and the mask, which is then a floating one. */
    int (*scaled_dot_product_attention_grad)(const fastcv_array *grad_output, const fastcv_array *query,
                                             const fastcv_array *key, const fastcv_array *value, const fastcv_array *output,
                                             const fastcv_array *lse, const fastcv_array *mask /* or NULL */,
                                             const fastcv_array *kv_lengths /* or NULL */, const fastcv_array *grad_query,
                                             const fastcv_array *grad_key, const fastcv_array *grad_value,
                                             const fastcv_array *grad_mask /* or NULL */,
                                             const fastcv_attention_parameters *parameters);

    /* costs (n, m). rows and columns have room for min(n, m) pairs; *pairs tells how many there are. u (n) and v (m) are the
     * duals. fault is the row and the column of a cost that is refused. */
    int (*linear_sum_assignment)(const fastcv_array *costs, const fastcv_assignment_parameters *parameters, int64_t *rows,
                                 int64_t *columns, int64_t *pairs, double *u /* or NULL */, double *v /* or NULL */,
                                 int64_t fault[2] /* or NULL */);
    /* costs (B, n, m); columns, of B * n elements: the column of each row, -1 for none. fault: problem, row, column. */
    int (*linear_sum_assignment_batch)(const fastcv_array *costs, const fastcv_assignment_parameters *parameters,
                                       int64_t *columns, int64_t fault[3] /* or NULL */);
} fastcv_api;

#ifdef Py_PYTHON_H
/* The table, from the fastcv that Python finds; NULL with an exception set where there is none, or one that is older than this
 * header. */
static inline const fastcv_api *fastcv_import(void) {
    const fastcv_api *api = (const fastcv_api *)PyCapsule_Import(FASTCV_CAPSULE_NAME, 0);
    if (api && api->version < FASTCV_API_VERSION) {
        PyErr_Format(PyExc_ImportError, "this module needs version %d of fastcv's C interface, and the installed fastcv has %d",
                     FASTCV_API_VERSION, api->version);
        return NULL;
    }
    return api;
}
#endif

#ifdef __cplusplus
}
#endif

#endif
