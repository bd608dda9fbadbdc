"""What every test shares: two threads unless told otherwise, and a fresh interpreter on demand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Read when the runtimes start, so before anything loads them. The reference's BLAS and the kernels
# take turns: each library's idle threads would spin while the other's work, for most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from cuda_emulated import ORDERS, in_order

import fastcv


def pytest_report_header() -> str:
    config = fastcv.show_config(mode="dicts")
    return (
        f"fastcv: {config['isa']['in use']} of {', '.join(config['isa']['available'])}, "
        f"{config['threads']} threads, {Path(fastcv.__file__).parent}"
    )


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads, for this test alone."""
    before = fastcv.get_num_threads()
    yield fastcv.set_num_threads
    fastcv.set_num_threads(before)


@pytest.fixture(params=ORDERS)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """CUDA's, emulated in three orders of threads, one of them with a grid of three blocks."""
    yield from in_order(request.param, monkeypatch)


@pytest.fixture
def process_stays_sound() -> Iterator[None]:
    """Whatever a test provoked, the next call is right."""
    yield
    image, weight = np.ones((2, 8, 9, 10), np.float32), np.ones((6, 4, 3, 3), np.float32)
    got = fastcv.conv2d(image, weight, np.ones(6, np.float32), groups=2)
    np.testing.assert_allclose(got, np.full((2, 6, 7, 8), 37), rtol=1e-5)


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a new interpreter that finds the fastcv under test, with these variables set."""

    def run(
        code: str, timeout: float = 120, **variables: str | None
    ) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(Path(fastcv.__file__).parents[1])}
        for name, value in variables.items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = value
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
