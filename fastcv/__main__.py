"""The command line: ``python -m fastcv info``, ``demo`` or ``bench``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from fastcv import show_config

_CHECKOUT = Path(__file__).resolve().parent.parent
_COMPARE = _CHECKOUT / "bench" / "compare.py"


def main(argv: list[str]) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastcv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="commands:\n"
        "  info   version, instruction set, threads, OpenMP runtime, CUDA\n"
        "  demo   run every op on a photograph; prints a table and writes fastcv-demo.png\n"
        "  bench  compare the speed with other libraries (in a source checkout)",
    )
    parser.add_argument("command", choices=("info", "demo", "bench"))
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="passed on: try 'demo --help', 'bench --help'"
    )
    options = parser.parse_args(argv)

    if options.command == "demo":
        from fastcv._demo import main as demo  # here, for what it imports only the demo needs

        return demo(options.arguments)
    if options.command == "bench":
        return _bench(options.arguments)
    if options.arguments:
        parser.error(f"info takes no arguments, got {' '.join(options.arguments)}")
    show_config()
    return 0


def _bench(arguments: list[str]) -> int:
    if not _COMPARE.exists():
        print(
            "The benchmark is not part of the installed package: it lives in the source "
            "repository.\nIn a checkout, run: python bench/compare.py",
            file=sys.stderr,
        )
        return 2
    # The benchmark and the processes that it starts import this checkout's fastcv.
    search_path = os.pathsep.join(filter(None, (str(_CHECKOUT), os.environ.get("PYTHONPATH"))))
    return subprocess.call(
        [sys.executable, str(_COMPARE), *arguments], env={**os.environ, "PYTHONPATH": search_path}
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
