"""Compare fastcv with the other libraries that are installed: ``python bench/compare.py``.

Every peer runs in its own process with the same number of threads. For each case its output is
first checked against float64; then the peers are timed in alternating rounds, one at a time while
the others stand still. A peer's time is the median, over the rounds, of its median in the round.
"""

import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from pathlib import Path

from peers import PEERS
from problem import OPS, load_op, make_problem
from report import markdown
from worker import Worker, WorkerError


def stand_still() -> None:
    """Wait until no thread of this process runs: a BLAS's spin on for a tenth of a second."""
    used, end = 1.0, time.monotonic() + 2
    while used > 0.002 and time.monotonic() < end:
        start = time.process_time()
        time.sleep(0.02)
        used = time.process_time() - start


def measure_case(
    op: str, case: str, mode: str, workers: list[Worker], rounds: int, seconds: float
) -> dict:
    """Check every worker on one case, then time those that are right in alternating rounds."""
    problem = make_problem(op, case)
    expected = problem.expected(mode)
    errors, refused, ready = {}, {}, []
    for worker in workers:
        try:
            error = problem.error(worker.outputs(op, case, mode), expected)
            errors[worker.peer] = error
            if not error < problem.tolerance(mode):
                raise ValueError(f"wrong by {error:.1e} of the result's root mean square")
            ready.append(worker)
        except (WorkerError, ValueError) as reason:
            refused[worker.peer] = str(reason)
    times: dict[str, list[float]] = {worker.peer: [] for worker in ready}
    stand_still()
    for turn in range(rounds):
        first = turn % max(1, len(ready))
        for worker in ready[first:] + ready[:first]:
            times[worker.peer].append(worker.time(seconds))
    return {
        "case": case,
        "flops": problem.flops(mode),
        "bytes": problem.bytes(mode),
        "seconds": {peer: statistics.median(each) for peer, each in times.items()},
        "rounds": times,
        "error": errors,
        "refused": refused,
    }


def start_workers(names: list[str], threads: int) -> list[Worker]:
    workers = []
    for name in names:
        try:
            workers.append(Worker(name, threads))
        except WorkerError as reason:
            print(f"without {name}: {reason}", file=sys.stderr)
    return workers


def cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    modes = tuple(dict.fromkeys(mode for op in OPS for mode in load_op(op).modes))
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS, help="only these ops")
    parser.add_argument("--cases", default="", metavar="REGEX", help="only cases that match")
    parser.add_argument("--peers", default="", metavar="REGEX", help="only peers that match")
    parser.add_argument("--modes", nargs="+", choices=modes, default=modes, help="which tables")
    parser.add_argument("--threads", type=int, default=2, help="threads of every peer (2)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds per case (7)")
    parser.add_argument("--seconds", type=float, default=0.05, help="length of a round (0.05)")
    parser.add_argument("--quick", action="store_true", help="three rounds of 0.02 s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds, options.seconds = 3, 0.02
    return options


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"other programs are running (load {load}): expect unsteady times", file=sys.stderr)
    tables = [
        (op, mode) for op in options.ops for mode in options.modes if mode in load_op(op).modes
    ]
    useful = {peer for op, mode in tables for peer in load_op(op).peers(mode)}
    names = [p for p in PEERS if p == "fastcv" or (p in useful and re.search(options.peers, p))]
    workers = start_workers(names, options.threads)
    result: dict = {
        "cpu": cpu_model(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "load_before": load,
        "versions": {worker.peer: worker.version for worker in workers},
        "threads": options.threads,
        "rounds": options.rounds,
        "seconds_per_round": options.seconds,
        "tables": {},
    }
    try:
        for op, mode in tables:
            problem = load_op(op)
            cases = [case.name for case in problem.cases if re.search(options.cases, case.name)]
            taking_part = [worker for worker in workers if worker.peer in problem.peers(mode)]
            table = result["tables"].setdefault(op, {})[mode] = []
            for number, case in enumerate(cases, 1):
                print(f"\r{op} {mode} {number}/{len(cases)} {case:40}", end="", file=sys.stderr)
                table.append(
                    measure_case(op, case, mode, taking_part, options.rounds, options.seconds)
                )
            print(file=sys.stderr)
    finally:
        for worker in workers:
            worker.close()
    text = markdown(result)
    print(text)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(text + "\n")
    rows = [row for op, mode in tables for row in result["tables"][op][mode]]
    return int(any("fastcv" in row["refused"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
