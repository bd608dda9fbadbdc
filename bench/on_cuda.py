"""Pooling on a CUDA device, beside torch: the time a call keeps the device busy. Prints Markdown.

Each call runs so often between two events that the host keeps ahead, in rounds that take turns;
the table has medians over the rounds, and the memory traffic that a call cannot avoid, by its time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch

import fastcv.torch as ft

# N, C, H, W; window, stride, padding: stems and stages of networks, and a segmentation's unpooling.
CASES = {
    "resnet_stem": ((64, 64, 112, 112), 3, 2, 1),
    "vgg_first": ((32, 64, 224, 224), 2, 2, 0),
    "vgg_last": ((32, 512, 14, 14), 2, 2, 0),
    "inception": ((32, 192, 28, 28), 3, 1, 1),
    "spp": ((16, 256, 20, 20), 13, 1, 6),
}


def milliseconds(call: Callable[[], Any], at_least: float = 3.0) -> float:
    """Device time of one call, over as many as take so many milliseconds."""
    count = 1
    while True:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        took = float(start.elapsed_time(end))
        if took >= at_least:
            return took / count
        count *= 2


def calls(
    x: Any, window: tuple[int, int, int]
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any], int]]:
    """Of each mode: fastcv's call, torch's, and bytes that have to be moved."""
    values, indices = torch.nn.functional.max_pool2d(x, *window, return_indices=True)
    size, pooled, numbers = x.nbytes, values.nbytes, indices.nbytes
    both = torch.ops.aten.max_pool2d_with_indices_backward.default
    pair = [[each, each] for each in window]
    shape = tuple(x.shape)
    found = {
        "values": (
            lambda: ft.max_pool2d(x, *window),
            lambda: torch.nn.functional.max_pool2d(x, *window),
            size + pooled,
        ),
        "indices": (
            lambda: ft.max_pool2d(x, *window, return_indices=True),
            lambda: torch.nn.functional.max_pool2d(x, *window, return_indices=True),
            size + pooled + numbers,
        ),
        "gradient": (
            lambda: ft.max_pool2d_grad_input(values, indices, shape),
            lambda: both(values, x, *pair, [1, 1], False, indices),
            size + pooled + numbers,
        ),
    }
    if window[0] == window[1]:
        found["unpool"] = (
            lambda: ft.max_unpool2d(values, indices, *window, output_size=shape),
            lambda: torch.nn.functional.max_unpool2d(values, indices, *window, output_size=shape),
            size + pooled + numbers,
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds: int = parser.parse_args().rounds
    if not torch.cuda.is_available():
        print("There is no CUDA device here.", file=sys.stderr)
        return 1
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}\n")
    print("| case | type | layout | mode | fastcv ms | torch ms | torch / fastcv | GB/s |")
    print("|---|---|---|---|---:|---:|---:|---:|")
    for name, (shape, *window) in CASES.items():
        for dtype in (torch.float32, torch.float16):
            for layout in (torch.contiguous_format, torch.channels_last):
                x = torch.randn(shape, device="cuda", dtype=dtype).to(memory_format=layout)
                for mode, (own, torchs, moved) in calls(
                    x, (window[0], window[1], window[2])
                ).items():
                    own(), torchs()
                    times = [(milliseconds(own), milliseconds(torchs)) for _ in range(rounds)]
                    ours, theirs = (statistics.median(each) for each in zip(*times, strict=True))
                    kind = "NCHW" if layout is torch.contiguous_format else "channels-last"
                    figures = (f"{ours:.4f}", f"{theirs:.4f}", f"{theirs / ours:.2f}")
                    cells = (
                        name,
                        str(dtype)[6:],
                        kind,
                        mode,
                        *figures,
                        f"{moved / ours / 1e6:.0f}",
                    )
                    print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
