"""What the fuzzers share: going through random examples, and a report that repeats a failure.

A fuzzer is a file ``fuzz_<op>.py`` with an ``Example``, a frozen dataclass; ``draw``, which makes
one of a seed; and ``check``, which raises AssertionError where a function is wrong on it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import fastcv


def run(
    draw: Callable[[int], Any],
    check: Callable[[Any], None],
    seed: int = 0,
    first: int = 0,
    examples: int | None = None,
    seconds: float = math.inf,
) -> int:
    """Check examples ``first``, ``first + 1``, ... of a sequence; return how many there were."""
    threads = fastcv.get_num_threads()
    end = time.monotonic() + seconds
    done = 0
    try:
        for index in count(first):
            if done == examples or time.monotonic() > end:
                break
            example = draw(seed * 1_000_003 + index)
            try:
                check(example)
            except Exception as error:
                module = Path(draw.__code__.co_filename).stem
                raise AssertionError(
                    f"{error}\n\nExample {index} of seed {seed}. To repeat it, in tests/:\n\n"
                    f"from {module} import Example, check\ncheck({example!r})"
                ) from error
            done += 1
    finally:
        fastcv.set_num_threads(threads)
    return done


def main(draw: Callable[[int], Any], check: Callable[[Any], None], doc: str) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="which sequence of examples")
    parser.add_argument("--first", type=int, default=0, help="its first example to run")
    parser.add_argument("--examples", type=int, help="how many; no end without it")
    parser.add_argument("--seconds", type=float, default=math.inf, help="or for how long")
    done = run(draw, check, **vars(parser.parse_args()))
    print(f"{done} examples agree")
