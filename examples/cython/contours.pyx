# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""How a Cython module calls fastcv without Python and its lock in between."""

import numpy as np

cimport cython
from libc.stdint cimport int64_t

from fastcv.capi.ops cimport (
    FASTCV_FLOAT32,
    FASTCV_FLOAT64,
    FASTCV_OK,
    conv2d,
    fastcv_array,
    fastcv_conv2d_parameters,
    status_text,
)


cdef fastcv_array described(void *data, Py_ssize_t *shape, Py_ssize_t *strides, int dtype) noexcept nogil:
    # A memoryview's shape and strides are fastcv's: elements, and bytes.
    cdef fastcv_array array
    array.data, array.ndim, array.dtype = data, 4, dtype
    array.shape, array.strides = <const int64_t *> shape, <const int64_t *> strides
    return array


def contours(cython.floating[:, :, :, :] images, cython.floating[:, :, :, :] windows):
    """Sum the squares of what windows (K, C, 3, 3) respond to images (N, C, H, W): (N, H, W)."""
    cdef Py_ssize_t count = images.shape[0], filters = windows.shape[0]
    cdef Py_ssize_t height = images.shape[2], width = images.shape[3], n, k, y, x
    cdef int status, dtype = FASTCV_FLOAT32 if cython.floating is float else FASTCV_FLOAT64
    kind = np.float32 if cython.floating is float else np.float64
    cdef cython.floating[:, :, :, ::1] response = np.empty((count, filters, height, width), kind)
    cdef cython.floating[:, :, ::1] total = np.zeros((count, height, width), kind)
    cdef fastcv_array i, w, r
    cdef fastcv_conv2d_parameters parameters
    parameters.stride[:] = [1, 1]
    parameters.padding[:] = [1, 1, 1, 1]
    parameters.dilation[:] = [1, 1]
    parameters.groups, parameters.activation, parameters.algorithm, parameters.slope = 1, 0, 0, 0

    if 0 in (response.size, windows.size):
        return np.asarray(total)
    with nogil:
        i = described(&images[0, 0, 0, 0], &images.shape[0], &images.strides[0], dtype)
        w = described(&windows[0, 0, 0, 0], &windows.shape[0], &windows.strides[0], dtype)
        r = described(&response[0, 0, 0, 0], &response.shape[0], &response.strides[0], dtype)
        status = conv2d(&i, &w, NULL, &r, &parameters)
        if status == FASTCV_OK:
            for n in range(count):
                for k in range(filters):
                    for y in range(height):
                        for x in range(width):
                            total[n, y, x] += response[n, k, y, x] * response[n, k, y, x]
    if status != FASTCV_OK:
        raise ValueError(f"contours: {status_text(status).decode()}")
    return np.asarray(total)
