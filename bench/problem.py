"""What an op's file in ``ops/`` gives to the benchmarks.

``ops/<op>.py`` holds one class, ``Problem``, derived from the one below. Its class attributes say
what is measured: the cases (of ``tests/cases/<op>.py``), the modes with the titles of their tables,
the groups that are summed up, the kinds that the roofline tells apart. An instance holds the
float32 arrays of one case, the same ones in every process, and knows what its results must be.

How a library computes it in a mode is a method ``<library>_<mode>``, such as ``torch_call``: it
takes the peer (of ``peers/<library>.py``) and returns the ways in which the library offers that,
functions without arguments, of which the fastest counts. A library without that method takes no
part in that mode.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from peers import PEERS

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests"))

OPS = tuple(sorted(path.stem for path in (HERE / "ops").glob("*.py")))


@dataclass(frozen=True)
class Group:
    """Cases that are summed up together, against the best peer or against one by name."""

    title: str
    holds: Callable[[Any], bool]
    rival: str = ""


class Problem:
    """One case of one op, made into arrays."""

    cases: ClassVar[tuple[Any, ...]]
    modes: ClassVar[dict[str, str]]
    groups: ClassVar[tuple[Group, ...]] = ()  # after a first one of all the cases
    kinds: ClassVar[tuple[tuple[str, str], ...]] = ()  # tag and title; the first that fits counts

    def __init__(self, case: Any) -> None:
        self.case = case

    def expected(self, mode: str) -> list[np.ndarray]:
        """The results in float64."""
        raise NotImplementedError

    def flops(self, mode: str) -> int:
        """Operations by the formula, whatever the algorithm; 0 where an op does not calculate."""
        return 0

    def bytes(self, mode: str) -> int:
        """What has to move at least: each array once."""
        raise NotImplementedError

    @staticmethod
    def shape(case: Any) -> str:
        """A case in a few characters."""
        return "x".join(map(str, case.input_shape))

    def tolerance(self, mode: str) -> float:
        """The largest error that still counts as the same function."""
        return 1e-3

    def error(self, results: list[np.ndarray], expected: list[np.ndarray]) -> float:
        """The largest error of any result, relative to that result's root mean square."""
        errors = []
        for result, truth in zip(results, expected, strict=True):
            if result.shape != truth.shape:
                raise ValueError(f"shape {result.shape} is not {truth.shape}")
            errors.append(np.abs(result - truth).max() / np.sqrt(np.mean(truth**2)))
        return float(np.max(errors))

    @classmethod
    def peers(cls, mode: str) -> list[str]:
        """The peers that take part in a mode."""
        return [peer for peer, (library, _) in PEERS.items() if hasattr(cls, f"{library}_{mode}")]

    def ways(self, peer: Any, mode: str) -> list[Callable[[], Any]]:
        """How a peer computes this: functions without arguments."""
        return getattr(self, f"{peer.library}_{mode}")(peer)


def load_op(op: str) -> type[Problem]:
    return importlib.import_module(f"ops.{op}").Problem


def find_case(op: str, name: str) -> Any:
    return next(case for case in load_op(op).cases if case.name == name)


def make_problem(op: str, name: str) -> Problem:
    return load_op(op)(find_case(op, name))
