"""Time every named case with pytest-benchmark: ``pytest bench``."""

import numpy as np
import pytest
from cases import CASES, uniform

import fastcv


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request, benchmark):
    benchmark.extra_info["flops"] = request.param.flops
    return request.param


@pytest.fixture
def grad_output(case):
    return uniform(np.random.default_rng(1), case.output_shape, np.float32)


def test_packed(benchmark, case):
    x, weight, bias = case.arrays()
    benchmark(fastcv.Conv2d(weight, bias, **case.parameters), x)


def test_call(benchmark, case):
    benchmark(fastcv.conv2d, *case.arrays(), **case.parameters)


def test_grad_input(benchmark, case, grad_output):
    _, weight, _ = case.arrays()
    benchmark(fastcv.conv2d_grad_input, grad_output, weight, case.input_shape, **case.parameters)


def test_grad_weight(benchmark, case, grad_output):
    x, _, _ = case.arrays()
    benchmark(fastcv.conv2d_grad_weight, grad_output, x, case.weight_shape, **case.parameters)
