"""Time fastcv on every named case of every op with pytest-benchmark: ``pytest bench``."""

import pytest
from peers import load_peer
from problem import OPS, load_op, make_problem

import fastcv

CALLS = [
    pytest.param(op, mode, case.name, id=f"{op}-{mode}-{case.name}")
    for op in OPS
    for mode in load_op(op).modes
    for case in load_op(op).cases
]


@pytest.mark.parametrize(("op", "mode", "case"), CALLS)
def test_speed(benchmark, op, mode, case):
    problem = make_problem(op, case)
    benchmark.extra_info.update(flops=problem.flops(mode), bytes=problem.bytes(mode))
    call, *_ = problem.ways(load_peer("fastcv", fastcv.get_num_threads()), mode)
    benchmark(call)
