"""scaled_dot_product_attention: worked numbers, and every option against the float64 reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import uniform
from cases.scaled_dot_product_attention import BY_NAME, CASES, Case
from closeness import assert_close, corruptions, same_bits
from layouts import LAYOUTS, guarded, read_only
from shared import each_dtype

from fastcv import reference, scaled_dot_product_attention

attend = scaled_dot_product_attention
OPTIONS: dict[str, list[Any]] = {
    "mask": [None, "bool", "float", "row", "key", "head"],
    "is_causal": [False, True],
    "causal_alignment": ["top_left", "bottom_right"],
    "softcap": [0.0, 1.5],
    "window": [None, (3, -1), (2, 5)],
    "kv_lengths": [False, True],
    "dropout_p": [0.0, 0.3],
}


def bound_of(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, mask: np.ndarray | None = None
) -> float:
    """How far an output may be off: scores' errors are relative ones of the weights."""
    eps = float(np.finfo(query.dtype).eps)
    columns, keys = key.shape[-1], key.shape[-2]
    sizes = [float(np.abs(a).max(initial=0)) for a in (query, key, value)]
    largest = sizes[0] * sizes[1] * max(1, columns) ** 0.5
    if mask is not None and mask.dtype != bool:
        largest += float(np.abs(mask[np.isfinite(mask)]).max(initial=0))
    return eps * sizes[2] * (16 + 4 * largest + keys**0.5)


def check(query: Any, key: Any, value: Any, mask: Any = None, **options: Any) -> None:
    """Output, lse and weights against the reference."""
    arguments = (query, key, value, mask)
    everything = {**options, "return_lse": True, "return_weights": True}
    want = reference.scaled_dot_product_attention(*arguments, **everything)
    got = attend(*arguments, **everything)
    bound = bound_of(query, key, value, mask)
    label = f"{query.shape} {key.shape} {value.shape} {options}"
    if options.get("dropout_p"):
        bound *= 1 / max(1 - options["dropout_p"], 0.1)
    assert_close(got[0], want[0], bound, label)
    finite = np.isfinite(want[1])
    assert (got[1][~finite] == want[1][~finite]).all(), label
    of_one = bound_of(query, key, np.ones((), query.dtype), mask)
    assert_close(got[1][finite], want[1][finite], of_one, f"lse {label}")
    assert_close(got[2], want[2], max(bound, of_one), f"weights {label}")
    assert all(array.dtype == query.dtype and array.flags.c_contiguous for array in got)
    assert same_bits(attend(*arguments, **options), got[0])
    assert same_bits(attend(*arguments, **options, return_lse=True)[1], got[1])


def made(
    rng: np.random.Generator,
    *shapes: tuple[int, ...],
    dtype: Any = np.float32,
    size: float = 2,
) -> list[np.ndarray]:
    return [uniform(rng, shape, dtype) * np.dtype(dtype).type(size) for shape in shapes]


def mask_of(rng: np.random.Generator, kind: str | None, full: tuple[int, ...], dtype: Any) -> Any:
    batch, heads, queries, keys = full
    if kind is None:
        return None
    if kind == "bool":
        return rng.random(full) < 0.7
    shape = {
        "float": full,
        "row": (batch, 1, 1, keys),
        "key": (1, heads, queries, 1),
        "head": (queries, keys),
    }[kind]
    mask = uniform(rng, shape, dtype)
    if kind != "key":
        mask[rng.random(shape) < 0.2] = -np.inf
    return mask


# Worked numbers


def test_by_hand() -> None:
    # Scores 0 and ln 3: weights 1/4 and 3/4.
    query, key = np.array([[[1.0]]]), np.array([[[0.0], [np.log(3)]]])
    value = np.array([[[4.0, 0.0], [8.0, 4.0]]])
    output, lse, weights = attend(query, key, value, return_lse=True, return_weights=True)
    np.testing.assert_allclose(output, [[[7, 3]]], rtol=1e-14)
    np.testing.assert_allclose(lse, [[np.log(4)]], rtol=1e-14)
    np.testing.assert_allclose(weights, [[[0.25, 0.75]]], rtol=1e-14)
    np.testing.assert_allclose(attend(query, key, value, scale=2.0), [[[7.6, 3.6]]], rtol=1e-14)
    np.testing.assert_allclose(attend(query, key, value, is_causal=True), [[[4, 0]]])


def test_equal_scores_average() -> None:
    value = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    zeros = np.zeros((1, 4, 5), np.float32)
    np.testing.assert_allclose(attend(zeros, zeros, value), np.tile([4.5, 5.5, 6.5], (1, 4, 1)))
    want = [value[0, : i + 1].mean(axis=0) for i in range(4)]
    np.testing.assert_allclose(attend(zeros, zeros, value, is_causal=True)[0], want)


def test_a_large_score_selects() -> None:
    eye = np.eye(7, dtype=np.float32)[None] * 1000
    value = np.arange(21, dtype=np.float32).reshape(1, 7, 3)
    np.testing.assert_allclose(attend(eye, eye, value), value, rtol=4e-7)


# Against the reference


@each_dtype
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_named_case(case: Case, dtype: type) -> None:
    case = case.reduced()
    check(*case.arrays(dtype), **case.options)


@each_dtype
@pytest.mark.parametrize("mask", OPTIONS["mask"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("kv_lengths", [False, True])
def test_options(mask: str | None, is_causal: bool, kv_lengths: bool, dtype: type) -> None:
    rng = np.random.default_rng(1)
    rest = [OPTIONS[name] for name in ("causal_alignment", "softcap", "window", "dropout_p")]
    for alignment, softcap, window, dropout in itertools.product(*rest):
        for queries, keys, columns, values in ((9, 21, 5, 3), (19, 11, 16, 33)):
            arrays = made(
                rng,
                (2, 3, queries, columns),
                (2, 3, keys, columns),
                (2, 3, keys, values),
                dtype=dtype,
            )
            options: dict[str, Any] = {
                "is_causal": is_causal,
                "causal_alignment": alignment,
                "softcap": softcap,
                "window": window,
                "dropout_p": dropout,
                "seed": 2**63 + 5,
            }
            if kv_lengths:
                options["kv_lengths"] = rng.integers(0, keys + 1, 2)
            check(*arrays, mask_of(rng, mask, (2, 3, queries, keys), dtype), **options)


@each_dtype
def test_sizes(dtype: type) -> None:
    rng = np.random.default_rng(2)
    sizes = (0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 49, 65)
    for size in sizes:
        for queries, keys, columns, values in (
            (size, 5, 4, 3),
            (5, size, 4, 3),
            (5, 6, size, 3),
            (5, 6, 4, size),
            (size, size, size, size),
        ):
            arrays = made(
                rng, (2, queries, columns), (2, keys, columns), (2, keys, values), dtype=dtype
            )
            check(*arrays)
            check(*arrays, is_causal=True)


@pytest.mark.parametrize("keys", [64, 511, 512, 513, 1024, 1500, 4100])
def test_blocks_of_keys(keys: int) -> None:
    rng = np.random.default_rng(keys)
    arrays = made(rng, (1, 2, 20, 24), (1, 2, keys, 24), (1, 2, keys, 24))
    check(*arrays)
    check(*arrays, is_causal=True, causal_alignment="bottom_right", window=(700, 0))
    # Scores that grow with the key make every block raise the maximum.
    grows = arrays[1] + np.linspace(0, 40, keys, dtype=np.float32)[:, None]
    check(np.abs(arrays[0]), grows, arrays[2])


@each_dtype
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("keys", [1, 30, 511, 512, 513, 1100])
def test_few_queries(keys: int, queries: int, dtype: type) -> None:
    """They read keys and values in place, in parts of 512 keys."""
    rng = np.random.default_rng(keys)
    for columns, values in ((16, 16), (80, 64), (32, 144), (20, 16)):
        arrays = made(
            rng,
            (2, 2, queries, columns),
            (2, 2, keys, columns),
            (2, 2, keys, values),
            dtype=dtype,
        )
        check(*arrays)
        lengths = np.array([keys // 2, max(keys - 1, 0)])
        check(*arrays, kv_lengths=lengths, softcap=2.0)
        check(*arrays, mask_of(rng, "float", (2, 2, queries, keys), dtype))
        check(*arrays, causal_alignment="bottom_right", window=(200, 0))
        if columns == 20:  # not whole vectors: not read in place
            continue
        # More keys, which are hidden, change no bit; nor does what their values hold.
        query, key, value = arrays
        want = attend(query, key, value)
        more_key, more_value = (
            np.concatenate([a, np.full((2, 2, 600, a.shape[3]), np.nan, dtype)], axis=2)
            for a in (key, value)
        )
        got = attend(query, more_key, more_value, kv_lengths=np.array([keys, keys]))
        assert same_bits(got, want)
        hides = np.arange(keys + 600) < keys
        more_key[:, :, keys:] = 1
        assert same_bits(attend(query, more_key, more_value, hides[None]), want)
        # A value that is not finite comes through, and is left out where its weight is zero.
        value[0, 0, -1, 0] = np.inf
        assert np.isinf(attend(query, key, value)[0, 0, :, 0]).all()
        visible = np.ones((queries, keys), bool)
        visible[:, -1] = False
        got = attend(query, key, value, visible)
        value[0, 0, -1, 0] = 1
        want = reference.scaled_dot_product_attention(query, key, value, visible)
        assert_close(got, want, bound_of(query, key, value))


@each_dtype
@pytest.mark.parametrize("group", [1, 2, 5])
@pytest.mark.parametrize("queries", [1, 3, 11])
def test_grouped_heads(group: int, queries: int, dtype: type) -> None:
    rng = np.random.default_rng(3)
    query, key, value = made(
        rng, (2, 3 * group, queries, 8), (2, 3, 30, 8), (2, 3, 30, 8), dtype=dtype
    )
    for kind in OPTIONS["mask"]:
        mask = mask_of(rng, kind, (2, 3 * group, queries, 30), dtype)
        check(query, key, value, mask, enable_gqa=True, is_causal=True)
    repeated = (np.repeat(a, group, axis=1) for a in (key, value))
    together = attend(query, key, value, enable_gqa=True)
    bound = bound_of(query, key, value)
    assert_close(together, attend(query, *repeated).astype(np.float64), bound)


def test_axes_before_the_heads() -> None:
    rng = np.random.default_rng(4)
    query, key, value, mask = made(
        rng, (3, 2, 4, 5, 6), (2, 1, 7, 6), (3, 1, 4, 7, 2), (2, 1, 1, 7)
    )
    check(query, key, value, mask)
    check(query[0, 0, 0], key[0, 0], value[0, 0, 0])  # two axes: no heads
    check(query[0, 0], key[0], value[0, 0], mask[0])
    check(query, key, value, kv_lengths=rng.integers(0, 8, (3, 2)))
    check(query[0, 0], key[0], value[0, 0], kv_lengths=np.array([4]))


def test_scale_of_a_kind() -> None:
    rng = np.random.default_rng(5)
    arrays = made(rng, (2, 9, 8), (2, 17, 8), (2, 17, 8))
    one_query = made(rng, (1, 1, 32), (1, 64, 32), (1, 64, 32))
    for scale in (0.0, 1.0, -0.5, np.float32(2)):
        check(*arrays, scale=scale)
        check(*one_query, scale=scale)
    assert same_bits(attend(*arrays), attend(*arrays, scale=8**-0.5))


def test_every_layout() -> None:
    rng = np.random.default_rng(6)
    query, key, value = made(rng, (2, 3, 10, 20), (2, 3, 37, 20), (2, 3, 37, 18))
    mask = uniform(rng, (2, 3, 10, 37), np.float32)
    visible = rng.random((2, 3, 10, 37)) < 0.8
    for layout in LAYOUTS.values():
        placed = [layout(a.shape, a.dtype).filled(a) for a in (query, key, value, mask)]
        placed = [read_only(a) for a in placed]
        check(*placed)
        check(*placed[:3], read_only(layout(visible.shape, bool).filled(visible)))


@pytest.mark.parametrize("at_end", [False, True])
@each_dtype
def test_nothing_is_read_beyond_the_arrays(at_end: bool, dtype: type) -> None:
    rng = np.random.default_rng(7)
    for keys, columns in ((1, 1), (17, 5), (33, 16), (20, 40)):
        arrays = []
        shapes = ((1, 2, 9, columns), (1, 2, keys, columns), (1, 2, keys, columns), (2, 9, keys))
        for shape in shapes:
            array = guarded(shape, dtype, at_end=at_end)
            array[...] = uniform(rng, shape, dtype)
            arrays.append(array)
        check(*arrays)
        seen = guarded((2, 9, keys), np.bool_, at_end=at_end)
        seen[...] = rng.random(seen.shape) < 0.8
        check(*arrays[:3], seen)


# Masks


def test_hidden_rows_give_zeros() -> None:
    rng = np.random.default_rng(8)
    query, key, value = made(rng, (1, 2, 20, 8), (1, 2, 30, 8), (1, 2, 30, 8))
    visible = rng.random((1, 2, 20, 30)) < 0.5
    visible[0, 0, 3] = visible[0, 1, 8:17] = False
    for mask in (visible, np.where(visible, 0, -np.inf).astype(np.float32)):
        output, lse, weights = attend(query, key, value, mask, return_lse=True, return_weights=True)
        hidden = ~visible.any(axis=-1)
        assert (output[hidden] == 0).all() and (weights[hidden] == 0).all()
        assert (lse[hidden] == -np.inf).all() and np.isfinite(lse[~hidden]).all()
        check(query, key, value, mask)
    none = np.zeros((30,), bool)
    assert (attend(query, key, value, none) == 0).all()
    assert (attend(query, key, value, kv_lengths=np.array([0])) == 0).all()
    # Bottom right: the first queries stand before the first key.
    short = attend(
        query, key[:, :, :5], value[:, :, :5], is_causal=True, causal_alignment="bottom_right"
    )
    assert (short[:, :, :15] == 0).all() and (short[:, :, 15:] != 0).all()


def test_blocks_that_are_hidden() -> None:
    rng = np.random.default_rng(9)
    query, key, value = made(rng, (1, 1, 12, 64), (1, 1, 1600, 64), (1, 1, 1600, 64))
    for hidden in (slice(0, 800), slice(500, 1200), slice(900, None)):
        visible = np.ones((12, 1600), bool)
        visible[:, hidden] = False
        check(query, key, value, visible)


def test_no_output_depends_on_a_later_key() -> None:
    rng = np.random.default_rng(10)
    query, key, value = made(rng, (1, 2, 40, 16), (1, 2, 40, 16), (1, 2, 40, 16))
    want, lse = attend(query, key, value, is_causal=True, return_lse=True)
    for position in (1, 7, 8, 25, 39):
        for change in (1e6, -3.0, np.nan, np.inf):
            other_key, other_value = key.copy(), value.copy()
            other_key[:, :, position:] *= np.float32(change)
            other_value[:, :, position:] *= np.float32(change)
            got, other = attend(query, other_key, other_value, is_causal=True, return_lse=True)
            assert same_bits(got[:, :, :position].copy(), want[:, :, :position].copy())
            assert same_bits(other[:, :, :position].copy(), lse[:, :, :position].copy())


def test_hidden_keys_take_no_part() -> None:
    rng = np.random.default_rng(11)
    query, key, value = made(rng, (2, 2, 9, 16), (2, 2, 40, 16), (2, 2, 40, 16))
    lengths = np.array([17, 3])
    seen = np.arange(40) < lengths[:, None]
    want = attend(query, key, value, kv_lengths=lengths)
    mask_want = attend(query, key, value, seen[:, None, None])
    for junk in (np.nan, np.inf, -np.inf, 1e30):
        for array in (key, value):
            array[~np.broadcast_to(seen[:, None], array.shape[:3])] = junk
        assert same_bits(attend(query, key, value, kv_lengths=lengths), want)
        assert same_bits(attend(query, key, value, seen[:, None, None]), mask_want)


# Numbers that are not ordinary


@each_dtype
def test_large_scores(dtype: type) -> None:
    rng = np.random.default_rng(12)
    for size in (1e2, 1e4, 1e6):
        query, key, value = made(rng, (2, 11, 4), (2, 50, 4), (2, 50, 6), dtype=dtype)
        query = np.round(query * 8) / 8  # so that scores are exact
        key = np.round(key * 8) / 8
        scale = size / 16
        want = reference.scaled_dot_product_attention(query, key, value, scale=scale)
        got = attend(query, key, value, scale=scale)
        assert_close(got, want, bound_of(query * dtype(scale), key, value))
        mask = np.round(uniform(rng, (11, 50), dtype) * dtype(size))
        check(query, key, value, mask)
        check(query, key, value, -np.abs(mask) - dtype(size))


def test_nan_and_infinity_come_through() -> None:
    rng = np.random.default_rng(13)
    query, key, value = made(rng, (1, 1, 12, 16), (1, 1, 20, 16), (1, 1, 20, 16))
    clean = attend(query, key, value)

    bad = query.copy()
    bad[0, 0, 5, 3] = np.nan
    got, lse = attend(bad, key, value, return_lse=True)
    assert np.isnan(got[0, 0, 5]).all() and np.isnan(lse[0, 0, 5])
    assert np.isfinite(np.delete(got, 5, axis=2)).all()
    assert same_bits(np.delete(got, 5, axis=2), np.delete(clean, 5, axis=2))

    bad = key.copy()
    bad[0, 0, 5, 3] = np.nan
    assert np.isnan(attend(query, bad, value)).all()
    assert (
        np.isnan(attend(query, bad, value, is_causal=True)).all(axis=-1)[0, 0].tolist()
        == [False] * 5 + [True] * 7
    )

    bad = value.copy()
    bad[0, 0, 5, 3] = np.nan
    bad[0, 0, 9, 2] = np.inf
    got = attend(query, key, bad)
    assert np.isnan(got[..., 3]).all() and (got[..., 2] == np.inf).all()
    assert np.isfinite(np.delete(got, (2, 3), axis=-1)).all()

    mask = np.zeros((12, 20), np.float32)
    mask[4, 6] = np.nan
    assert np.isnan(attend(query, key, value, mask)[0, 0, 4]).all()
    mask[4, 6] = np.inf
    assert np.isnan(attend(query, key, value, mask)[0, 0, 4]).all()
    mask[4] = np.nan
    assert np.isnan(attend(query, key, value, mask)[0, 0, 4]).all()


@each_dtype
@pytest.mark.parametrize("columns", [16, 32, 21])
def test_keys_beyond_whole_vectors(columns: int, dtype: type) -> None:
    # A few of them are dot products; more are another vector.
    rng = np.random.default_rng(20)
    for keys in (*range(1, 18), *range(31, 42), 49, 50, 52, 65, 68, 77):
        for queries, kind in ((7, None), (9, "head"), (12, "row"), (8, "bool")):
            shape = (2, 2, queries, keys)
            arrays = made(
                rng, (2, 2, queries, columns), (2, 2, keys, columns), (2, 2, keys, 5), dtype=dtype
            )
            check(*arrays, mask_of(rng, kind, shape, dtype))
        lengths = np.array([keys // 2, keys])
        check(*arrays, mask_of(rng, "head", shape, dtype), kv_lengths=lengths)


@each_dtype
@pytest.mark.parametrize("keys", [17, 49, 130])
def test_rows_that_go_together(keys: int, dtype: type) -> None:
    # As many as have their scores in the cache: below, at and above that, and one row of another
    # size among the others, whose scores are too large to be shifted in the exponent.
    rng = np.random.default_rng(22)
    for queries in (23, 24, 25, 48, 49, 63, 64, 65, 129):
        query, key, value = made(rng, *[(2, n, 16) for n in (queries, keys, keys)], dtype=dtype)
        mask = uniform(rng, (queries, keys), dtype)
        mask[queries // 2] -= dtype(2**20)
        mask[queries // 3] = -np.inf
        check(query, key, value, mask)
        want = attend(query, key, value, mask)
        for row in (1, queries // 2, queries - 5):  # fewer than four go another way
            assert same_bits(attend(query[:, row:], key, value, mask[row:]), want[:, row:])


@each_dtype
@pytest.mark.parametrize("queries", [9, 70])
@pytest.mark.parametrize("keys", [49, 64, 600])
def test_what_a_mask_hides_may_hold_anything(keys: int, queries: int, dtype: type) -> None:
    # Every value that a score may take, under a mask that hides it, the last key's included.
    rng = np.random.default_rng(21)
    query, key, value = made(rng, *[(1, 2, n, 16) for n in (queries, keys, keys)], dtype=dtype)
    mask = uniform(rng, (queries, keys), dtype)
    hidden = [0, 5, keys - 2, keys - 1]
    mask[:, hidden] = -np.inf
    mask[3] = -np.inf
    want = attend(query, key, value, mask)
    key[:, :, hidden] = np.array([np.nan, np.inf, -np.inf, np.nan], dtype)[:, None]
    value[:, :, hidden] = np.nan
    assert same_bits(attend(query, key, value, mask), want)
    key[:, :, 1] = np.nan  # seen by all rows but one
    got = attend(query, key, value, mask)
    assert (got[:, :, 3] == 0).all() and np.isnan(np.delete(got, 3, axis=2)).all()


@each_dtype
def test_powers_of_two(dtype: type) -> None:
    # Scores are exact: the scale times log2(e) is 1. Weights are powers of two over one sum; 2 ulp
    # more are those of the product with its reciprocal, of both weights of a ratio.
    lowest = -120.0 if dtype is np.float32 else -1000.0
    key = np.linspace(0, lowest, 4099, dtype=dtype)[None, :, None]
    query, value = np.ones((1, 1, 1), dtype), np.ones_like(key)
    weights = attend(query, key, value, scale=np.log(2), return_weights=True)[1][0, 0]
    want = np.exp2(key[0, :, 0].astype(np.longdouble))
    ratio = weights.astype(np.longdouble) / weights[0] / want
    assert np.abs(ratio - 1).max() <= 4 * np.finfo(dtype).eps


# Promises


def test_the_same_bits(threads: Callable[[int], None]) -> None:
    rng = np.random.default_rng(14)
    for samples, heads, queries, keys in ((3, 4, 50, 70), (1, 1, 300, 600), (2, 2, 1, 3000)):
        query, key, value = made(
            rng,
            (samples, heads, queries, 32),
            (samples, heads, keys, 32),
            (samples, heads, keys, 32),
        )
        mask = uniform(rng, (heads, queries, keys), np.float32)
        for options in ({}, {"is_causal": True}, {"attn_mask": mask}):
            threads(1)
            want = attend(query, key, value, **options)
            for number in (2, 7):
                threads(number)
                assert same_bits(attend(query, key, value, **options), want)
            alone = attend(query[-1:], key[-1:], value[-1:], **options)
            assert same_bits(alone, want[-1:].copy())


def test_dropout_is_drawn_by_the_seed() -> None:
    zeros = np.zeros((2, 2, 64, 4), np.float32)
    value = np.broadcast_to(np.eye(64, dtype=np.float32), (2, 2, 64, 64))

    def kept(seed: int, probability: float = 0.25) -> np.ndarray:
        return attend(zeros, zeros, value, None, probability, seed=seed) * 64

    first = kept(1)
    assert set(np.unique(first.round(5)).tolist()) <= {0.0, np.float32(4 / 3).round(5).item()}
    assert abs((first > 0).mean() - 0.75) < 0.02
    assert same_bits(first, kept(1)) and not same_bits(first, kept(2))
    assert not (first[0] == first[1]).all() and not (first[:, 0] == first[:, 1]).all()
    assert (kept(1, 1.0) == 0).all()
    assert same_bits(kept(1, 0.0), kept(2, 0.0))
    # Philox4x32-10 of counter 0 and key 0, from the authors' known answers.
    words = reference.attention._philox_words(0, 1, 1, 64)[0, 0]
    assert [hex(word) for word in words[[0, 16, 32, 48]]] == [
        "0x6627e8d5",
        "0xe169c58d",
        "0xbc57ac4c",
        "0x9b00dbd8",
    ]


def test_corrupted_results_are_refused() -> None:
    case = BY_NAME["vit_b_197"].reduced()
    query, key, value, _ = case.arrays()
    want = reference.scaled_dot_product_attention(query, key, value)
    got = attend(query, key, value)
    bound = bound_of(query, key, value)
    assert_close(got, want, bound)
    for wrong in corruptions(got):
        with pytest.raises(AssertionError):
            assert_close(wrong, want, bound)
