/* A module that calls fastcv's table of C functions, for test_capi.py: each function takes NumPy arrays, or None, by the buffer
 * protocol, and returns the status. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "fastcv.h"

static const fastcv_api *api;

enum { MAX_ARRAYS = 12 };
typedef struct {
    Py_buffer buffers[MAX_ARRAYS];
    fastcv_array arrays[MAX_ARRAYS];
    const fastcv_array *given[MAX_ARRAYS]; /* NULL for None */
    int count;
} Call;

static int dtype_of(const Py_buffer *b) {
    switch (b->format ? b->format[0] : 0) {
        case 'f': return FASTCV_FLOAT32;
        case 'd': return FASTCV_FLOAT64;
        case 'i': return FASTCV_INT32;
        case 'l':
        case 'q': return FASTCV_INT64;
        case '?': return FASTCV_BOOL;
        default: return -1;
    }
}

static void release(Call *call) {
    for (int i = 0; i < call->count; i++) PyBuffer_Release(&call->buffers[i]);
}

/* A tuple of arrays and None. */
static int receive(Call *call, PyObject *arrays) {
    const Py_ssize_t size = PyTuple_Size(arrays);
    memset(call, 0, sizeof *call);
    for (Py_ssize_t i = 0; i < size && i < MAX_ARRAYS; i++) {
        PyObject *array = PyTuple_GetItem(arrays, i);
        if (array == Py_None) continue;
        Py_buffer *b = &call->buffers[call->count];
        if (PyObject_GetBuffer(array, b, PyBUF_STRIDES | PyBUF_FORMAT) < 0) {
            release(call);
            return -1;
        }
        call->count++;
        fastcv_array described = {b->buf, (const int64_t *)b->shape, (const int64_t *)b->strides, b->ndim, dtype_of(b)};
        call->arrays[i] = described;
        call->given[i] = &call->arrays[i];
    }
    return 0;
}

/* call(name, arrays, integers, numbers): integers and numbers are the parameters' fields, in their order. */
static PyObject *call(PyObject *self, PyObject *args) {
    PyObject *arrays, *integers, *numbers;
    const char *name;
    (void)self;
    if (!PyArg_ParseTuple(args, "sO!O!O!", &name, &PyTuple_Type, &arrays, &PyTuple_Type, &integers, &PyTuple_Type, &numbers))
        return NULL;
    int64_t n[16] = {0};
    double x[4] = {0};
    for (Py_ssize_t i = 0; i < PyTuple_Size(integers); i++) n[i] = PyLong_AsLongLong(PyTuple_GetItem(integers, i));
    for (Py_ssize_t i = 0; i < PyTuple_Size(numbers); i++) x[i] = PyFloat_AsDouble(PyTuple_GetItem(numbers, i));
    if (PyErr_Occurred()) return NULL;
    Call c;
    if (receive(&c, arrays) < 0) return NULL;
    const fastcv_array *const *a = c.given;
    const int has = PyTuple_Size(integers) > 0;
    const fastcv_conv2d_parameters conv = {{n[0], n[1]}, {n[2], n[3], n[4], n[5]}, {n[6], n[7]}, n[8], (int)n[9], (int)n[10], x[0]};
    const fastcv_pool2d_parameters pool = {{n[0], n[1]}, {n[2], n[3]}, {n[4], n[5]}, {n[6], n[7]}};
    const fastcv_attention_parameters attention = {x[0], x[1], {n[0], n[1]}, (int)n[2], x[2], (uint64_t)n[3]};
    const fastcv_assignment_parameters assignment = {(int)n[0], (int)n[1], x[0]};
    const fastcv_conv2d_parameters *const p = has ? &conv : NULL;
    int64_t pairs = -1, fault[3] = {-1, -1, -1};
    int status = -1;
#define IS(text) (strcmp(name, text) == 0)
    Py_BEGIN_ALLOW_THREADS;
    if (IS("conv2d")) status = api->conv2d(a[0], a[1], a[2], a[3], p);
    if (IS("conv2d_grad_input")) status = api->conv2d_grad_input(a[0], a[1], a[2], p);
    if (IS("conv2d_grad_weight")) status = api->conv2d_grad_weight(a[0], a[1], a[2], p);
    if (IS("conv_transpose2d")) status = api->conv_transpose2d(a[0], a[1], a[2], a[3], p);
    if (IS("conv_transpose2d_grad_input")) status = api->conv_transpose2d_grad_input(a[0], a[1], a[2], p);
    if (IS("conv_transpose2d_grad_weight")) status = api->conv_transpose2d_grad_weight(a[0], a[1], a[2], p);
    if (IS("max_pool2d")) status = api->max_pool2d(a[0], a[1], a[2], has ? &pool : NULL);
    if (IS("max_pool2d_grad_input")) status = api->max_pool2d_grad_input(a[0], a[1], a[2]);
    if (IS("max_unpool2d")) status = api->max_unpool2d(a[0], a[1], a[2]);
    if (IS("max_unpool2d_grad_input")) status = api->max_unpool2d_grad_input(a[0], a[1], a[2]);
    if (IS("gram_matrix")) status = api->gram_matrix(a[0], a[1], x[0]);
    if (IS("gram_matrix_grad_input")) status = api->gram_matrix_grad_input(a[0], a[1], a[2], x[0]);
    if (IS("scaled_dot_product_attention"))
        status = api->scaled_dot_product_attention(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], &attention);
    if (IS("scaled_dot_product_attention_grad"))
        status = api->scaled_dot_product_attention_grad(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11],
                                                        &attention);
    if (IS("linear_sum_assignment"))
        status = api->linear_sum_assignment(a[0], &assignment, a[1] ? a[1]->data : NULL, a[2] ? a[2]->data : NULL, &pairs,
                                            a[3] ? a[3]->data : NULL, a[4] ? a[4]->data : NULL, fault);
    if (IS("linear_sum_assignment_batch"))
        status = api->linear_sum_assignment_batch(a[0], &assignment, a[1] ? a[1]->data : NULL, fault);
    Py_END_ALLOW_THREADS;
    release(&c);
    return Py_BuildValue("iL(LLL)", status, (long long)pairs, (long long)fault[0], (long long)fault[1], (long long)fault[2]);
}

static PyObject *status_text(PyObject *self, PyObject *status) {
    (void)self;
    return PyUnicode_FromString(api->status_text((int)PyLong_AsLong(status)));
}

static PyMethodDef methods[] = {
    {"call", call, METH_VARARGS, NULL}, {"status_text", status_text, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "capi_calls", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_capi_calls(void) {
    api = fastcv_import();
    return api ? PyModule_Create(&module) : NULL;
}
