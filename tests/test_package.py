"""The package as a whole: what it imports, how it is configured, whom it shares a process with."""

from __future__ import annotations

import doctest
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest
from pages import run_examples
from shared import SANITIZED

import fastcv

RunPython = Callable[..., Any]

# Variables under which this suite itself may run.
PLAIN = {"FASTCV_ISA": None, "FASTCV_NUM_THREADS": None, "OMP_NUM_THREADS": None}
THREADS = "import fastcv; print(fastcv.get_num_threads())"


def output_of(done: Any) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Import


def test_imports_numpy_and_nothing_else(run_python: RunPython) -> None:
    code = """
import sys, json, numpy
before = set(sys.modules)
import fastcv
print(json.dumps([sorted(set(sys.modules) - before), sorted(sys.modules)]))
"""
    added, everything = json.loads(output_of(run_python(code)))
    foreign = {
        name
        for name in (module.partition(".")[0] for module in added)
        if name not in sys.stdlib_module_names | {"fastcv", "numpy"}
    }
    assert not foreign
    assert not {"torch", "jax", "autograd", "scipy", "matplotlib", "skimage"} & set(everything)
    assert "importlib.metadata" not in added, "takes longer to import than all of fastcv"


def test_works_without_any_other_package(run_python: RunPython) -> None:
    # A finder that refuses everything beyond NumPy, in case something is imported on first use.
    code = """
import sys, numpy as np
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "jax", "scipy", "threadpoolctl", "skimage"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import fastcv
x, w = np.ones((2, 3, 8, 8)), np.ones((4, 3, 3, 3))
y = fastcv.Conv2d(w)(x)
assert np.allclose(y, 27) and np.allclose(fastcv.conv2d(x, w), 27)
fastcv.conv2d_grad_input(y, w, x.shape), fastcv.conv2d_grad_weight(y, x, w.shape)
fastcv.show_config()
"""
    output_of(run_python(code))


@pytest.mark.skipif(SANITIZED, reason="measures the sanitizer")
def test_import_is_quick(run_python: RunPython) -> None:
    code = """
import numpy, time
start = time.perf_counter()
import fastcv
print(time.perf_counter() - start)
"""
    best = min(float(output_of(run_python(code))) for _ in range(5))
    assert best < 0.1


def test_public_names() -> None:
    assert sorted(fastcv.__all__) == sorted(set(fastcv.__all__))
    for name in fastcv.__all__:
        assert getattr(fastcv, name).__doc__, name
    with pytest.raises(AttributeError, match="no_such_op"):
        fastcv.no_such_op  # noqa: B018


def test_examples_of_the_docstrings() -> None:
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    before = fastcv.get_num_threads()
    for name in fastcv.__all__:
        tests = finder.find(getattr(fastcv, name), name)
        assert any(test.examples for test in tests), f"{name} shows no example"
        for test in tests:
            assert runner.run(test).failed == 0, test.name
    assert fastcv.get_num_threads() == before


def test_quick_start_of_the_readme() -> None:
    run_examples("README.md")


def test_version() -> None:
    assert fastcv.show_config(mode="dicts")["version"] == fastcv.__version__
    try:
        assert fastcv.__version__ == version("fastcv")
    except PackageNotFoundError:
        pytest.skip("built in place, not installed")


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    config = fastcv.show_config(mode="dicts")
    assert not capsys.readouterr().out
    assert config["threads"] == fastcv.get_num_threads()
    assert config["isa"]["in use"] in config["isa"]["available"]
    assert any("omp" in path for path in config["openmp"]["runtime"])
    fastcv.show_config()
    printed = capsys.readouterr().out
    for text in (fastcv.__version__, config["isa"]["in use"], config["compiler"]):
        assert text in printed


# Instruction sets

AVAILABLE = fastcv.show_config(mode="dicts")["isa"]["available"]
ISA = "import fastcv; print(fastcv.show_config(mode='dicts')['isa']['in use'])"


def test_the_forced_instruction_set_runs_in_this_very_suite() -> None:
    in_use = fastcv.show_config(mode="dicts")["isa"]["in use"]
    assert in_use == os.environ.get("FASTCV_ISA", in_use)


@pytest.mark.parametrize("isa", AVAILABLE)
def test_forced_instruction_set(isa: str, run_python: RunPython) -> None:
    assert output_of(run_python(ISA, **{**PLAIN, "FASTCV_ISA": isa})) == isa


def test_instruction_sets_agree(run_python: RunPython) -> None:
    # Not in bits, since vectors of other widths add in another order: in float64, nearly.
    code = """
import numpy as np, fastcv
from cases.conv2d import KINDS
sums = []
for case in KINDS:
    x, weight, bias = case.arrays(np.float64)
    sums.append(float(np.square(fastcv.conv2d(x, weight, bias, **case.parameters)).sum()))
print(sums)
"""
    path = os.pathsep.join((os.path.dirname(__file__), *sys.path))
    results = [
        json.loads(output_of(run_python(code, **{**PLAIN, "FASTCV_ISA": isa, "PYTHONPATH": path})))
        for isa in AVAILABLE
    ]
    for result in results:
        assert result == pytest.approx(results[0], rel=1e-11)


def test_the_widest_is_the_default(run_python: RunPython) -> None:
    order = ["baseline", "neon", "avx2", "avx512"]
    default = output_of(run_python(ISA, **PLAIN))
    assert default == max(AVAILABLE, key=order.index)


@pytest.mark.parametrize("isa", ["avx1024", "", "AVX2", "neon", "avx512"])
def test_an_instruction_set_that_is_not_there(isa: str, run_python: RunPython) -> None:
    if isa in AVAILABLE:
        pytest.skip(f"this machine has {isa}")
    done = run_python(ISA, **{**PLAIN, "FASTCV_ISA": isa})
    if not isa:  # an empty variable is as good as none
        assert output_of(done) in AVAILABLE
        return
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "FASTCV_ISA" in last and isa in last


# Threads


def test_number_of_threads_from_the_environment(run_python: RunPython) -> None:
    for variables, number in (
        ({"FASTCV_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "4"}, 4),
        ({"FASTCV_NUM_THREADS": "2", "OMP_NUM_THREADS": "5"}, 2),
    ):
        assert int(output_of(run_python(THREADS, **{**PLAIN, **variables}))) == number
    assert int(output_of(run_python(THREADS, **PLAIN))) >= 1


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5", "99999999999999999999"])
def test_a_number_of_threads_that_is_none(number: str, run_python: RunPython) -> None:
    done = run_python(THREADS, **{**PLAIN, "FASTCV_NUM_THREADS": number})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "FASTCV_NUM_THREADS" in last and number in last


def test_set_num_threads(threads: Callable[[int], None]) -> None:
    for number in (1, 5, 2):
        threads(number)
        assert fastcv.get_num_threads() == number


def test_threadpoolctl_sees_and_limits(run_python: RunPython) -> None:
    code = """
import fastcv, numpy as np
from threadpoolctl import threadpool_info, threadpool_limits
runtimes = [pool for pool in threadpool_info() if pool["user_api"] == "openmp"]
assert len(runtimes) == 1, runtimes
x, w = np.ones((1, 16, 40, 40)), np.ones((16, 16, 3, 3))
want = fastcv.conv2d(x, w)
before = fastcv.get_num_threads()
with threadpool_limits(limits=1, user_api="openmp"):
    assert fastcv.get_num_threads() == 1
    assert (fastcv.conv2d(x, w) == want).all()
assert fastcv.get_num_threads() == before
"""
    pytest.importorskip("threadpoolctl")
    output_of(run_python(code, **{**PLAIN, "OMP_NUM_THREADS": "2"}))


@pytest.mark.parametrize("order", ["torch, fastcv", "fastcv, torch"])
def test_shares_torchs_openmp_runtime(order: str, run_python: RunPython) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("threadpoolctl")
    code = f"""
import {order}
import numpy as np
from threadpoolctl import threadpool_info
x, w = np.ones((1, 16, 40, 40)), np.ones((16, 16, 3, 3))
y = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(w)).numpy()
assert np.allclose(fastcv.conv2d(x, w), y, rtol=1e-12)
runtimes = {{pool["filepath"] for pool in threadpool_info() if pool["user_api"] == "openmp"}}
assert len(runtimes) == 1, runtimes
"""
    output_of(run_python(code, **PLAIN))
