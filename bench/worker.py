"""One peer in a process of its own, and the handle through which it is told what to do.

The two speak in lines of JSON over pipes. A worker is stopped by a signal whenever it has answered,
so that threads which would spin on in the hope of more work take nothing from the one being timed.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


class WorkerError(Exception):
    """What a worker said instead of an answer."""


class Worker:
    """The parent's end: start a peer, ask it, stop it in between."""

    def __init__(self, peer: str, threads: int) -> None:
        self.peer = peer
        self.process = subprocess.Popen(
            [sys.executable, __file__, peer, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.version: str = self._answer()["version"]
        except WorkerError:
            self.close()
            raise

    def ask(self, **request: object) -> dict:
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(f"the process of {self.peer} ended") from None
        return self._answer()

    def outputs(self, op: str, case: str, mode: str) -> list[np.ndarray]:
        """Make the peer ready for a case and fetch what it computes there."""
        with tempfile.TemporaryDirectory() as folder:
            self.ask(do="prepare", op=op, case=case, mode=mode, folder=folder)
            return [np.load(path) for path in sorted(Path(folder).iterdir())]

    def time(self, seconds: float) -> float:
        """Median seconds of a call over about ``seconds`` of calls."""
        return self.ask(do="time", seconds=seconds)["median"]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(f"the process of {self.peer} ended")
        self.process.send_signal(signal.SIGSTOP)
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer


# When a stopped process goes on, the system may have all of its threads on one core, where they
# wait out each other's time slices, and takes some 40 ms to notice.
SETTLING = 0.05


def median_time(function, seconds: float) -> float:
    """Call for about ``seconds``, at least three times, after calls that only warm up."""
    now = time.perf_counter
    end = now() + SETTLING
    function()
    while now() < end:
        function()
    times = []
    end = now() + seconds
    while len(times) < 3 or now() < end:
        start = now()
        function()
        times.append(now() - start)
    return statistics.median(times)


def serve(name: str, threads: int) -> None:
    """The child's end: answer requests until the pipe closes."""
    # Whatever a library prints goes to standard error, not between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        from peers import load_peer
        from problem import make_problem

        peer = load_peer(name, threads)
    except ImportError as error:
        return answer(error=str(error))
    answer(version=peer.version)
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                # Kept, since some peers borrow its memory.
                problem = make_problem(request["op"], request["case"])
                ways = problem.ways(peer, request["mode"])
                run = min(ways, key=lambda way: median_time(way, 0.02)) if ways[1:] else ways[0]
                for index, array in enumerate(peer.arrays(run())):
                    np.save(Path(request["folder"]) / f"{index:05}.npy", array)
                answer()
            else:
                answer(median=median_time(run, request["seconds"]))
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
    sys.stdout.flush()
    os._exit(0)  # without destructors: ncnn's allocators and its nets die in the wrong order
