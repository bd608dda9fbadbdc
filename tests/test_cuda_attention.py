"""Attention's CUDA kernels, run thread by thread on the CPU, against the reference."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
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
from test_scaled_dot_product_attention import OPTIONS, bound_of, made, mask_of
from test_scaled_dot_product_attention_gradients import bounds

import fastcv
from fastcv import reference
from fastcv.cuda import _attention

pytestmark = [on_fibers, pytest.mark.usefixtures("kernels")]

DEVICE = Emulated()


def attend(*arrays: Any, **options: Any) -> Any:
    return _attention.scaled_dot_product_attention(DEVICE, *arrays, **options)


def gradients(*arrays: Any, **options: Any) -> Any:
    return _attention.scaled_dot_product_attention_grad(DEVICE, *arrays, **options)


def check(query: Any, key: Any, value: Any, mask: Any = None, **options: Any) -> tuple[Any, ...]:
    """Every result against the reference, the gradients for a random one of the output."""
    arrays = (query, key, value, mask)
    everything = {**options, "return_lse": True, "return_weights": True}
    want = reference.scaled_dot_product_attention(*arrays, **everything)
    got = attend(*arrays, **everything)
    label = f"{query.shape} {key.shape} {value.shape} {options}"
    bound, of_one = (
        bound_of(query, key, value, mask),
        bound_of(query, key, np.ones(1, query.dtype), mask),
    )
    if options.get("dropout_p"):
        bound *= 1 / max(1 - options["dropout_p"], 0.1)
    assert_close(got[0], want[0], bound, label)
    finite = np.isfinite(want[1])
    assert (got[1][~finite] == want[1][~finite]).all(), label
    assert_close(got[1][finite], want[1][finite], of_one, f"lse {label}")
    assert_close(got[2], want[2], max(bound, of_one), f"weights {label}")
    assert all(array.dtype == query.dtype and array.flags.c_contiguous for array in got)
    assert same_bits(attend(*arrays, **options), got[0])

    rng = np.random.default_rng(7)
    (grad,) = made(rng, got[0].shape, dtype=query.dtype, size=1)
    options["need_mask_grad"] = need = mask is not None and mask.dtype != bool
    found = gradients(grad, query, key, value, *got[:2], mask, **options)
    want = reference.scaled_dot_product_attention_grad(
        grad, query, key, value, *got[:2], mask, **options
    )
    assert len(found) == len(want) == 3 + need
    limits = bounds((grad, query, key, value), want)
    names = ("query", "key", "value", "mask")
    for name, one, other, limit in zip(names, found, want, limits, strict=False):
        assert one.dtype == query.dtype and one.flags.c_contiguous
        assert_close(one, other, limit, f"grad_{name} {label}")
    return (*got, *found)


# Against the reference


COMBINATIONS = list(
    itertools.product(
        *(
            OPTIONS[name]
            for name in ("causal_alignment", "softcap", "window", "dropout_p", "kv_lengths")
        )
    )
)


@pytest.mark.parametrize("mask", OPTIONS["mask"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_options(mask: str | None, is_causal: bool, request: pytest.FixtureRequest) -> None:
    """A few combinations a mask, others for each order of threads: each of them somewhere."""
    order = ORDERS.index(request.node.callspec.params["kernels"])
    first = (OPTIONS["mask"].index(mask) * 2 + is_causal) * 3 + order
    for i, combination in enumerate(COMBINATIONS[first % 16 :: 16]):
        alignment, softcap, window, dropout, with_lengths = combination
        rng = np.random.default_rng(first * 3 + i)
        dtype = (np.float32, np.float64)[i % 2]
        queries, keys, columns, values = ((9, 21, 5, 3), (19, 11, 16, 33))[(first + i) % 2]
        shapes = ((2, 2, queries, columns), (2, 2, keys, columns), (2, 2, keys, values))
        options: dict[str, Any] = {
            "is_causal": is_causal,
            "causal_alignment": alignment,
            "softcap": softcap,
            "window": window,
            "dropout_p": dropout,
            "seed": 2**63 + 5,
        }
        if with_lengths:
            options["kv_lengths"] = rng.integers(0, keys + 1, 2)
        full = (2, 2, queries, keys)
        arrays = made(rng, *shapes, dtype=dtype, size=1)
        check(*arrays, mask_of(rng, mask, full, dtype), **options)


@each_dtype
def test_sizes(dtype: Any) -> None:
    rng = np.random.default_rng(2)
    for size in (0, 1, 16, 31, 33, 65):
        for queries, keys, columns, values in (
            (size, 5, 4, 3),
            (5, size, 4, 3),
            (5, 6, size, 3),
            (5, 6, 4, size),
        ):
            shapes = ((1, queries, columns), (1, keys, columns), (1, keys, values))
            check(*made(rng, *shapes, dtype=dtype, size=1), is_causal=True)


@each_dtype
@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"window": (20, 3)}], ids=str)
def test_several_tiles(options: dict[str, Any], dtype: Any) -> None:
    """Of rows, keys, and columns beyond those of a block."""
    rng = np.random.default_rng(3)
    arrays = made(rng, (1, 131, 34), (1, 147, 34), (1, 147, 140), dtype=dtype, size=1)
    mask = mask_of(rng, "head", (1, 1, 131, 147), dtype)
    check(*arrays, mask, causal_alignment="bottom_right", dropout_p=0.2, seed=9, **options)


@pytest.mark.parametrize(
    ("tokens", "keys", "columns"),
    [(49, 49, 32), (144, 144, 32), (144, 130, 33), (70, 20, 60), (20, 70, 60), (145, 9, 5)],
    ids=str,
)
def test_windows_of_an_image(tokens: int, keys: int, columns: int) -> None:
    """A bias that all windows of a head share, and its gradient."""
    rng = np.random.default_rng(4)
    shape = (2, 1, tokens, columns)
    shapes = ((2, 1, keys, columns), (2, 1, keys, min(columns, 33)))
    arrays = made(rng, shape, *shapes, size=1)
    (bias,) = made(rng, (tokens, keys))
    check(*arrays, bias)


@each_dtype
@pytest.mark.parametrize(("tokens", "columns"), [(5, 3), (33, 3), (70, 3), (5, 65)], ids=str)
def test_many_windows_in_parts(tokens: int, columns: int, dtype: Any) -> None:
    """The bias's gradient is a sum over 9 windows, in parts of 3 of them."""
    rng = np.random.default_rng(5)
    shapes = ((9, 1, 4, columns), (9, 1, tokens, columns), (9, 1, tokens, 2))
    query, key, value = made(rng, *shapes, dtype=dtype, size=1)
    (bias,) = made(rng, (1, 4, tokens), dtype=dtype)
    check(query, key, value, bias)
    check(key, query, query, np.ascontiguousarray(bias.swapaxes(-1, -2)), window=(9, 3))


@each_dtype
@pytest.mark.parametrize("layout", ALIGNED)
def test_layouts(layout: str, dtype: Any) -> None:
    rng = np.random.default_rng(6)
    arrays = made(rng, (2, 1, 18, 5), (2, 1, 20, 5), (2, 1, 20, 7), dtype=dtype, size=1)
    masks = (
        mask_of(rng, "float", (2, 1, 18, 20), dtype),
        mask_of(rng, "bool", (2, 1, 18, 20), dtype),
    )
    for mask in masks:
        check(*(placed(array, layout) for array in (*arrays, mask)))
    lengths = placed(np.array([7, 19], np.int32), "sliced")
    output, lse = attend(*arrays, kv_lengths=lengths, return_lse=True)
    want = reference.scaled_dot_product_attention(*arrays, kv_lengths=np.array([7, 19]))
    assert_close(output, want, bound_of(*arrays))
    grad = placed(output, layout)
    laid = [placed(array, layout) for array in (output, lse)]
    found = gradients(grad, *arrays, *laid)
    for one, other in zip(found, gradients(output, *arrays, output, lse), strict=True):
        assert same_bits(one, other)


@each_dtype
@pytest.mark.parametrize(
    ("query", "key", "value", "mask", "gqa"),
    [
        ((4, 5), (6, 5), (6, 3), (4, 6), False),  # no heads
        ((2, 6, 4, 5), (2, 2, 7, 5), (2, 2, 7, 3), (6, 1, 7), True),  # shared heads
        ((2, 6, 4, 5), (2, 3, 7, 5), (2, 3, 7, 3), (2, 1, 4, 1), True),
        ((6, 4, 5), (1, 7, 5), (1, 7, 3), (1, 1), False),  # one head of keys
        ((1, 4, 5), (3, 7, 5), (3, 7, 3), (4, 7), False),  # one head of queries
        ((2, 3, 4, 5), (2, 3, 7, 5), (2, 1, 7, 3), (3, 1, 1), False),  # one head of values
        ((2, 1, 3, 4, 5), (3, 3, 7, 5), (1, 7, 3), (2, 1, 1, 4, 7), False),  # batch axes
        ((2, 1, 1, 4, 5), (1, 3, 2, 7, 5), (2, 3, 1, 7, 3), (3, 1, 4, 7), False),
    ],
    ids=str,
)
def test_broadcasting(query: Any, key: Any, value: Any, mask: Any, gqa: bool, dtype: Any) -> None:
    rng = np.random.default_rng(8)
    arrays = made(rng, query, key, value, mask, dtype=dtype, size=1)
    check(*arrays, enable_gqa=gqa)


@pytest.mark.parametrize("shape", [(1, 70), (70, 1), (1, 1)], ids=str)
def test_masks_of_one_row_or_column_over_tiles(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(9)
    arrays = made(rng, (2, 70, 4), (2, 70, 4), (2, 70, 4), size=1)
    (mask,) = made(rng, shape)
    check(*arrays, mask, is_causal=True)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("shapes", "options"),
    [
        # grad and output, query, key, value, mask
        (
            ((2, 2, 20, 20), (2, 2, 20, 9), (1, 2, 70, 9), (2, 2, 70, 20), (2, 1, 70)),
            {"is_causal": True, "causal_alignment": "bottom_right"},
        ),
        (
            ((1, 4, 70, 130), (1, 4, 70, 33), (1, 2, 90, 33), (1, 2, 90, 130), (4, 70, 1)),
            {"enable_gqa": True, "dropout_p": 0.3, "seed": 4, "window": (40, 60)},
        ),
        (((5, 1, 66, 7),) * 4 + ((66, 66),), {"softcap": 2.0, "dropout_p": 0.2, "seed": 2}),
    ],
    ids=["broadcast", "grouped", "windows"],
)
def test_two_bytes(kind: str, shapes: Any, options: dict[str, Any]) -> None:
    """Sums, weights and lse are float32; results are rounded once."""
    rng = np.random.default_rng(10)
    arrays = made(rng, *shapes, size=1)
    narrow: Any = (lambda x: x.astype(np.float16)) if kind == "float16" else to_bfloat16
    wide: Any = (lambda x: x.astype(np.float32)) if kind == "float16" else from_bfloat16
    grad, query, key, value, mask = given = [narrow(array) for array in arrays]
    exact = [wide(array) for array in given]
    everything = {**options, "return_lse": True, "return_weights": True}
    got = attend(query, key, value, mask, **everything)
    want = reference.scaled_dot_product_attention(*exact[1:], **everything)
    unit = 2.0**-11 if kind == "float16" else 2.0**-8
    bound = bound_of(*exact[1:]) / (1 - options.get("dropout_p", 0))
    assert got[0].dtype == got[2].dtype == query.dtype and got[1].dtype == np.float32
    for one, other, relative in zip(got, want, (unit, 0, unit), strict=True):
        found = one if one.dtype == np.float32 else wide(one)
        assert_close(found, other, bound + relative * float(np.abs(other).max()) + 2.0**-25, kind)
    options = {**options, "need_mask_grad": True}
    found = gradients(grad, query, key, value, got[0], got[1], mask, **options)
    want = reference.scaled_dot_product_attention_grad(*exact[:4], *want[:2], exact[4], **options)
    # The output that the slopes' means are made of has been rounded too.
    coarse = unit / float(np.finfo(np.float32).eps)
    for one, other, limit in zip(found, want, bounds(exact[:4], want), strict=True):
        assert one.dtype == query.dtype
        assert_close(wide(one), other, limit * coarse, kind)


# Promises


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dropout_drops_what_the_cpu_drops(dtype: Any) -> None:
    rng = np.random.default_rng(11)
    cpus = made(rng, (2, 2, 7, 3), (2, 2, 150, 3), (2, 2, 150, 3))
    arrays = [array.astype(dtype) for array in cpus]
    options: dict[str, Any] = {"dropout_p": 0.4, "seed": 2**40 + 3, "return_weights": True}
    got = attend(*arrays, **options)[1]
    want = fastcv.scaled_dot_product_attention(*cpus, **options)[1]
    assert ((got == 0) == (want == 0)).all()
    assert 0.3 < (got == 0).mean() < 0.5
    assert not attend(*arrays, dropout_p=1.0, seed=0).any()


def test_rows_that_see_nothing() -> None:
    rng = np.random.default_rng(12)
    arrays = made(rng, (2, 5, 4), (2, 6, 4), (2, 6, 4))
    for hides in (False, -np.inf):
        mask = np.ones((5, 6), type(hides)) if hides is False else np.zeros((5, 6), np.float32)
        mask[2] = hides
        results = check(*arrays, mask)
        assert not results[0][:, 2].any() and (results[1][:, 2] == -np.inf).all()
        assert not results[3][:, 2].any()
    nothing = check(*arrays, kv_lengths=np.array([0]))
    assert all(not array.any() for array in (nothing[0], *nothing[3:]))


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_hidden_takes_no_part(bad: float, dtype: Any) -> None:
    """Whatever it holds, in every product."""
    rng = np.random.default_rng(13)
    shapes = ((2, 70, 4), (2, 80, 4), (2, 80, 3), (2, 70, 3))
    query, key, value, grad = (each.astype(dtype) for each in made(rng, *shapes, size=1))
    boolean = np.ones((70, 80), bool)
    boolean[:, 3], boolean[5], boolean[:, 77:] = False, False, False
    additive = np.where(boolean, dtype(0.5), dtype(-np.inf))
    for mask in (boolean, additive):
        clean = attend(query, key, value, mask, return_lse=True)
        want = gradients(grad, query, key, value, *clean, mask)
        spoilt = [array.copy() for array in (query, key, value, grad)]
        for array, places in zip(spoilt, ([5], [3, 78], [3, 78], [5]), strict=True):
            array[:, places] = bad
        got = attend(*spoilt[:3], mask, return_lse=True)
        assert all(same_bits(a, b) for a, b in zip(got, clean, strict=True))
        found = gradients(spoilt[3], *spoilt[:3], *got, mask)
        assert all(same_bits(a, b) for a, b in zip(found, want, strict=True))
    # What is beyond the length is not even read.
    lengths = np.array([40])
    key[:, 40:], value[:, 40:] = bad, bad
    output, lse = attend(query, key, value, kv_lengths=lengths, return_lse=True)
    assert np.isfinite(output).all()
    assert all(
        np.isfinite(each).all()
        for each in gradients(grad, query, key, value, output, lse, kv_lengths=lengths)
    )


def test_what_is_seen_comes_through() -> None:
    rng = np.random.default_rng(14)
    query, key, value = made(rng, (1, 3, 4), (1, 5, 4), (1, 5, 3))
    key[0, 2, 1] = np.nan
    assert np.isnan(attend(query, key, value)).all()
    key[0, 2, 1], value[0, 1, 2] = 0, np.inf
    got = attend(query, key, value)
    assert np.isinf(got[..., 2]).all() and np.isfinite(got[..., :2]).all()
    causal = attend(query, key, value, is_causal=True)
    assert np.isfinite(causal[0, 0]).all() and np.isinf(causal[0, 1:, 2]).all()


def test_lengths_outside_are_clamped() -> None:
    """They are known to the device alone."""
    rng = np.random.default_rng(15)
    arrays = made(rng, (2, 1, 3, 4), (2, 1, 5, 4), (2, 1, 5, 3))
    got = attend(*arrays, kv_lengths=np.array([-3, 99]))
    assert not got[0].any() and same_bits(got[1], attend(*arrays)[1])


def test_large_scores() -> None:
    eye = np.eye(7, dtype=np.float32)[None] * 1000
    value = np.arange(21, dtype=np.float32).reshape(1, 7, 3)
    np.testing.assert_allclose(attend(eye, eye, value), value, rtol=4e-7)
    # Scores that grow with the key make every tile raise the largest.
    query, key = (
        np.ones((1, 3, 1), np.float32),
        np.linspace(0, 90, 200, dtype=np.float32)[None, :, None],
    )
    check(query, key, np.cos(key))
    check(query, -key, np.cos(key))


def test_orders_of_threads_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(16)
    arrays = made(rng, (5, 2, 20, 5), (5, 2, 70, 5), (5, 2, 70, 9), size=1)
    (bias,) = made(rng, (2, 20, 70))
    results = []
    for order in ORDERS:
        monkeypatch.setenv("FASTCV_CUDA_EMULATION_ORDER", order)
        output, lse = attend(*arrays, bias, dropout_p=0.1, seed=1, return_lse=True)
        options: dict[str, Any] = {"dropout_p": 0.1, "seed": 1, "need_mask_grad": True}
        results.append((output, lse, *gradients(output, *arrays, output, lse, bias, **options)))
    for one in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(one, results[0], strict=True))


def test_the_comparison_can_fail() -> None:
    rng = np.random.default_rng(17)
    arrays = made(rng, (2, 6, 4), (2, 5, 4), (2, 5, 4))
    got, want = attend(*arrays), reference.scaled_dot_product_attention(*arrays)
    for wrong in corruptions(got):
        with pytest.raises(AssertionError):
            assert_close(wrong, want, bound_of(*arrays))
    assert rms(want) > 0


def test_what_is_refused() -> None:
    rng = np.random.default_rng(18)
    query, key, value = arrays = made(rng, (2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 4))
    with pytest.raises(TypeError, match=r"key.dtype must be float32, got float64"):
        attend(query, key.astype(np.float64), value)
    with pytest.raises(TypeError, match=r"attn_mask.dtype must be float32 or bool, got int64"):
        attend(*arrays, np.ones((4, 6), np.int64))
    with pytest.raises(ValueError, match=r"attn_mask.shape must broadcast to \(..., Hq, L, S\)"):
        attend(*arrays, np.ones((5, 6), bool))
    with pytest.raises(ValueError, match=r"attn_mask.shape must broadcast"):
        attend(*arrays, np.ones((1, 1, 2, 3, 4, 6), bool))
    with pytest.raises(TypeError, match=r"kv_lengths.dtype must be int64 or int32, got float64"):
        attend(*arrays, kv_lengths=np.ones(2))
    with pytest.raises(ValueError, match=r"kv_lengths.shape must equal"):
        attend(*arrays, kv_lengths=np.ones(3, np.int64))
    with pytest.raises(ValueError, match=r"dropout_p above 0 needs a seed"):
        attend(*arrays, dropout_p=0.5)
    with pytest.raises(ValueError, match=r"key.shape\[-1\] must equal query.shape\[-1\]"):
        attend(query, value, value)
    output, lse = attend(*arrays, return_lse=True)
    with pytest.raises(ValueError, match=r"lse.shape must equal output.shape\[:-1\]"):
        gradients(output, *arrays, output, lse[:1])
    with pytest.raises(ValueError, match=r"need_mask_grad needs an additive attn_mask, got None"):
        gradients(output, *arrays, output, lse, need_mask_grad=True)
    half = [array.astype(np.float16) for array in (output, *arrays, output)]
    with pytest.raises(TypeError, match=r"lse.dtype must be float32, got float16"):
        gradients(*half, lse.astype(np.float16))
    device = Emulated()
    device.on_second.append(value)
    with pytest.raises(ValueError, match=r"value must be on the device of query"):
        _attention.scaled_dot_product_attention(device, *arrays)
