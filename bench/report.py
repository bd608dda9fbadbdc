"""A comparison's numbers as Markdown: how each class of cases fares, then every case."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from problem import BY_NAME, Case

TITLES = {
    "packed": "Weights packed ahead: `Conv2d` against every peer",
    "call": "A plain call: `conv2d` against torch",
    "gradients": "Both gradients: `conv2d_grad_input` and `conv2d_grad_weight` against torch",
}


@dataclass(frozen=True)
class Group:
    """Cases that are summed up together, against the best peer or against one by name."""

    title: str
    holds: Callable[[Case], bool]
    rival: str = ""


def _wide_3x3(case: Case) -> bool:
    channels = min(case.input_shape[1], case.filters)
    return case.kernel == (3, 3) and case.stride == (1, 1) and case.groups == 1 and channels >= 64


GROUPS = (
    Group("all cases", lambda case: True),
    Group(
        "3x3, stride 1, 64 channels and more, against ncnn",
        lambda case: _wide_3x3(case) and case.dilation == (1, 1),
        "ncnn",
    ),
    Group(
        "dilated 3x3, 64 channels and more",
        lambda case: _wide_3x3(case) and case.dilation != (1, 1),
    ),
    Group("depthwise", lambda case: "depthwise" in case.tags),
)


def ratio(row: dict, rival: str = "") -> float | None:
    """The best peer's time, or one peer's, over fastcv's; None if there is nothing to compare."""
    times = row["seconds"]
    rivals = [t for peer, t in times.items() if peer != "fastcv" and rival in ("", peer)]
    return min(rivals) / times["fastcv"] if rivals and "fastcv" in times else None


def shape(case: Case) -> str:
    """A case in a few characters, such as ``128x56x56 to 64, 3x3 s2 g32``."""
    batch, *image = case.input_shape
    text = f"{batch} x " if batch > 1 else ""
    text += "x".join(map(str, image)) + f" to {case.filters}, {case.kernel[0]}x{case.kernel[1]}"
    for letter, pair in (("s", case.stride), ("d", case.dilation)):
        if pair != (1, 1):
            text += f" {letter}{pair[0]}" if pair[0] == pair[1] else f" {letter}{pair[0]}x{pair[1]}"
    return text + (f" g{case.groups}" if case.groups > 1 else "")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose first two columns are text and whose others are numbers."""
    rule = ["---", "---"] + ["---:"] * (len(head) - 2)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def mark(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"**{value:.2f}**"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def summary(mode: str, rows: list[dict]) -> str:
    lines = []
    for group in GROUPS if mode == "packed" else GROUPS[:1]:
        members = [row for row in rows if group.holds(BY_NAME[row["case"]])]
        ratios = {row["case"]: ratio(row, group.rival) for row in members}
        known = {case: value for case, value in ratios.items() if value is not None}
        if known:
            worst = min(known, key=known.__getitem__)
            lost = sum(value < 1 for value in known.values())
            mean = statistics.geometric_mean(known.values())
            cells = [group.title, f"`{worst}`", mark(known[worst]), mark(mean), len(known), lost]
            lines.append([str(cell) for cell in cells])
    return table(["cases", "worst case", "its ratio", "geometric mean", "count", "lost"], lines)


def every_case(mode: str, rows: list[dict]) -> str:
    peers = list(dict.fromkeys(peer for row in rows for peer in [*row["seconds"], *row["refused"]]))
    peers.sort(key="fastcv".__ne__)
    lines = []
    for row in rows:
        case, times = BY_NAME[row["case"]], row["seconds"]
        best = ratio(row)
        rate = f"{row['flops'] / times['fastcv'] / 1e9:.0f}" if "fastcv" in times else "-"
        error = row["error"].get("fastcv")
        lines.append(
            [
                f"`{case.name}`",
                shape(case),
                *(milliseconds(times[peer]) if peer in times else "-" for peer in peers),
                rate,
                "-" if best is None else mark(best),
                "-" if error is None else f"{error:.0e}",
            ]
        )
    return table(["case", "shape", *peers, "GFLOP/s", "ratio", "error"], lines)


def unsteady(row: dict) -> bool:
    """Whether half of the rounds of any peer lie more than a fifth apart: something interfered."""
    quartiles = (statistics.quantiles(times, n=4) for times in row["rounds"].values())
    return any(high > 1.2 * low for low, _, high in quartiles)


def markdown(result: dict) -> str:
    versions = ", ".join(f"{peer} {version}" for peer, version in result["versions"].items())
    parts = [
        f"{result['cpu']}, {result['threads']} threads, float32; {versions}; Python "
        f"{result['python']} on {result['platform']}.",
        "Times are in milliseconds: the median of "
        f"{result['rounds']} rounds of {result['seconds_per_round']} s, the peers taking turns. "
        "The ratio is the best peer's time over fastcv's, in bold where fastcv is the slower one. "
        "GFLOP/s is fastcv's rate, counted as direct convolution whatever the algorithm. "
        "The error is fastcv's largest one against float64, relative to the result's root mean "
        "square.",
    ]
    for mode, rows in result["tables"].items():
        parts += [f"## {TITLES[mode]}", summary(mode, rows), every_case(mode, rows)]
        disturbed = [f"`{row['case']}`" for row in rows if unsteady(row)]
        if disturbed:
            parts.append(f"Unsteady, by more than a fifth between rounds: {', '.join(disturbed)}.")
        refused = [
            f"- `{row['case']}`, {peer}: {reason}"
            for row in rows
            for peer, reason in row["refused"].items()
        ]
        if refused:
            parts += ["Not compared:", "\n".join(refused)]
    return "\n\n".join(parts)
