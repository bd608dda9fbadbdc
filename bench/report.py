"""A comparison's numbers as Markdown: how each class of cases fares, then every case."""

import statistics

from problem import Group, find_case, load_op

ALL = Group("all cases", lambda case: True)


def ratio(row: dict, rival: str = "") -> float | None:
    """The best peer's time, or one peer's, over fastcv's; None if there is nothing to compare."""
    times = row["seconds"]
    rivals = [t for peer, t in times.items() if peer != "fastcv" and rival in ("", peer)]
    return min(rivals) / times["fastcv"] if rivals and "fastcv" in times else None


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose first two columns are text and whose others are numbers."""
    rule = ["---", "---"] + ["---:"] * (len(head) - 2)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def mark(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"**{value:.2f}**"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def rate(row: dict) -> str:
    """What fastcv achieves: GFLOP/s, or GB/s where an op does not calculate."""
    if "fastcv" not in row["seconds"]:
        return "-"
    return f"{(row['flops'] or row['bytes']) / row['seconds']['fastcv'] / 1e9:.0f}"


def summary(op: str, rows: list[dict]) -> str:
    lines = []
    for group in (ALL, *load_op(op).groups):
        members = [row for row in rows if group.holds(find_case(op, row["case"]))]
        ratios = {row["case"]: ratio(row, group.rival) for row in members}
        known = {case: value for case, value in ratios.items() if value is not None}
        if known:
            worst = min(known, key=known.__getitem__)
            lost = sum(value < 1 for value in known.values())
            mean = statistics.geometric_mean(known.values())
            cells = [group.title, f"`{worst}`", mark(known[worst]), mark(mean), len(known), lost]
            lines.append([str(cell) for cell in cells])
    return table(["cases", "worst case", "its ratio", "geometric mean", "count", "lost"], lines)


def every_case(op: str, rows: list[dict]) -> str:
    peers = list(dict.fromkeys(peer for row in rows for peer in [*row["seconds"], *row["refused"]]))
    peers.sort(key="fastcv".__ne__)
    lines = []
    for row in rows:
        times, best, error = row["seconds"], ratio(row), row["error"].get("fastcv")
        lines.append(
            [
                f"`{row['case']}`",
                load_op(op).shape(find_case(op, row["case"])),
                *(milliseconds(times[peer]) if peer in times else "-" for peer in peers),
                rate(row),
                "-" if best is None else mark(best),
                "-" if error is None else f"{error:.0e}",
            ]
        )
    unit = "GFLOP/s" if any(row["flops"] for row in rows) else "GB/s"
    return table(["case", "shape", *peers, unit, "ratio", "error"], lines)


def unsteady(row: dict) -> bool:
    """Whether half of the rounds of any peer lie more than a fifth apart: something interfered."""
    several = (times for times in row["rounds"].values() if len(times) > 1)
    quartiles = (statistics.quantiles(times, n=4) for times in several)
    return any(high > 1.2 * low for low, _, high in quartiles)


def markdown(result: dict) -> str:
    versions = ", ".join(f"{peer} {version}" for peer, version in result["versions"].items())
    parts = [
        f"{result['cpu']}, {result['threads']} threads, float32; {versions}; Python "
        f"{result['python']} on {result['platform']}.",
        "Times are in milliseconds: the median of "
        f"{result['rounds']} rounds of {result['seconds_per_round']} s, the peers taking turns. "
        "The ratio is the best peer's time over fastcv's, in bold where fastcv is the slower one. "
        "GFLOP/s is fastcv's rate, counted by the op's formula whatever the algorithm; GB/s "
        "counts each array once. The error is fastcv's largest one against float64, relative to "
        "the result's root mean square.",
    ]
    for op, modes in result["tables"].items():
        parts.append(f"## {op}")
        for mode, rows in modes.items():
            parts += [f"### {load_op(op).modes[mode]}", summary(op, rows), every_case(op, rows)]
            disturbed = [f"`{row['case']}`" for row in rows if unsteady(row)]
            if disturbed:
                parts.append(
                    f"Unsteady, by more than a fifth between rounds: {', '.join(disturbed)}."
                )
            refused = [
                f"- `{row['case']}`, {peer}: {reason}"
                for row in rows
                for peer, reason in row["refused"].items()
            ]
            if refused:
                parts += ["Not compared:", "\n".join(refused)]
    return "\n\n".join(parts)
