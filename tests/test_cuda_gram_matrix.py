"""The Gram matrices' CUDA kernels, run thread by thread on the CPU, against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import uniform
from closeness import assert_close, corruptions, rms, same_bits
from cuda_emulated import (
    ALIGNED,
    ORDERS,
    Emulated,
    from_bfloat16,
    on_fibers,
    placed,
    to_bfloat16,
)
from shared import each_dtype
from test_gram_matrix import bound_of, grad_bound_of

from fastcv import reference
from fastcv.cuda import _gram_matrix

pytestmark = [on_fibers, pytest.mark.usefixtures("kernels")]

DEVICE = Emulated()


def images(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images, and gradients of their Gram matrices."""
    rng = np.random.default_rng(seed)
    return uniform(rng, shape, dtype), uniform(rng, (*shape[:-2], shape[-3]), dtype)


def check(x: np.ndarray, grad: np.ndarray) -> None:
    got = _gram_matrix.gram_matrix(DEVICE, x, 1)
    assert got.dtype == x.dtype and got.flags.c_contiguous
    assert same_bits(got, np.ascontiguousarray(got.swapaxes(-1, -2)))
    assert_close(got, reference.gram_matrix(x, 1), bound_of(x), x.shape)
    got = _gram_matrix.gram_matrix_grad_input(DEVICE, grad, x, 1)
    assert got.dtype == x.dtype
    want = reference.gram_matrix_grad_input(grad, x, 1)
    assert_close(got, want, grad_bound_of(x, grad), x.shape)


@each_dtype
@pytest.mark.parametrize(
    "shape",
    [
        (2, 1, 1, 1),
        (3, 5, 4),
        (2, 15, 3, 5),
        (1, 16, 4, 4),
        (1, 17, 5, 4),
        (2, 63, 2, 3),
        (1, 65, 7, 3),
        (1, 130, 3, 3),
        # Parts of 1024 pixels.
        (2, 3, 32, 32),
        (1, 3, 25, 41),
        (1, 34, 33, 64),
    ],
    ids=str,
)
def test_shapes(shape: tuple[int, ...], dtype: Any) -> None:
    check(*images(shape, dtype))


def test_more_than_64_parts_of_1024_pixels() -> None:
    check(*images((1, 2, 300, 230), np.float32))


@each_dtype
@pytest.mark.parametrize("layout", ALIGNED)
def test_layouts(layout: str, dtype: Any) -> None:
    x, grad = images((2, 18, 7, 9), dtype)
    check(placed(x, layout), placed(grad, layout))
    check(placed(x[0], layout), placed(grad[0], layout))


def test_channels_last_results() -> None:
    x, grad = images((2, 67, 5, 14), np.float32)
    x = placed(x, "channels_last")
    got = _gram_matrix.gram_matrix_grad_input(DEVICE, grad, x)
    assert got.transpose(0, 2, 3, 1).flags.c_contiguous
    want = reference.gram_matrix_grad_input(grad, x)
    assert_close(got, want, grad_bound_of(x, grad) / x[0].size)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_two_bytes(kind: str) -> None:
    """Sums are float32, and rounded once."""
    x, grad = images((2, 19, 40, 27), np.float32)
    if kind == "float16":
        x, grad = x.astype(np.float16), grad.astype(np.float16)
        wide_x, wide_grad, eps = x.astype(np.float32), grad.astype(np.float32), 2.0**-11
    else:
        x, grad = to_bfloat16(x), to_bfloat16(grad)
        wide_x, wide_grad, eps = from_bfloat16(x), from_bfloat16(grad), 2.0**-8
    calls = (
        (_gram_matrix.gram_matrix(DEVICE, x), reference.gram_matrix(wide_x), bound_of(wide_x)),
        (
            _gram_matrix.gram_matrix_grad_input(DEVICE, grad, x),
            reference.gram_matrix_grad_input(wide_grad, wide_x),
            grad_bound_of(wide_x, wide_grad),
        ),
    )
    for got, want, bound in calls:
        assert got.dtype == x.dtype
        found = from_bfloat16(got) if kind == "bfloat16" else got
        # Half a unit in the last place; float16 has fixed ones below 2**-14.
        unit = eps * float(np.abs(want).max()) + 2.0**-25
        assert_close(found, want, unit + bound / wide_x[0].size, kind)


def test_scale() -> None:
    x, grad = images((2, 4, 5, 6), np.float64)
    for scale in (None, 0.25, -3.0, 0):
        got = _gram_matrix.gram_matrix(DEVICE, x, scale)
        np.testing.assert_allclose(got, reference.gram_matrix(x, scale), rtol=0, atol=1e-13)
        got = _gram_matrix.gram_matrix_grad_input(DEVICE, grad, x, scale)
        want = reference.gram_matrix_grad_input(grad, x, scale)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0)], ids=str)
def test_nothing(shape: tuple[int, ...]) -> None:
    x, grad = images(shape, np.float32)
    got = _gram_matrix.gram_matrix(DEVICE, x)
    assert got.shape == grad.shape and not got.any()
    assert _gram_matrix.gram_matrix_grad_input(DEVICE, grad, x).shape == shape


def test_not_finite() -> None:
    """A channel with a NaN or infinity spoils its own products alone."""
    x, _ = images((1, 20, 5, 5), np.float32)
    x[0, 3, 2, 2], x[0, 17, 0, 0] = np.nan, np.inf
    got = _gram_matrix.gram_matrix(DEVICE, x, 1)[0]
    assert np.isnan(got[3]).all() and np.isnan(got[:, 3]).all()
    rest = np.delete(np.arange(20), 3)
    assert np.isinf(got[17, rest]).all()
    clean = np.delete(np.arange(20), [3, 17])
    assert np.isfinite(got[np.ix_(clean, clean)]).all()


def test_orders_of_threads_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    x, grad = images((2, 37, 35, 33), np.float32)
    results = []
    for order in ORDERS:
        monkeypatch.setenv("FASTCV_CUDA_EMULATION_ORDER", order)
        gram = _gram_matrix.gram_matrix(DEVICE, x)
        results.append((gram, _gram_matrix.gram_matrix_grad_input(DEVICE, grad, x)))
    for one in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(one, results[0], strict=True))
    # Nor do the other images.
    alone = _gram_matrix.gram_matrix(DEVICE, x[1:])
    assert same_bits(alone[0], results[0][0][1])


def test_the_comparison_can_fail() -> None:
    x, _ = images((1, 8, 5, 6), np.float32)
    got, want = _gram_matrix.gram_matrix(DEVICE, x, 1), reference.gram_matrix(x, 1)
    for wrong in corruptions(got):
        with pytest.raises(AssertionError):
            assert_close(wrong, want, bound_of(x))
    assert rms(want) > 0


def test_what_is_refused() -> None:
    x, grad = images((2, 3, 4, 4), np.float32)
    forward, gradient = _gram_matrix.gram_matrix, _gram_matrix.gram_matrix_grad_input
    with pytest.raises(TypeError, match=r"^gram_matrix: input.dtype must be float32, .* got int64"):
        forward(DEVICE, x.astype(np.int64))
    with pytest.raises(ValueError, match=r"^gram_matrix: input.shape must have 4 axes"):
        forward(DEVICE, x[0, 0])
    with pytest.raises(TypeError, match=r"input.dtype must be float64, got float32"):
        gradient(DEVICE, grad.astype(np.float64), x)
    with pytest.raises(ValueError, match=r"^gram_matrix_grad_input: grad_output.shape must equal"):
        gradient(DEVICE, grad[:1], x)
    with pytest.raises(TypeError, match=r"^gram_matrix: scale must be"):
        forward(DEVICE, x, "1")
    device = Emulated()
    device.on_second.append(x)
    with pytest.raises(ValueError, match=r"input must be on the device of grad_output"):
        gradient(device, grad, x)
