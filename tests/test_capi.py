"""The C interface: the same results as Python's, a status for whatever is wrong, and Cython."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cases import uniform
from closeness import same_bits
from shared import SANITIZED

import fastcv

HEADER = Path(fastcv.get_include()) / "fastcv.h"
HERE = Path(__file__).parent
STATUS = {
    name: int(value)
    for name, value in re.findall(r"FASTCV_(\w+) = (\d+)", HEADER.read_text().split("};")[0])
}
OK, BAD_ARRAY, BAD_SHAPE = STATUS["OK"], STATUS["BAD_ARRAY"], STATUS["BAD_SHAPE"]
BAD_PARAMETER, BAD_INDEX = STATUS["BAD_PARAMETER"], STATUS["BAD_INDEX"]
BAD_COST, INFEASIBLE = STATUS["BAD_COST"], STATUS["INFEASIBLE"]

ATTENTION = "scaled_dot_product_attention"

each_dtype = pytest.mark.parametrize("dtype", (np.float32, np.float64))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.name.partition(".")[0], path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def built(folder: Path, include: str) -> Path:
    """A module in C that uses nothing but the header, which lies in `include`."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    result = folder / "capi_calls.so"
    flags = ["-shared", "-fPIC", "-std=c99", "-Wall", "-Wextra", "-Werror"]
    flags += ["-Wno-missing-field-initializers"]
    folders = [f"-I{sysconfig.get_path('include')}", f"-I{include}"]
    command = [compiler, *flags, *folders, str(HERE / "capi_calls.c"), "-o", str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return result


@pytest.fixture(scope="module")
def c(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return load(built(tmp_path_factory.mktemp("capi"), fastcv.get_include()))


# Results


CONV = (2, 1, 1, 0, 2, 1, 1, 2, 2)  # stride, padding, dilation, groups
CONV_KEYWORDS = {"stride": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": 2}
TRANSPOSED = (2, 3, 1, 1, 0, 0, 1, 2, 2)
TRANSPOSED_KEYWORDS = {
    "stride": (2, 3),
    "padding": (1, 0),
    "output_padding": (1, 2),
    "dilation": (1, 2),
    "groups": 2,
}


def strided(array: np.ndarray) -> np.ndarray:
    """The same numbers backwards in memory, with gaps."""
    memory = np.empty((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    result = memory[..., ::-2]
    result[:] = array
    return result


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, -3, -1)).transpose(
        (0, 3, 1, 2) if array.ndim == 4 else (2, 0, 1)
    )


each_layout = pytest.mark.parametrize(
    "layout", (np.ascontiguousarray, strided, channels_last), ids=lambda f: f.__name__
)


@each_dtype
@each_layout
def test_convolutions(c: ModuleType, dtype: type, layout: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    x, weight = layout(uniform(rng, (2, 4, 5, 6), dtype)), uniform(rng, (4, 2, 3, 2), dtype)
    bias = uniform(rng, (4,), dtype)
    want = fastcv.conv2d(x, weight, bias, **CONV_KEYWORDS, activation=("leaky_relu", 0.25))
    got = np.full_like(want, np.nan)
    assert c.call("conv2d", (x, weight, bias, got), (*CONV, 3, 0), (0.25,))[0] == OK
    assert same_bits(got, want)

    grad = layout(uniform(rng, want.shape, dtype))
    want = fastcv.conv2d_grad_input(grad, weight, x.shape, **CONV_KEYWORDS)
    got = np.full_like(want, np.nan)
    assert c.call("conv2d_grad_input", (grad, weight, got), CONV, ())[0] == OK
    assert same_bits(got, want)
    want = fastcv.conv2d_grad_weight(grad, x, weight.shape, **CONV_KEYWORDS)
    got = np.full_like(want, np.nan)
    assert c.call("conv2d_grad_weight", (grad, x, got), CONV, ())[0] == OK
    assert same_bits(got, want)


@each_dtype
@each_layout
def test_transposed_convolutions(c: ModuleType, dtype: type, layout: Callable[..., Any]) -> None:
    rng = np.random.default_rng(1)
    x, weight = layout(uniform(rng, (2, 4, 3, 2), dtype)), uniform(rng, (4, 1, 2, 2), dtype)
    bias = uniform(rng, (2,), dtype)
    want = fastcv.conv_transpose2d(x, weight, bias, **TRANSPOSED_KEYWORDS, activation="tanh")
    got = np.full_like(want, np.nan)
    assert c.call("conv_transpose2d", (x, weight, bias, got), (*TRANSPOSED, 5, 0), ())[0] == OK
    assert same_bits(got, want)

    grad = layout(uniform(rng, want.shape, dtype))
    want = fastcv.conv_transpose2d_grad_input(grad, weight, x.shape, **TRANSPOSED_KEYWORDS)
    got = np.full_like(want, np.nan)
    assert c.call("conv_transpose2d_grad_input", (grad, weight, got), TRANSPOSED, ())[0] == OK
    assert same_bits(got, want)
    want = fastcv.conv_transpose2d_grad_weight(grad, x, weight.shape, **TRANSPOSED_KEYWORDS)
    got = np.full_like(want, np.nan)
    assert c.call("conv_transpose2d_grad_weight", (grad, x, got), TRANSPOSED, ())[0] == OK
    assert same_bits(got, want)


def test_no_parameters_are_the_defaults_and_no_batch_is_one_image(c: ModuleType) -> None:
    rng = np.random.default_rng(2)
    x, weight = uniform(rng, (3, 5, 6), np.float32), uniform(rng, (4, 3, 3, 2), np.float32)
    want = fastcv.conv2d(x, weight)
    got = np.empty_like(want)
    assert c.call("conv2d", (x, weight, None, got), (), ())[0] == OK
    assert same_bits(got, want)


@each_dtype
@each_layout
@pytest.mark.parametrize("index_dtype", (np.int32, np.int64))
def test_pooling(c: ModuleType, dtype: type, layout: Callable[..., Any], index_dtype: type) -> None:
    rng = np.random.default_rng(3)
    x = layout(uniform(rng, (2, 3, 7, 9), dtype))
    want, indices = fastcv.max_pool2d(
        x, (3, 2), (2, 3), 1, 1, True, return_indices=True, index_dtype=index_dtype
    )
    got, at = np.full_like(want, np.nan), np.full_like(indices, -1)
    pool = (3, 2, 2, 3, 1, 1, 1, 1)
    assert c.call("max_pool2d", (x, got, at), pool, ())[0] == OK
    assert same_bits(got, want) and (at == indices).all()
    got[:] = np.nan
    assert c.call("max_pool2d", (x, got, None), pool, ())[0] == OK
    assert same_bits(got, want)

    grad = layout(uniform(rng, want.shape, dtype))
    want = fastcv.max_pool2d_grad_input(grad, indices, x.shape)
    got = np.full_like(want, np.nan)
    assert c.call("max_pool2d_grad_input", (grad, indices, got), (), ())[0] == OK
    assert same_bits(got, want)

    indices = np.minimum(indices, 41)
    want = fastcv.max_unpool2d(grad, indices, 2, output_size=(8, 8))
    got = np.full_like(want, np.nan)
    assert c.call("max_unpool2d", (grad, indices, got), (), ())[0] == OK
    assert same_bits(got, want)
    back = layout(uniform(rng, want.shape, dtype))
    want = fastcv.max_unpool2d_grad_input(back, indices)
    got = np.full_like(want, np.nan)
    assert c.call("max_unpool2d_grad_input", (back, indices, got), (), ())[0] == OK
    assert same_bits(got, want)


@each_dtype
@each_layout
def test_gram_matrices(c: ModuleType, dtype: type, layout: Callable[..., Any]) -> None:
    rng = np.random.default_rng(4)
    x = layout(uniform(rng, (2, 3, 5, 7), dtype))
    want = fastcv.gram_matrix(x, 0.3)
    got = np.full_like(want, np.nan)
    assert c.call("gram_matrix", (x, got), (), (0.3,))[0] == OK
    assert same_bits(got, want)
    grad = uniform(rng, want.shape, dtype)
    want = fastcv.gram_matrix_grad_input(grad, x, 0.3)
    got = np.full_like(want, np.nan)
    assert c.call("gram_matrix_grad_input", (grad, x, got), (), (0.3,))[0] == OK
    assert same_bits(got, want)


@each_dtype
@pytest.mark.parametrize("kind", ("plain", "mask", "boolean", "lengths"))
def test_attention(c: ModuleType, dtype: type, kind: str) -> None:
    rng = np.random.default_rng(5)
    query = strided(uniform(rng, (2, 4, 5, 6), dtype))
    key, value = uniform(rng, (2, 2, 7, 6), dtype), uniform(rng, (2, 2, 7, 3), dtype)
    mask = {
        "mask": uniform(rng, (1, 5, 7), dtype),
        "boolean": rng.random((2, 1, 1, 7)) < 0.7,
    }.get(kind)
    lengths = np.array([3, 7]) if kind == "lengths" else None
    keywords: dict[str, Any] = {
        "attn_mask": mask,
        "kv_lengths": lengths,
        "scale": 0.4,
        "softcap": 2.0,
        "window": (4, 1),
        "enable_gqa": True,
        "causal_alignment": "bottom_right",
        "dropout_p": 0.25,
        "seed": 9,
    }
    parameters = ((4, 1, 1, 9), (0.4, 2.0, 0.25))
    want = fastcv.scaled_dot_product_attention(
        query, key, value, **keywords, return_lse=True, return_weights=True
    )
    got = [np.full_like(array, np.nan) for array in want]
    arrays = (query, key, value, mask, lengths, *got)
    assert c.call("scaled_dot_product_attention", arrays, *parameters)[0] == OK
    assert all(same_bits(*pair) for pair in zip(got, want, strict=True))

    output, lse, _ = want
    grad = uniform(rng, output.shape, dtype)
    by_mask = kind == "mask"
    want = fastcv.scaled_dot_product_attention_grad(
        grad, query, key, value, output, lse, **keywords, need_mask_grad=by_mask
    )
    got = [np.full(array.shape, np.nan, dtype) for array in want]
    arrays = (grad, query, key, value, output, lse, mask, lengths, *got, *(None,) * (not by_mask))
    assert c.call("scaled_dot_product_attention_grad", arrays, *parameters)[0] == OK
    assert all(same_bits(*pair) for pair in zip(got, want, strict=True))


@each_dtype
@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 2), (4, 2), (4, 3)),
        ((1, 2, 3, 2), (2, 1, 4, 2), (2, 4, 1)),
        ((2, 3, 2), (4, 2), (4, 2)),
    ],
)
def test_attention_broadcasts(c: ModuleType, dtype: type, shapes: Any) -> None:
    rng = np.random.default_rng(9)
    query, key, value = (uniform(rng, shape, dtype) for shape in shapes)
    output, lse = fastcv.scaled_dot_product_attention(query, key, value, scale=1, return_lse=True)
    parameters = ((-1, -1, 0, 0), (1.0, 0.0, 0.0))
    got = [np.full_like(output, np.nan), np.full_like(lse, np.nan)]
    arrays = (query, key, value, None, None, *got, None)
    assert c.call(ATTENTION, arrays, *parameters)[0] == OK
    assert same_bits(got[0], output) and same_bits(got[1], lse)
    grad = uniform(rng, output.shape, dtype)
    forward = (query, key, value, output, lse)
    want = fastcv.scaled_dot_product_attention_grad(grad, *forward, scale=1)
    got = [np.full(array.shape, np.nan, dtype) for array in want]
    arrays = (grad, *forward, None, None, *got, None)
    assert c.call(f"{ATTENTION}_grad", arrays, *parameters)[0] == OK
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@each_dtype
@pytest.mark.parametrize("maximize", (0, 1))
def test_assignment(c: ModuleType, dtype: type, maximize: int) -> None:
    rng = np.random.default_rng(6)
    costs = strided(uniform(rng, (5, 8), dtype))
    rows, columns, u, v = fastcv.linear_sum_assignment(costs, bool(maximize), return_duals=True)
    got = [np.full_like(array, -1) for array in (rows, columns, u, v)]
    none = -np.inf if maximize else np.inf
    status, pairs, _ = c.call("linear_sum_assignment", (costs, *got), (maximize, 0), (none,))
    assert (status, pairs) == (OK, 5)
    assert (got[0] == rows).all() and (got[1] == columns).all()
    assert same_bits(got[2], u) and same_bits(got[3], v)

    batch = strided(uniform(rng, (3, 4, 6), dtype))
    want = fastcv.linear_sum_assignment_batch(batch, maximize=bool(maximize))
    found = np.full_like(want, -2)
    arrays = (batch, found)
    assert c.call("linear_sum_assignment_batch", arrays, (maximize, 0), (none,))[0] == OK
    assert (found == want).all()


def test_costs_that_are_refused(c: ModuleType) -> None:
    costs, rows, columns = np.ones((3, 4)), np.empty(3, np.int64), np.empty(3, np.int64)
    costs[1, 2] = np.nan
    got = c.call("linear_sum_assignment", (costs, rows, columns, None, None), (0, 0), (np.inf,))
    assert (got[0], got[2][:2]) == (BAD_COST, (1, 2))
    costs[1] = np.inf
    got = c.call("linear_sum_assignment", (costs, rows, columns, None, None), (0, 0), (np.inf,))
    assert got[0] == INFEASIBLE
    got = c.call("linear_sum_assignment", (costs, rows, columns, None, None), (0, 1), (np.inf,))
    assert got[:2] == (OK, 2)
    got = c.call("linear_sum_assignment", (costs, rows, columns, None, None), (0, 0), (np.nan,))
    assert got[0] == BAD_PARAMETER


# Refusals


F, D = np.float32, np.float64


def array(*shape: int, dtype: type = F) -> np.ndarray:
    return np.ones(shape, dtype)


PLAIN = (1, 1, 0, 0, 0, 0, 1, 1, 1)
POOL = (2, 2, 2, 2, 0, 0, 1, 1)
ATTEND = ((-1, -1, 0, 0), (1.0, 0.0, 0.0))
X, W, Y = array(2, 3, 5, 5), array(4, 3, 3, 3), array(2, 4, 3, 3)
Q, K, V, O = array(1, 2, 3, 4), array(1, 2, 5, 4), array(1, 2, 5, 6), array(1, 2, 3, 6)  # noqa: E741
P, AT = array(2, 3, 2, 2), np.zeros((2, 3, 2, 2), np.int64)

REFUSED: tuple[tuple[str, tuple[Any, ...], tuple[int, ...], tuple[float, ...], int], ...] = (
    ("conv2d", (None, W, None, Y), PLAIN, (), BAD_ARRAY),
    ("conv2d", (X, W, None, None), PLAIN, (), BAD_ARRAY),
    ("conv2d", (X[0, 0], W, None, Y), PLAIN, (), BAD_ARRAY),
    ("conv2d", (X, W.astype(D), None, Y), PLAIN, (), BAD_ARRAY),
    ("conv2d", (X.astype(np.int32), W, None, Y), PLAIN, (), BAD_ARRAY),
    ("conv2d", (X, W, array(4, dtype=D), Y), PLAIN, (), BAD_ARRAY),
    ("conv2d", (X, W, array(3), Y), PLAIN, (), BAD_SHAPE),
    ("conv2d", (X, W[:, :2], None, Y), PLAIN, (), BAD_SHAPE),
    ("conv2d", (X, W, None, Y[:1]), PLAIN, (), BAD_SHAPE),
    ("conv2d", (X, W, None, Y[0]), PLAIN, (), BAD_SHAPE),
    ("conv2d", (X, W, None, array(2, 4, 3, 4)), PLAIN, (), BAD_SHAPE),
    ("conv2d", (X, W, None, Y), (1, 1, 1, 0, 0, 0, 1, 1, 1), (), BAD_SHAPE),
    ("conv2d", (X, W, None, Y), (0, 1, 0, 0, 0, 0, 1, 1, 1), (), BAD_PARAMETER),
    ("conv2d", (X, W, None, Y), (1, 1, 0, -1, 0, 0, 1, 1, 1), (), BAD_PARAMETER),
    ("conv2d", (X, W, None, Y), (1, 1, 0, 0, 0, 0, 1, 0, 1), (), BAD_PARAMETER),
    ("conv2d", (X, W, None, Y), (1, 1, 0, 0, 0, 0, 1, 1, 0), (), BAD_PARAMETER),
    ("conv2d", (X, W, None, Y), (1, 1, 0, 0, 0, 0, 1, 1, 2), (), BAD_SHAPE),
    ("conv2d", (X, W, None, Y), (1, 1, 0, 2**61, 0, 0, 1, 1, 1), (), BAD_PARAMETER),
    ("conv2d", (X, W, None, Y), (*PLAIN, 8, 0), (), BAD_PARAMETER),
    ("conv2d", (X, W, None, Y), (*PLAIN, 0, 3), (), BAD_PARAMETER),
    ("conv2d", (X, array(4, 3, 1, 1), None, array(2, 4, 5, 5)), (*PLAIN, 0, 2), (), BAD_PARAMETER),
    ("conv2d_grad_input", (Y, W, array(2, 3, 6, 5)), PLAIN, (), BAD_SHAPE),
    ("conv2d_grad_weight", (Y, X, array(4, 3, 3, 2)), PLAIN, (), BAD_SHAPE),
    ("conv_transpose2d", (Y, W, None, array(2, 3, 6, 5)), PLAIN, (), BAD_SHAPE),
    ("conv_transpose2d", (X, W, None, Y), PLAIN, (), BAD_SHAPE),
    ("conv_transpose2d_grad_input", (array(2, 3, 6, 5), W, Y), PLAIN, (), BAD_SHAPE),
    ("conv_transpose2d_grad_weight", (X, Y, array(4, 2, 3, 3)), PLAIN, (), BAD_SHAPE),
    ("max_pool2d", (array(2, 3, 4, 4), P, None), (), (), BAD_PARAMETER),
    ("max_pool2d", (array(2, 3, 4, 4), P, None), (2, 2, 2, 2, 2, 0, 1, 1), (), BAD_PARAMETER),
    ("max_pool2d", (array(2, 3, 7, 4), P, None), POOL, (), BAD_SHAPE),
    ("max_pool2d", (array(2, 3, 4, 4), P[..., ::-1], None), POOL, (), BAD_ARRAY),
    ("max_pool2d", (array(2, 3, 4, 4), P, AT.astype(F)), POOL, (), BAD_ARRAY),
    ("max_pool2d", (array(2, 3, 4, 4), P, channels_last(AT)), POOL, (), BAD_ARRAY),
    ("max_pool2d_grad_input", (P, AT[..., :1], array(2, 3, 4, 4)), (), (), BAD_SHAPE),
    ("max_pool2d_grad_input", (P, AT + 16, array(2, 3, 4, 4)), (), (), BAD_INDEX),
    ("max_unpool2d", (P, AT, array(2, 3, 4, 4)[..., ::-1]), (), (), BAD_ARRAY),
    ("max_unpool2d", (P, AT - 1, array(2, 3, 4, 4)), (), (), BAD_INDEX),
    ("max_unpool2d_grad_input", (array(2, 2, 4, 4), AT, P), (), (), BAD_SHAPE),
    ("gram_matrix", (X, array(2, 3, 4)), (), (1.0,), BAD_SHAPE),
    ("gram_matrix", (X, array(3, 3)), (), (1.0,), BAD_SHAPE),
    ("gram_matrix", (X, array(2, 3, 3)[..., ::-1]), (), (1.0,), BAD_ARRAY),
    ("gram_matrix_grad_input", (array(2, 3, 3), X, X[:, :, ::-1]), (), (1.0,), BAD_ARRAY),
    (ATTENTION, (Q, K, V, None, None, None, None, None), *ATTEND, BAD_ARRAY),
    (ATTENTION, (Q, K[..., :3], V, None, None, O, None, None), *ATTEND, BAD_SHAPE),
    (ATTENTION, (Q, K, V[:, :, :4], None, None, O, None, None), *ATTEND, BAD_SHAPE),
    (ATTENTION, (Q, K, V, None, None, O[..., :5], None, None), *ATTEND, BAD_SHAPE),
    (ATTENTION, (Q, K, V, None, None, O[..., ::-1], None, None), *ATTEND, BAD_ARRAY),
    (ATTENTION, (Q, K, V, array(4, 5), None, O, None, None), *ATTEND, BAD_SHAPE),
    (ATTENTION, (Q, K, V, array(3, 5, dtype=D), None, O, None, None), *ATTEND, BAD_ARRAY),
    (ATTENTION, (Q, K, V, None, np.array([6]), O, None, None), *ATTEND, BAD_PARAMETER),
    (ATTENTION, (Q, K, V, None, np.array([1, 1]), O, None, None), *ATTEND, BAD_SHAPE),
    (ATTENTION, (Q, K, V, None, None, O, None, None), (-2, 0, 0, 0), ATTEND[1], BAD_PARAMETER),
    (ATTENTION, (Q, K, V, None, None, O, None, None), ATTEND[0], (1.0, 0.0, 1.5), BAD_PARAMETER),
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_is_refused_writes_nothing(c: ModuleType, number: int) -> None:
    name, arrays, integers, numbers, status = REFUSED[number]
    arrays = tuple(None if given is None else given.copy() if given.flags.c_contiguous else given
                   for given in arrays)  # fmt: skip
    before = [None if given is None else given.copy() for given in arrays]
    assert c.call(name, arrays, integers, numbers)[0] == status
    for given, copy in zip(arrays, before, strict=True):
        # What is wrong inside an array is found on the way.
        assert given is None or status == BAD_INDEX or (given == copy).all()
    assert "unknown" not in c.status_text(status)


def test_accepts_what_python_accepts(c: ModuleType) -> None:
    rng = np.random.default_rng(7)
    accepted = 0
    for _ in range(2000):
        groups = int(rng.integers(1, 3))
        channels, filters = (groups * rng.integers(1, 3, 2)).tolist()
        height, width, taps_y, taps_x, *rest = rng.integers(1, 5, 8).tolist()
        stride, dilation = rest[:2], rest[2:]
        pads = rng.integers(0, 3, 4).tolist()
        x = array(1, channels, height, width)
        weight = array(filters, channels // groups, taps_y, taps_x)
        keywords: dict[str, Any] = {
            "stride": tuple(stride), "dilation": tuple(dilation), "groups": groups,
            "padding": (tuple(pads[:2]), tuple(pads[2:])),
        }  # fmt: skip
        try:
            want: tuple[int, ...] = fastcv.conv2d(x, weight, **keywords).shape
        except ValueError:
            want = ()
        guess = (1, filters, *rng.integers(1, 5, 2).tolist())
        shape = want if want and rng.random() < 0.5 else guess
        arrays = (x, weight, None, array(*shape))
        status = c.call("conv2d", arrays, (*stride, *pads, *dilation, groups), ())[0]
        assert (status == OK) == (shape == want), (x.shape, weight.shape, keywords, shape)
        accepted += status == OK
    assert accepted > 100


# Cython


def functions_of_the_header() -> set[str]:
    table = (
        HEADER.read_text().partition("typedef struct fastcv_api {")[2].partition("} fastcv_api;")
    )
    return set(re.findall(r"\(\*(\w+)\)\(", table[0]))


def test_header_and_cython_list_the_same() -> None:
    ops = pytest.importorskip("fastcv.capi.ops")
    assert set(ops.__pyx_capi__) == functions_of_the_header()
    listed = re.findall(r"^cdef .*?(\w+)\(", HEADER.with_name("ops.pxd").read_text(), re.MULTILINE)
    assert set(listed) == functions_of_the_header()


@pytest.mark.skipif(SANITIZED, reason="the compiler would run under the sanitizer")
def test_example_in_cython(tmp_path: Path) -> None:
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    pytest.importorskip("fastcv.capi.ops")
    for file in (HERE.parent / "examples" / "cython").iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    path = os.pathsep.join((str(Path(fastcv.__file__).parents[1]), *sys.path))
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (built,) = tmp_path.glob("contours*.so")
    contours = load(built).contours
    rng = np.random.default_rng(8)
    for dtype in (np.float32, np.float64):
        images = channels_last(uniform(rng, (2, 3, 9, 11), dtype))
        windows = uniform(rng, (2, 3, 3, 3), dtype)
        want = (fastcv.conv2d(images, windows, padding=1) ** 2).sum(1)
        np.testing.assert_allclose(contours(images, windows), want, rtol=1e-5)
    with pytest.raises(ValueError, match="shapes do not fit"):
        contours(images, windows[:, :2])


def test_older_fastcv_is_refused(tmp_path: Path) -> None:
    text = HEADER.read_text()
    (version,) = re.findall(r"#define FASTCV_API_VERSION (\d+)", text)
    newer = text.replace(f"FASTCV_API_VERSION {version}", f"FASTCV_API_VERSION {int(version) + 1}")
    assert newer != text
    (tmp_path / "fastcv.h").write_text(newer)
    module = built(tmp_path, str(tmp_path))
    with pytest.raises(ImportError, match=f"needs version {int(version) + 1} .* has {version}"):
        load(module)
