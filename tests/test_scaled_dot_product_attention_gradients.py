"""scaled_dot_product_attention_grad: the reference, finite differences, torch, and the promises."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import uniform
from cases.scaled_dot_product_attention import CASES, Case
from closeness import assert_close, corruptions, rms, same_bits
from layouts import LAYOUTS, guarded, read_only
from shared import each_dtype
from test_scaled_dot_product_attention import OPTIONS, made, mask_of

from fastcv import reference, scaled_dot_product_attention, scaled_dot_product_attention_grad

attend = scaled_dot_product_attention


def gradients(
    grad: np.ndarray, query: Any, key: Any, value: Any, mask: Any = None, **options: Any
) -> tuple[np.ndarray, ...]:
    """Forward, then backward."""
    need_mask_grad = options.pop("need_mask_grad", False)
    output, lse = attend(query, key, value, mask, **options, return_lse=True)
    return scaled_dot_product_attention_grad(
        grad, query, key, value, output, lse, mask, **options, need_mask_grad=need_mask_grad
    )


def bounds(arrays: Any, want: Any) -> list[float]:
    """How far each gradient may be off: weights and slopes carry the scores' relative errors."""
    eps = float(np.finfo(arrays[0].dtype).eps)
    sizes = [rms(a) for a in arrays]
    columns, keys = arrays[1].shape[-1], arrays[2].shape[-2]
    scores = sizes[1] * sizes[2] * max(1, columns) ** 0.5
    largest = [2 * rms(w) for w in want]
    slopes = sizes[0] * sizes[3] * max(1, arrays[3].shape[-1]) ** 0.5
    factors = [slopes * sizes[2], slopes * sizes[1], sizes[0], slopes]
    # What each element sums: slopes, each a difference of two products, which may cancel.
    all_scores = np.prod(arrays[1].shape[:-1]) * keys
    summed = [keys] + [all_scores / max(1, keys * np.prod(arrays[2].shape[:-2]))] * 2
    summed += [all_scores / max(1, w.size) for w in want[3:]]
    return [
        eps * (32 + 8 * scores + 2 * max(1, terms) ** 0.5) * (one + other)
        for one, other, terms in zip(largest, factors, summed, strict=False)
    ]


def check(
    grad: np.ndarray, query: Any, key: Any, value: Any, mask: Any = None, **options: Any
) -> None:
    need = mask is not None and mask.dtype != bool
    options["need_mask_grad"] = need
    want = reference.scaled_dot_product_attention_grad(
        grad, query, key, value, query, query, mask, **options
    )
    got = gradients(grad, query, key, value, mask, **options)
    label = f"{query.shape} {key.shape} {value.shape} {options}"
    assert len(got) == len(want) == 3 + need
    names = ("query", "key", "value", "mask")
    for name, one, other, bound in zip(
        names, got, want, bounds((grad, query, key, value), want), strict=False
    ):
        assert one.dtype == query.dtype and one.flags.c_contiguous
        assert_close(one, other, bound, f"grad_{name} {label}")
    if need:
        options["need_mask_grad"] = False
        alone = gradients(grad, query, key, value, mask, **options)
        assert all(same_bits(a, b) for a, b in zip(alone, got, strict=False))


@each_dtype
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_case(case: Case, dtype: type) -> None:
    case = case.reduced()
    query, key, value, mask = case.arrays(dtype)
    grad = uniform(np.random.default_rng(1), case.output_shape, dtype)
    check(grad, query, key, value, mask, **case.options)


@each_dtype
@pytest.mark.parametrize("mask", OPTIONS["mask"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kv_lengths", [False, True])
def test_options(mask: str | None, is_causal: bool, kv_lengths: bool, dtype: type) -> None:
    rng = np.random.default_rng(1)
    rest = [OPTIONS[name] for name in ("causal_alignment", "softcap", "window", "dropout_p")]
    for alignment, softcap, window, dropout in itertools.product(*rest):
        for queries, keys, columns, values in ((9, 21, 5, 3), (19, 11, 16, 33)):
            query, key, value, grad = made(
                rng,
                (2, 3, queries, columns),
                (2, 3, keys, columns),
                (2, 3, keys, values),
                (2, 3, queries, values),
                dtype=dtype,
                size=1,
            )
            options: dict[str, Any] = {
                "is_causal": is_causal,
                "causal_alignment": alignment,
                "softcap": softcap,
                "window": window,
                "dropout_p": dropout,
                "seed": 11,
            }
            if kv_lengths:
                options["kv_lengths"] = rng.integers(0, keys + 1, 2)
            full = (2, 3, queries, keys)
            check(grad, query, key, value, mask_of(rng, mask, full, dtype), **options)


@each_dtype
def test_sizes(dtype: type) -> None:
    rng = np.random.default_rng(2)
    for size in (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130, 300):
        for queries, keys, columns, values in (
            (size, 5, 4, 3),
            (5, size, 4, 3),
            (5, 6, size, 3),
            (5, 6, 4, size),
            (size, size, size, size),
        ):
            arrays = made(
                rng,
                (2, queries, values),
                (2, queries, columns),
                (2, keys, columns),
                (2, keys, values),
                dtype=dtype,
                size=1,
            )
            check(*arrays)
            check(*arrays, is_causal=True)


@each_dtype
@pytest.mark.parametrize("group", [1, 2, 5])
def test_grouped_heads(group: int, dtype: type) -> None:
    rng = np.random.default_rng(3)
    query, key, value, grad = made(
        rng, (2, 3 * group, 70, 8), (2, 3, 30, 8), (2, 3, 30, 6), (2, 3 * group, 70, 6), dtype=dtype
    )
    for kind in OPTIONS["mask"]:
        mask = mask_of(rng, kind, (2, 3 * group, 70, 30), dtype)
        check(grad, query, key, value, mask, enable_gqa=True)


def test_axes_before_the_heads() -> None:
    rng = np.random.default_rng(4)
    query, key, value, mask, grad = made(
        rng, (3, 2, 4, 5, 6), (2, 1, 7, 6), (3, 1, 4, 7, 2), (2, 1, 1, 7), (3, 2, 4, 5, 2)
    )
    check(grad, query, key, value, mask)
    check(grad[0, 0, 0], query[0, 0, 0], key[0, 0], value[0, 0, 0])
    check(grad[0, 0], query[0, 0], key[0], value[0, 0], mask[0])


@pytest.mark.parametrize(
    "shape", [(1,), (90,), (70, 1), (70, 90), (4, 1, 1), (3, 1, 1, 1), (4, 70, 90)]
)
def test_gradient_of_a_mask_that_broadcasts(
    shape: tuple[int, ...], threads: Callable[[int], None]
) -> None:
    rng = np.random.default_rng(5)
    arrays = made(rng, (3, 4, 70, 5), (3, 4, 70, 8), (3, 4, 90, 8), (3, 4, 90, 5), size=1)
    mask = uniform(rng, shape, np.float32)
    check(*arrays, mask)
    threads(1)
    want = gradients(*arrays, mask, need_mask_grad=True)
    for number in (2, 5):
        threads(number)
        for _ in range(5):
            got = gradients(*arrays, mask, need_mask_grad=True)
            assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))


@each_dtype
def test_keys_beyond_whole_vectors(dtype: type) -> None:
    rng = np.random.default_rng(20)
    for keys in (1, 2, 15, 16, 17, 18, 33, 49, 50, 67, 77, 257):
        arrays = made(rng, *[(1, 2, n, 32) for n in (9, 9, keys, keys)], (9, keys), dtype=dtype)
        check(*arrays)
        check(*arrays, kv_lengths=np.array([max(1, keys - 1)]))
        check(*arrays, window=(3, 2))


def test_a_mask_of_many_windows(threads: Callable[[int], None]) -> None:
    # Windows share it, by themselves, by heads too, or by some of their axes.
    rng = np.random.default_rng(22)
    for samples, heads, shape in (
        ((37,), 2, (2, 10, 17)),
        ((37,), 2, (10, 17)),
        ((6, 6), 3, (3, 10, 17)),
        ((6, 6), 3, (6, 3, 10, 17)),
        ((37,), 2, (2, 1, 17)),
        ((37,), 2, (2, 10, 1)),
    ):
        sizes = [(*samples, heads, n, 16) for n in (10, 10, 17, 17)]
        arrays = made(rng, *sizes, shape)
        check(*arrays)
        threads(1)
        want = gradients(*arrays, need_mask_grad=True)
        for number in (2, 5):
            threads(number)
            got = gradients(*arrays, need_mask_grad=True)
            assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))


def test_every_layout() -> None:
    rng = np.random.default_rng(6)
    arrays = made(rng, (2, 3, 10, 18), (2, 3, 10, 20), (2, 3, 37, 20), (2, 3, 37, 18), size=1)
    mask = uniform(rng, (2, 3, 10, 37), np.float32)
    output, lse = attend(*arrays[1:], mask, return_lse=True)
    want = scaled_dot_product_attention_grad(*arrays, output, lse, mask, need_mask_grad=True)
    for layout in LAYOUTS.values():
        everything = (*arrays, output, lse, mask)
        placed = [read_only(layout(a.shape, a.dtype).filled(a)) for a in everything]
        got = scaled_dot_product_attention_grad(*placed, need_mask_grad=True)
        for one, other in zip(got, want, strict=True):
            assert_close(one, other.astype(np.float64), 1e-6 * rms(other) + 1e-6)


@pytest.mark.parametrize("at_end", [False, True])
def test_nothing_is_read_beyond_the_arrays(at_end: bool) -> None:
    rng = np.random.default_rng(7)
    for keys, columns in ((1, 1), (17, 5), (33, 16), (20, 40)):
        shapes = (
            (1, 2, 9, columns),
            (1, 2, 9, columns),
            (1, 2, keys, columns),
            (1, 2, keys, columns),
            (2, 9, keys),
        )
        arrays = []
        for shape in shapes:
            array = guarded(shape, np.float32, at_end=at_end)
            array[...] = uniform(rng, shape, np.float32)
            arrays.append(array)
        check(*arrays)


@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_finite_differences(softcap: float, dropout: float) -> None:
    rng = np.random.default_rng(8)
    arrays = made(rng, (2, 5, 4), (2, 7, 4), (2, 7, 3), (5, 7), dtype=np.float64, size=1)
    grad = uniform(rng, (2, 5, 3), np.float64)
    options: dict[str, Any] = {
        "softcap": softcap,
        "dropout_p": dropout,
        "seed": 3,
        "is_causal": True,
        "causal_alignment": "bottom_right",
        "window": (4, 0),
    }
    got = gradients(grad, *arrays, need_mask_grad=True, **options)
    step = 1e-6
    for position, analytic in enumerate(got):
        numeric = np.zeros_like(analytic)
        for index in np.ndindex(analytic.shape):
            ends = []
            for sign in (1, -1):
                moved = [a.copy() for a in arrays]
                moved[position][index] += sign * step
                ends.append((attend(*moved, **options) * grad).sum())
            numeric[index] = (ends[0] - ends[1]) / (2 * step)
        assert_close(analytic, numeric, 1e-8)


def test_against_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(9)
    arrays = made(rng, (2, 3, 40, 16), (2, 3, 50, 16), (2, 3, 50, 16), (3, 40, 50), size=1)
    grad = uniform(rng, (2, 3, 40, 16), np.float32)
    tensors = [torch.from_numpy(a).requires_grad_() for a in arrays]
    output = torch.nn.functional.scaled_dot_product_attention(*tensors[:3], tensors[3])
    want = torch.autograd.grad(output, tensors, torch.from_numpy(grad))
    got = gradients(grad, *arrays, need_mask_grad=True)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=2e-4, atol=2e-5)


def test_hidden_rows_have_zero_gradients() -> None:
    rng = np.random.default_rng(10)
    grad, query, key, value = made(rng, (1, 2, 20, 6), (1, 2, 20, 8), (1, 2, 30, 8), (1, 2, 30, 6))
    visible = rng.random((1, 2, 20, 30)) < 0.5
    visible[0, 0, 3] = visible[0, 1, 8:17] = visible[0, 1, :, 4] = False
    additive = np.where(visible, 0, -np.inf).astype(np.float32)
    for mask in (visible, additive):
        got = gradients(grad, query, key, value, mask, need_mask_grad=mask is additive)
        assert (got[0][~visible.any(axis=-1)] == 0).all()
        assert (got[1][0, 1, 4] == 0).all() and (got[2][0, 1, 4] == 0).all()
        check(grad, query, key, value, mask)
        if mask is additive:
            assert (got[3][~visible] == 0).all()
    got = gradients(grad, query, key, value, kv_lengths=np.array([0]))
    assert all((g == 0).all() for g in got)


def test_hidden_keys_take_no_part() -> None:
    rng = np.random.default_rng(11)
    grad, query, key, value = made(
        rng, (2, 2, 9, 16), (2, 2, 9, 16), (2, 2, 40, 16), (2, 2, 40, 16)
    )
    lengths = np.array([17, 3])
    want = gradients(grad, query, key, value, kv_lengths=lengths)
    for array in (key, value):
        array[np.broadcast_to((np.arange(40) >= lengths[:, None])[:, None], (2, 2, 40))] = np.nan
    got = gradients(grad, query, key, value, kv_lengths=lengths)
    assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))


@each_dtype
@pytest.mark.parametrize("queries", [1, 2, 3])
def test_few_queries(queries: int, dtype: type) -> None:
    rng = np.random.default_rng(15)
    options: list[dict[str, Any]] = [
        {},
        {"is_causal": True, "causal_alignment": "bottom_right", "window": (300, 0)},
        {"kv_lengths": np.array([270, 0])},
        {"softcap": 2.0, "dropout_p": 0.3, "seed": 5},
    ]
    for heads, keys in ((2, 5), (1, 256), (2, 530)):
        arrays = made(
            rng,
            (2, 2, queries, 16),
            (2, 2, queries, 32),
            (2, heads, keys, 32),
            (2, heads, keys, 16),
            (queries, keys),
            dtype=dtype,
            size=1,
        )
        for chosen in options:
            if "kv_lengths" in chosen and keys < 270:
                continue
            check(*arrays, **chosen, enable_gqa=heads == 1)
            check(*arrays[:4], **chosen, enable_gqa=heads == 1)


def test_hidden_keys_change_no_bit_for_few_queries() -> None:
    rng = np.random.default_rng(16)
    shapes = (1, 2, 2, 32), (1, 2, 2, 32), (1, 2, 700, 32), (1, 2, 700, 32)
    grad, query, key, value = made(rng, *shapes, size=1)
    want = gradients(grad, query, key[:, :, :300], value[:, :, :300])
    got = gradients(grad, query, key, value, kv_lengths=np.array([300]))
    assert same_bits(got[0], want[0])
    for one, other in zip(got[1:], want[1:], strict=True):
        assert same_bits(np.ascontiguousarray(one[:, :, :300]), other)
        assert (one[:, :, 300:] == 0).all()


def test_the_same_bits(threads: Callable[[int], None]) -> None:
    rng = np.random.default_rng(14)
    for samples, heads, queries, keys in (
        (3, 4, 50, 70),
        (1, 1, 300, 600),
        (1, 1, 700, 130),
        (2, 2, 1, 900),
    ):
        arrays = made(
            rng,
            (samples, heads, queries, 32),
            (samples, heads, queries, 32),
            (samples, heads, keys, 32),
            (samples, heads, keys, 32),
            size=1,
        )
        for options in ({}, {"is_causal": True}):
            threads(1)
            want = gradients(*arrays, **options)
            for number in (2, 7):
                threads(number)
                for _ in range(3):
                    got = gradients(*arrays, **options)
                    assert all(same_bits(a, b) for a, b in zip(got, want, strict=True))
            alone = gradients(*(a[-1:] for a in arrays), **options)
            assert all(same_bits(a, b[-1:].copy()) for a, b in zip(alone, want, strict=True))


def test_nan_comes_through() -> None:
    rng = np.random.default_rng(15)
    arrays = made(rng, (1, 1, 12, 16), (1, 1, 12, 16), (1, 1, 20, 16), (1, 1, 20, 16), size=1)
    for position in range(4):
        bad = [a.copy() for a in arrays]
        bad[position][0, 0, 5, 3] = np.nan
        got = gradients(*bad)
        assert np.isnan(got[0][0, 0, 5]).all() and np.isnan(got[1]).any()


def test_corrupted_results_are_refused() -> None:
    rng = np.random.default_rng(16)
    arrays = made(rng, (1, 2, 60, 16), (1, 2, 60, 16), (1, 2, 80, 16), (1, 2, 80, 16), size=1)
    want = reference.scaled_dot_product_attention_grad(*arrays, arrays[1], arrays[1])
    got = gradients(*arrays)
    for one, other, bound in zip(got, want, bounds(arrays, want), strict=False):
        assert_close(one, other, bound)
        for wrong in corruptions(one):
            with pytest.raises(AssertionError):
                assert_close(wrong, other, bound)
