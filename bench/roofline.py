"""Draw a comparison's cases under the machine's limits: ``python bench/roofline.py FILE``."""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from problem import OPS, find_case, load_op

from fastcv import _core

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "roofline.png"


def kind(op: str, case: str) -> str:
    """The first of the op's kinds whose tag the case carries."""
    tags = find_case(op, case).tags
    return next((title for tag, title in load_op(op).kinds if tag in tags), "other")


def draw(result: dict, op: str, mode: str, peak: float, bandwidth: float, output: Path) -> None:
    rows = [row for row in result["tables"][op][mode] if "fastcv" in row["seconds"]]
    intensity = np.array([row["flops"] / row["bytes"] for row in rows])
    rate = np.array([row["flops"] / row["seconds"]["fastcv"] for row in rows])
    kinds = [kind(op, row["case"]) for row in rows]

    figure, axes = plt.subplots(figsize=(10, 6.5), layout="constrained")
    ends = np.array([intensity.min() / 2, peak / bandwidth, intensity.max() * 2])
    axes.loglog(ends, np.minimum(ends * bandwidth, peak) / 1e9, color="black", linewidth=1.5)
    for title in dict.fromkeys(kinds):
        chosen = np.array([each == title for each in kinds])
        axes.scatter(intensity[chosen], rate[chosen] / 1e9, label=title, s=36)
    axes.annotate(
        f"peak {peak / 1e9:.0f} GFLOP/s",
        (ends[2], peak / 1e9),
        ha="right",
        va="bottom",
        xytext=(0, 4),
        textcoords="offset points",
    )
    axes.annotate(
        f"memory {bandwidth / 1e9:.0f} GB/s",
        (ends[0], ends[0] * bandwidth / 1e9),
        va="top",
        xytext=(14, -4),
        textcoords="offset points",
    )
    axes.set_title(f"{op}, {mode}: {result['cpu']}, {result['threads']} threads, float32")
    axes.set_xlabel("FLOP per byte (by the op's formula; every array moved once)")
    axes.set_ylabel("GFLOP/s, counted by the formula")
    axes.grid(which="both", alpha=0.2)
    axes.legend(loc="lower right")
    figure.savefig(output, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Winograd multiplies less than a direct convolution, so 3x3 cases may lie above the "
        "peak; arrays that stay in the caches may lie above the memory's slope.",
    )
    parser.add_argument("result", type=Path, help="what compare.py wrote with --json")
    parser.add_argument("--op", choices=OPS, default="conv2d", help="which op (conv2d)")
    parser.add_argument("--mode", help="which table (the op's first)")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE")
    options = parser.parse_args()
    result = json.loads(options.result.read_text())
    peak = _core.measure_peak(4, result["threads"])
    bandwidth = _core.measure_bandwidth(result["threads"])
    mode = options.mode or next(iter(result["tables"][options.op]))
    draw(result, options.op, mode, peak, bandwidth, options.output)
    print(f"peak {peak / 1e9:.0f} GFLOP/s, memory {bandwidth / 1e9:.1f} GB/s: {options.output}")


if __name__ == "__main__":
    main()
