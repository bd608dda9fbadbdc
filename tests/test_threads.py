"""Many threads, a fork, a thousand shapes, large images: the library in a busy process."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import conv_transpose2d as transposed
from cases import uniform
from cases.conv2d import KINDS
from closeness import same_bits
from shared import SANITIZED

from fastcv import (
    Conv2d,
    ConvTranspose2d,
    conv2d,
    conv2d_grad_input,
    conv2d_grad_weight,
    conv_transpose2d,
    conv_transpose2d_grad_input,
    conv_transpose2d_grad_weight,
)

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, forks")

Calls = list[Callable[[], np.ndarray]]


def calls() -> Calls:
    """One call of every function for every kind of convolution."""
    result: Calls = []
    plain: Any = Conv2d, conv2d, conv2d_grad_input, conv2d_grad_weight
    turned: Any = (
        ConvTranspose2d,
        conv_transpose2d,
        conv_transpose2d_grad_input,
        conv_transpose2d_grad_weight,
    )
    kinds: list[Any] = [(plain, case) for case in KINDS]
    kinds += [(turned, case) for case in transposed.KINDS]
    for (plan, forward, grad_input, grad_weight), case in kinds:
        x, weight, bias = case.arrays()
        grad = uniform(np.random.default_rng(1), case.output_shape, np.float32)
        parameters = case.parameters
        result += [
            partial(forward, x, weight, bias, **parameters),
            partial(plan(weight, bias, **parameters), x),
            partial(grad_input, grad, weight, x.shape, **parameters),
            partial(grad_weight, grad, x, weight.shape, **parameters),
        ]
    return result


@pytest.mark.parametrize("kernel_threads", [1, 2, 3])
def test_32_threads_at_once(kernel_threads: int, threads: Callable[[int], None]) -> None:
    threads(kernel_threads)
    work = calls()
    want = [call() for call in work]
    start = threading.Barrier(32)
    wrong: list[str] = []

    def worker(first: int) -> None:
        start.wait()
        for step in range(len(work)):
            index = (first * 7 + step) % len(work)
            if not same_bits(work[index](), want[index]):
                wrong.append(f"thread {first}, call {index}")

    workers = [threading.Thread(target=worker, args=(n,)) for n in range(32)]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    assert not wrong


def test_the_number_of_threads_may_change_under_way(threads: Callable[[int], None]) -> None:
    work = calls()
    want = [call() for call in work]
    done = threading.Event()

    def restless() -> None:
        number = 1
        while not done.is_set():
            number = number % 4 + 1
            threads(number)

    changer = threading.Thread(target=restless)
    changer.start()
    try:
        for _ in range(3):
            assert all(same_bits(call(), right) for call, right in zip(work, want, strict=True))
    finally:
        done.set()
        changer.join()


def test_other_threads_run_while_a_kernel_does() -> None:
    # The main thread counts; it could not, were the interpreter locked for the whole call.
    x, weight = np.ones((8, 64, 96, 96), np.float32), np.ones((64, 64, 5, 5), np.float32)
    out = np.empty((8, 64, 92, 92), np.float32)
    running, finished = threading.Event(), threading.Event()

    def work() -> None:
        running.set()
        conv2d(x, weight, out=out)
        finished.set()

    worker = threading.Thread(target=work)
    worker.start()
    running.wait()
    ticks = 0
    while not finished.is_set():
        time.sleep(0.0005)
        ticks += 1
    worker.join()
    assert ticks >= 5


@only_linux
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("count", [1, 2])
def test_a_forked_child_can_call(count: int, threads: Callable[[int], None]) -> None:
    threads(count)
    work = calls()
    want = [call() for call in work]  # the parent's OpenMP threads exist from here on
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if all(same_bits(call(), right) for call, right in zip(work, want, strict=True)):
                status = 0
        finally:
            os._exit(status)

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            assert os.waitstatus_to_exitcode(status) == 0
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    # And the parent goes on.
    assert all(same_bits(call(), right) for call, right in zip(work, want, strict=True))


# What a process may grow by while a thousand shapes go through it: the allocator's own disorder.
ALLOWED_GROWTH = 16 * 2**20


@only_linux
@pytest.mark.skipif(SANITIZED, reason="a sanitizer keeps freed memory")
def test_a_thousand_shapes_leave_memory_flat() -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def run(channels: int, filters: int, height: int, width: int, kernel: int) -> None:
        x = np.ones((1, channels, height, width), np.float32)
        weight = np.ones((filters, channels, kernel, kernel), np.float32)
        y = Conv2d(weight, padding=1)(x)
        conv2d(x, weight, padding=1, out=y)
        conv2d_grad_input(y, weight, x.shape, padding=1)
        conv2d_grad_weight(y, x, weight.shape, padding=1)
        turned = np.ones((channels, filters, kernel, kernel), np.float32)
        y = ConvTranspose2d(turned, stride=2, padding=kernel // 2)(x)
        conv_transpose2d(x, turned, stride=2, padding=kernel // 2, out=y)

    for kernel in (1, 3, 5):  # the largest first
        run(64, 64, 48, 48, kernel)
    rng = np.random.default_rng(0)

    def many(count: int) -> None:
        for _ in range(count):
            channels, filters = (int(n) for n in rng.integers(1, 65, 2))
            height, width = (int(n) for n in rng.integers(5, 49, 2))
            run(channels, filters, height, width, int(rng.choice((1, 3, 5))))

    many(100)
    before = resident()
    many(1000)
    assert resident() - before <= ALLOWED_GROWTH


# Scratch that all threads together may use, whatever the sizes.
ALLOWED_SCRATCH = 32 * 2**20

# Prints by how much a call on 75 MB of pixels raised the peak, beyond the arrays that it was given.
PEAK = """
import re, numpy as np
from fastcv import *
def peak():  # not getrusage, which remembers the process that started this one
    return 1024 * int(re.search("VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
x, out = np.ones((1, 32, 768, 768), np.float32), np.ones((1, 32, 768, 768), np.float32)
def weight(group_channels, size):
    return np.ones((32, group_channels, size, size), np.float32)
conv2d(x[..., :9, :9], weight(32, 3))
before = peak()
{call}
print(peak() - before)
"""


@only_linux
@pytest.mark.skipif(SANITIZED, reason="a sanitizer has memory of its own")
@pytest.mark.parametrize(
    ("call", "result"),
    [
        ("conv2d(x, weight(32, 3), padding=1, out=out)", 0),
        ("Conv2d(weight(32, 3), padding=1)(x, out)", 0),
        ("conv2d(x, weight(32, 3), padding=5, dilation=5, out=out)", 0),
        ("conv2d(x, weight(32, 1), out=out)", 0),
        ("conv2d(x, weight(32, 5), padding=2, out=out)", 0),
        ("conv2d(x, weight(1, 7), padding=3, groups=32, out=out)", 0),
        ("conv2d(x, weight(4, 3), padding=1, groups=8, out=out)", 0),
        ("conv2d(x, weight(32, 3), padding=1, stride=2, out=out[..., :384, :384])", 0),
        ("conv2d_grad_input(out, weight(32, 3), x.shape, padding=1)", 1),
        ("conv2d_grad_input(out[..., :384, :384], weight(32, 3), x.shape, padding=1, stride=2)", 1),
        ("conv2d_grad_input(out, weight(1, 3), x.shape, padding=1, groups=32)", 1),
        ("conv2d_grad_weight(out, x, (32, 32, 3, 3), padding=1)", 0),
        ("conv2d_grad_weight(out, x, (32, 32, 1, 1))", 0),
        ("conv2d_grad_weight(out, x, (32, 1, 5, 5), padding=2, groups=32)", 0),
        ("conv_transpose2d(x, weight(32, 3), padding=1, out=out)", 0),
        ("conv_transpose2d(x[..., :384, :384], weight(32, 2), stride=2, out=out)", 0),
        ("ConvTranspose2d(weight(32, 4), stride=2, padding=1)(x[..., :384, :384], out)", 0),
        ("conv_transpose2d(x[..., :192, :192], weight(1, 8), None, 4, 2, 0, 32, out=out)", 0),
        ("conv_transpose2d(x[..., :96, :96], weight(4, 16), None, 8, 4, 0, 8, out=out)", 0),
    ],
)
def test_scratch_is_bounded(call: str, result: int, run_python: Callable[..., Any]) -> None:
    done = run_python(PEAK.replace("{call}", call))
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= ALLOWED_SCRATCH + result * 4 * 32 * 768 * 768
