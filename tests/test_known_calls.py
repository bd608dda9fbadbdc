"""Calls that are known by their arguments' kinds: what counts as the same, and what never does."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fastcv
from fastcv import _core

IMAGE = np.ones((1, 2, 4, 6), np.float32)


class Array(np.ndarray):
    pass


class Size(int):
    pass


PLAIN: list[Any] = [
    None,
    False,
    True,
    0,
    1,
    -1,
    1.0,
    0.0,
    -0.0,
    "",
    "same",
    "valid",
    "a text of more than eight bytes",
    (),
    (1,),
    (1, 2),
    ((1, 2),),
    ((1,), 2),
    np.int64,
    np.int32,
    IMAGE,
    IMAGE[0],
    IMAGE.astype(np.float64),
    IMAGE.astype(">f4"),
    IMAGE.reshape(1, 2, 6, 4),
    IMAGE[:, :, ::2],
    np.ones((1, 4, 6, 2), np.float32).transpose(0, 3, 1, 2),
]


def test_equal_arguments_and_no_others_are_the_same_call() -> None:
    calls = _core.KnownCalls()
    for i, argument in enumerate(PLAIN):
        assert calls.find((argument,)) is None
        calls.keep((argument,), i)
    for i, argument in enumerate(PLAIN):
        again = argument.copy("K") if isinstance(argument, np.ndarray) else argument
        if again is argument or again.strides == argument.strides:
            assert calls.find((again,)) == i
    assert calls.find((1, 2)) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "b"), ("ab", "")),
        ((1, (2,)), ((1, 2),)),
        (((), 1), ((1,),)),
        ((1, 0), (1,)),
        ((np.ones(3, np.float32),), (np.ones(3, np.int32),)),
        ((np.ones((2, 1)),), (np.ones((1, 2)),)),
        ((np.ones((1, 1)),), (np.ones(1),)),
    ],
)
def test_arguments_do_not_run_into_each_other(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    calls = _core.KnownCalls()
    calls.keep(one, "one")
    assert calls.find(other) is None
    calls.keep(other, "other")
    assert calls.find(one) == "one"


@pytest.mark.parametrize(
    "argument",
    [
        [1, 2],
        np.int64(1),
        np.float64(1),
        np.bool_(True),
        Size(1),
        IMAGE.view(Array),
        1 << 64,
        (1, [2]),
        (1, (int,)),
        tuple(range(200)),
        object(),
        "\ud800",
    ],
    ids=lambda argument: type(argument).__name__,
)
def test_other_arguments_are_never_known(argument: Any) -> None:
    calls = _core.KnownCalls()
    calls.keep((argument,), "kept")
    assert calls.find((argument,)) is None


def test_as_many_calls_are_kept_as_were_asked_for() -> None:
    calls = _core.KnownCalls(sets=1)
    for i in range(5):
        calls.keep((i,), str(i))
    assert [calls.find((i,)) for i in range(5)] == [None, "1", "2", "3", "4"]


def test_arrays_are_not_kept_alive_and_plans_are_let_go() -> None:
    class Plan:
        pass

    calls = _core.KnownCalls(sets=1)
    array, plan = np.ones(3).view(), Plan()
    seen, gone = weakref.ref(array), weakref.ref(plan)
    calls.keep((array,), plan)
    del array, plan
    gc.collect()
    assert seen() is None
    assert gone() is not None
    for i in range(4):
        calls.keep((i,), None)
    assert gone() is None


def test_threads_find_what_others_keep() -> None:
    calls = _core.KnownCalls(sets=2)

    def work(thread: int) -> int:
        hits = 0
        for i in range(2000):
            key = (i % 11, "key")
            found = calls.find(key)
            assert found is None or found == i % 11
            hits += found is not None
            calls.keep(key, i % 11)
        return hits

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) > 0


WEIGHT = np.ones((2, 2, 3, 3), np.float32)
TOKENS = np.ones((1, 2, 5, 4), np.float32)
POOLED, PLACES = fastcv.max_pool2d(IMAGE, 2, return_indices=True)
ATTENDED, LSE = fastcv.scaled_dot_product_attention(TOKENS, TOKENS, TOKENS, return_lse=True)
CONV2D, CONV_TRANSPOSE2D = fastcv.Conv2d(WEIGHT, padding=1), fastcv.ConvTranspose2d(WEIGHT)
FUNCTIONS: dict[str, Any] = {
    "conv2d": lambda: fastcv.conv2d(IMAGE, WEIGHT, padding="same", activation=("leaky_relu", 0.1)),
    "conv2d_grad_input": lambda: fastcv.conv2d_grad_input(IMAGE, WEIGHT, IMAGE.shape, padding=1),
    "conv2d_grad_weight": lambda: fastcv.conv2d_grad_weight(IMAGE, IMAGE, (2, 2, 3, 3), padding=1),
    "Conv2d": lambda: CONV2D(IMAGE),
    "conv_transpose2d": lambda: fastcv.conv_transpose2d(IMAGE, WEIGHT, WEIGHT[0, 0, 0, :2]),
    "conv_transpose2d_grad_input": lambda: fastcv.conv_transpose2d_grad_input(
        IMAGE, WEIGHT, IMAGE.shape, padding=1
    ),
    "conv_transpose2d_grad_weight": lambda: fastcv.conv_transpose2d_grad_weight(
        IMAGE, IMAGE, (2, 2, 3, 3), padding=1
    ),
    "ConvTranspose2d": lambda: CONV_TRANSPOSE2D(IMAGE),
    "max_pool2d": lambda: fastcv.max_pool2d(IMAGE, (2, 2), return_indices=True)[0],
    "max_pool2d_grad_input": lambda: fastcv.max_pool2d_grad_input(POOLED, PLACES, IMAGE.shape),
    "max_unpool2d": lambda: fastcv.max_unpool2d(POOLED, PLACES, 2, output_size=(4, 6)),
    "max_unpool2d_grad_input": lambda: fastcv.max_unpool2d_grad_input(IMAGE, PLACES),
    "gram_matrix": lambda: fastcv.gram_matrix(IMAGE, 0.5),
    "gram_matrix_grad_input": lambda: fastcv.gram_matrix_grad_input(
        np.ones((1, 2, 2), np.float32), IMAGE
    ),
    "scaled_dot_product_attention": lambda: fastcv.scaled_dot_product_attention(
        TOKENS, TOKENS, TOKENS, is_causal=True, window=(2, 2)
    ),
    "scaled_dot_product_attention_grad": lambda: fastcv.scaled_dot_product_attention_grad(
        ATTENDED, TOKENS, TOKENS, TOKENS, ATTENDED, LSE
    )[0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_knows_its_second_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = FUNCTIONS[name]()

    def check(*arguments: Any, **named: Any) -> bool:
        raise AssertionError("checked again")

    monkeypatch.setattr(fastcv._checks, "float_arrays", check)
    second = FUNCTIONS[name]()
    assert second is not first
    assert np.array_equal(first, second)


def test_dropout_is_not_kept() -> None:
    """Or each seed would take the place of another call."""
    known = fastcv.scaled_dot_product_attention(TOKENS, TOKENS, TOKENS, scale=0.25)
    for seed in range(1000):
        fastcv.scaled_dot_product_attention(TOKENS, TOKENS, TOKENS, dropout_p=0.5, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(fastcv._checks, "attention")
        again = fastcv.scaled_dot_product_attention(TOKENS, TOKENS, TOKENS, scale=0.25)
    assert np.array_equal(known, again)


def test_a_known_call_still_checks_what_arrays_hold() -> None:
    values, indices = np.ones((1, 1, 1, 2)), np.array([[[[1, 6]]]])
    for _ in range(2):
        assert fastcv.max_unpool2d(values, indices, 2).sum() == 2
        with pytest.raises(IndexError, match=r"indices\[0, 0, 0, 1\]"):
            fastcv.max_unpool2d(values, indices + 2, 2)
    query = np.ones((2, 1, 3, 4))
    for _ in range(2):
        fastcv.scaled_dot_product_attention(query, query, query, kv_lengths=np.array([3, 1]))
        with pytest.raises(ValueError, match="kv_lengths must be from 0"):
            fastcv.scaled_dot_product_attention(query, query, query, kv_lengths=np.array([3, 4]))
    weight = np.ones((2, 2, 1, 1))
    image = np.ones((1, 2, 4, 4))
    for _ in range(2):
        fastcv.conv2d(image, weight)
        with pytest.raises(ValueError, match="out must not overlap input"):
            fastcv.conv2d(image, weight, out=image)
        with pytest.raises(TypeError, match="stride"):
            fastcv.conv2d(image, weight, stride=1.0)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="stride"):
            fastcv.conv2d(image, weight, stride=True)
