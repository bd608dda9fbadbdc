"""The fuzzers' first examples; open-ended they run as ``python tests/fuzz_conv2d.py``."""

from __future__ import annotations

import fuzz_conv2d
import fuzz_conv_transpose2d
import fuzz_detr_match
import fuzz_gram_matrix
import fuzz_linear_sum_assignment
import fuzz_max_pool2d
import fuzz_scaled_dot_product_attention
import fuzzing
import pytest

CHUNK = 100


@pytest.mark.parametrize("first", range(0, 2000, CHUNK))
def test_conv2d(first: int) -> None:
    draw, check = fuzz_conv2d.draw, fuzz_conv2d.check
    assert fuzzing.run(draw, check, first=first, examples=CHUNK) == CHUNK


@pytest.mark.parametrize("first", range(0, 1000, CHUNK))
def test_conv_transpose2d(first: int) -> None:
    draw, check = fuzz_conv_transpose2d.draw, fuzz_conv_transpose2d.check
    assert fuzzing.run(draw, check, first=first, examples=CHUNK) == CHUNK


@pytest.mark.parametrize("first", range(0, 1000, CHUNK))
def test_gram_matrix(first: int) -> None:
    draw, check = fuzz_gram_matrix.draw, fuzz_gram_matrix.check
    assert fuzzing.run(draw, check, first=first, examples=CHUNK) == CHUNK


@pytest.mark.parametrize("first", range(0, 600, CHUNK))
def test_scaled_dot_product_attention(first: int) -> None:
    draw, check = fuzz_scaled_dot_product_attention.draw, fuzz_scaled_dot_product_attention.check
    assert fuzzing.run(draw, check, first=first, examples=CHUNK) == CHUNK


@pytest.mark.parametrize("first", range(0, 1000, CHUNK))
def test_linear_sum_assignment(first: int) -> None:
    draw, check = fuzz_linear_sum_assignment.draw, fuzz_linear_sum_assignment.check
    assert fuzzing.run(draw, check, first=first, examples=CHUNK) == CHUNK


@pytest.mark.parametrize("first", range(0, 1000, CHUNK))
def test_max_pool2d(first: int) -> None:
    draw, check = fuzz_max_pool2d.draw, fuzz_max_pool2d.check
    assert fuzzing.run(draw, check, first=first, examples=CHUNK) == CHUNK


def test_examples_of_poolings_cover_the_parameters() -> None:
    examples = [fuzz_max_pool2d.draw(seed) for seed in range(600)]
    for name in ("dtype", "index_dtype", "batched", "values", "threads"):
        values = {str(getattr(example, name)) for example in examples}
        assert len(values) >= 2, name
    assert any(example.case.input_shape[0] == 0 for example in examples)
    assert {example.case.ceil_mode for example in examples} == {False, True}
    layouts = {layout for example in examples for layout in example.layouts}
    assert layouts == set(fuzz_max_pool2d.LAYOUTS)


@pytest.mark.parametrize("first", range(0, 600, CHUNK))
def test_detr_match(first: int) -> None:
    draw, check = fuzz_detr_match.draw, fuzz_detr_match.check
    assert fuzzing.run(draw, check, first=first, examples=CHUNK) == CHUNK


def test_examples_cover_the_parameters() -> None:
    examples = [fuzz_conv2d.draw(seed) for seed in range(600)]
    for name in ("dtype", "batch", "padding", "activation", "algorithm", "threads"):
        values = {str(getattr(example, name)) for example in examples}
        assert len(values) >= 2, name
    assert any(example.input_shape[-3] == example.groups > 1 for example in examples)
    assert any(example.batch == 0 for example in examples)
    layouts = {layout for example in examples for layout in example.layouts}
    assert layouts == set(fuzz_conv2d.LAYOUTS)


def test_transposed_examples_cover_the_parameters() -> None:
    examples = [fuzz_conv_transpose2d.draw(seed) for seed in range(600)]
    for name in ("dtype", "batch", "stride", "padding", "dilation", "activation", "threads"):
        values = {str(getattr(example, name)) for example in examples}
        assert len(values) >= 2, name
    appended = [(e.output_padding[0], e.stride[0]) for e in examples]
    assert any(0 < extra < stride for extra, stride in appended)
    assert any(extra >= stride for extra, stride in appended)
    assert any(example.groups > 1 == example.group_channels for example in examples)
    layouts = {layout for example in examples for layout in example.layouts}
    assert layouts == set(fuzz_conv_transpose2d.LAYOUTS)


def test_a_failure_can_be_repeated() -> None:
    # A kernel that is wrong for one example: the report, pasted, finds the same one.
    def broken(example: fuzz_conv2d.Example) -> None:
        assert example.dtype != "float64", "wrong"

    with pytest.raises(AssertionError, match="from fuzz_conv2d import") as caught:
        fuzzing.run(fuzz_conv2d.draw, broken, seed=1)
    call = str(caught.value).splitlines()[-1]
    example = eval(call.removeprefix("check(").removesuffix(")"), vars(fuzz_conv2d))
    assert example == fuzz_conv2d.draw(example.seed)
    assert example.dtype == "float64"
