"""The fuzzer's first examples; open-ended it runs as ``python tests/fuzz_conv2d.py``."""

from __future__ import annotations

import fuzz_conv2d
import pytest

CHUNK = 100


@pytest.mark.parametrize("first", range(0, 2000, CHUNK))
def test_conv2d(first: int) -> None:
    assert fuzz_conv2d.run(seed=0, first=first, examples=CHUNK) == CHUNK


def test_examples_cover_the_parameters() -> None:
    examples = [fuzz_conv2d.draw(seed) for seed in range(600)]
    for name in ("dtype", "batch", "padding", "activation", "algorithm", "threads"):
        values = {str(getattr(example, name)) for example in examples}
        assert len(values) >= 2, name
    assert any(example.input_shape[-3] == example.groups > 1 for example in examples)
    assert any(example.batch == 0 for example in examples)
    layouts = {layout for example in examples for layout in example.layouts}
    assert layouts == set(fuzz_conv2d.LAYOUTS)


def test_a_failure_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    # A kernel that is wrong for one example: the report, pasted, finds the same one.
    def broken(example: fuzz_conv2d.Example) -> None:
        assert example.dtype != "float64", "wrong"

    monkeypatch.setattr(fuzz_conv2d, "check", broken)
    with pytest.raises(AssertionError, match="To repeat it") as caught:
        fuzz_conv2d.run(seed=1)
    call = str(caught.value).splitlines()[-1]
    example = eval(call.removeprefix("check(").removesuffix(")"), vars(fuzz_conv2d))
    assert example == fuzz_conv2d.draw(example.seed)
    assert example.dtype == "float64"
