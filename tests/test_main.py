"""The command line: info, the demo's table and picture, and what it says when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RunPython = Callable[..., Any]


def run_main(run_python: RunPython, *arguments: object) -> Any:
    """``python -m fastcv ARGUMENTS``, from a folder without the sources."""
    words = ["fastcv", *map(str, arguments)]
    return run_python(
        f"import runpy, sys; sys.argv = {words!r}; runpy.run_module('fastcv', run_name='__main__')"
    )


def test_info(run_python: RunPython) -> None:
    done = run_main(run_python, "info")
    assert done.returncode == 0, done.stderr
    for word in ("version", "isa", "threads", "openmp", "compiler", "cuda"):
        assert word in done.stdout
    assert run_main(run_python, "info", "more").returncode == 2


def test_demo(run_python: RunPython, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    photo, picture = tmp_path / "photo.png", tmp_path / "picture.png"
    rng = np.random.default_rng(0)
    image.fromarray(rng.integers(0, 256, (120, 180, 3), np.uint8)).save(photo)
    done = run_main(run_python, "demo", photo, "--output", picture)
    assert done.returncode == 0, done.stderr
    assert "GFLOP/s" in done.stdout
    assert len(done.stdout.splitlines()) >= 10
    assert min(image.open(picture).size) >= 500


def test_demo_without_an_image_to_read(run_python: RunPython, tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    done = run_main(run_python, "demo", tmp_path / "nothing.png")
    assert done.returncode == 2
    assert "nothing.png" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_such_command(run_python: RunPython) -> None:
    done = run_main(run_python, "fly")
    assert done.returncode == 2
    assert "demo" in done.stderr
