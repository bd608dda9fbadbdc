"""Every operation: every way to be wrong raises as documented, and writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from shared import SANITIZED, ones

from fastcv import (
    Conv2d,
    conv2d,
    conv2d_grad_input,
    conv2d_grad_weight,
    get_num_threads,
    set_num_threads,
    show_config,
)

pytestmark = pytest.mark.usefixtures("process_stays_sound")


# Sizes that no memory holds


def test_sizes_whose_product_overflows() -> None:
    one, window = ones(1, 1, 1, 1), ones(1, 1, 1, 1)
    for padding in (2**31, 2**40, 2**61, 2**63 - 1):
        for call in (
            lambda p=padding: conv2d(one, window, padding=p),
            lambda p=padding: Conv2d(window, padding=p)(one),
        ):
            with pytest.raises(ValueError, match=rf"(?i)^conv2d: .*{2 * padding + 1}"):
                call()
    with pytest.raises(ValueError, match=rf"^conv2d_grad_input: .*{2**40}"):
        conv2d_grad_input(one, window, (1, 1, 2**40, 2**40), stride=2**40)
    with pytest.raises(ValueError, match=rf"^conv2d_grad_weight: .*{2**40}"):
        conv2d_grad_weight(one, one, (1, 1, 2**40, 2**40), padding=2**39)


def test_memory_that_cannot_be_had() -> None:
    # 2**54 elements and more: the sizes are sound, the address space is not large enough.
    one, window = ones(1, 1, 1, 1), ones(1, 1, 1, 1)
    with pytest.raises(MemoryError):
        conv2d(one, window, padding=2**26)
    with pytest.raises(MemoryError):
        Conv2d(window, padding=2**26)(one)
    with pytest.raises(MemoryError):
        conv2d_grad_input(ones(1, 1, 2, 2), window, (1, 1, 2**27, 2**27), stride=2**26)


# Runs in a process that may not grow: counts the calls that fail, then, with the limit lifted,
# prints the sum of a result.
SCRATCH = """
import resource, numpy as np, fastcv
rng = np.random.default_rng(0)
x, w = rng.random((1, 64, 60, 60), np.float32), rng.random((96, 64, 3, 3), np.float32)
grad = rng.random((1, 96, 60, 60), np.float32)
out = np.empty_like(grad)
fastcv.set_num_threads(1)
_, hard = resource.getrlimit(resource.RLIMIT_AS)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), hard))
failures = 0
for call in 3 * [
    lambda: fastcv.conv2d(x, w, padding=1, out=out),
    lambda: fastcv.Conv2d(w, padding=1)(x, out),
    lambda: fastcv.conv2d_grad_input(grad, w, x.shape, padding=1),
    lambda: fastcv.conv2d_grad_weight(grad, x, w.shape, padding=1),
    lambda: fastcv.conv_transpose2d(grad[..., :30, :30], w, stride=2, padding=1),
    lambda: fastcv.ConvTranspose2d(w, stride=2, padding=1)(grad[..., :30, :30]),
]:
    try:
        call()
    except MemoryError:
        failures += 1
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
print(failures, fastcv.conv2d(x, w, padding=1).astype(float).sum())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
@pytest.mark.skipif(SANITIZED, reason="a sanitizer ends a process that runs out of memory")
def test_scratch_that_cannot_be_had(run_python: Callable[..., Any]) -> None:
    done = run_python(SCRATCH)
    assert done.returncode == 0, done.stderr
    failures, total = done.stdout.split()
    assert int(failures) >= 1, "nothing needed memory, so nothing was tested"
    rng = np.random.default_rng(0)
    x, w = rng.random((1, 64, 60, 60), np.float32), rng.random((96, 64, 3, 3), np.float32)
    assert float(total) == float(conv2d(x, w, padding=1).astype(float).sum())


def test_huge_parameters_that_are_right() -> None:
    # Far out, but a small result: neither the offsets nor the scratch may grow with them.
    rng = np.random.default_rng(1)
    x, weight = rng.random((1, 4, 5, 6)), rng.random((3, 4, 3, 3))
    centre = np.ascontiguousarray(weight[:, :, 1:2, 1:2])
    np.testing.assert_allclose(
        conv2d(x, weight, stride=2**62), conv2d(x, weight)[..., :1, :1], rtol=1e-12
    )
    np.testing.assert_allclose(conv2d(x, centre, dilation=2**62), conv2d(x, centre), rtol=1e-12)
    for far in (7, 2**10, 2**20, 2**26):
        got = conv2d(x, weight, padding=far, dilation=far)
        np.testing.assert_allclose(got, conv2d(x, centre), rtol=1e-12)
        want = np.zeros((1, 3, 3, 3))
        want[..., 1, 1] = conv2d(x, centre)[..., 0, 0]
        got = conv2d(x, centre, stride=far, padding=far)
        np.testing.assert_allclose(got, want, rtol=1e-12)


# The rest of the package


def test_threads_and_configuration() -> None:
    before = get_num_threads()
    for error, values in ((ValueError, (0, -1, 2**63)), (TypeError, (1.0, True, None))):
        for value in values:
            with pytest.raises(error, match=r"^set_num_threads: n must be"):
                set_num_threads(value)
            assert get_num_threads() == before
    with pytest.raises(ValueError, match=r"^show_config: mode must be .* got 'json'"):
        show_config(mode="json")
