"""The demo's picture: what the ops did to the photograph, and at what rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastcv._demo import Matching, Table

Array = NDArray[np.float32]

PAPER, INK = "#14161a", "#e8e8e8"
BARS = "#3a6ea5", "#b3592a", "#3f8a52", "#7d5ba6", "#9a7b1f", "#4f8f9a", "#a5527a"
TITLE: dict[str, Any] = {"fontsize": 13, "color": INK}


def draw(
    path: Path,
    image: Array,
    filters: dict[str, Array],
    layers: list[Array],
    sizes: dict[str, Array],
    pools: dict[str, Array],
    grams: dict[str, Array],
    looks: list[tuple[tuple[int, int, int], Array]],
    matching: Matching,
    table: Table,
) -> None:
    """Write filters; bank and rates; layers; enlargements; pooling; attention; Gram matrices."""
    height = float(np.clip(image.shape[1] / image.shape[2], 0.4, 1.8))
    figure = plt.figure(
        figsize=(16, 6 * (4 * height + 0.25) + 5), facecolor=PAPER, layout="constrained"
    )
    grid = figure.add_gridspec(7, 4, height_ratios=[height] * 6 + [1])

    def panel(row: int, columns: int | slice, title: str, picture: Array, **style: Any) -> None:
        axes = figure.add_subplot(grid[row, columns])
        axes.imshow(picture, **style)
        axes.set_title(title, **TITLE)
        axes.set_axis_off()

    panel(0, 0, "boxes matched to objects", image.transpose(1, 2, 0))
    boxes(figure.axes[-1], matching, image.shape[1:])
    panel(0, 1, "Sobel edges", stretched(np.hypot(*filters["sobel"])), cmap="magma")
    panel(0, 2, "Gaussian blur", filters["blur"].transpose(1, 2, 0).clip(0, 1))
    ring = filters["ring"][0]
    limit = np.percentile(np.abs(ring), 99)
    panel(0, 3, "centre against ring", ring, cmap="RdBu_r", vmin=-limit, vmax=limit)

    responses = filters["bank"].reshape(4, 8, *image.shape[1:])
    angles = np.pi * np.arange(8) / 8
    panel(1, 0, "prevailing orientation", prevailing(responses, angles))
    panel(1, slice(1, 3), "the 32 responses of the Gabor bank", tinted(responses, angles))
    rates(figure.add_subplot(grid[1, 3]), table)

    names = ("network: stem", "3x3", "3x3, dilation 2", "depthwise and 1x1")
    for column, (name, layer) in enumerate(zip(names, layers[:3] + layers[4:], strict=True)):
        strongest = np.argsort(-layer.std(axis=(1, 2)))[:9]
        maps = np.stack([stretched(layer[index]) for index in strongest])
        panel(2, column, name, montage(maps.reshape(3, 3, *layer.shape[1:])), cmap="viridis")

    panel(3, 0, "a detail", detail(image))
    panel(3, 1, "a quarter of the size", detail(sizes["reduced"]), interpolation="nearest")
    panel(3, 2, "enlarged: windows side by side", detail(sizes["squares"]))
    panel(3, 3, "enlarged: windows that overlap", detail(sizes["cubics"]))

    panel(4, 0, "the largest of 4x4", detail(pools["pooled"]), interpolation="nearest")
    panel(4, 1, "each repeated", detail(pools["repeated"]))
    panel(4, 2, "each put back by its switch", detail(pools["unpooled"]))
    panel(4, 3, "what was not the largest", detail(pools["image"] - pools["unpooled"]))

    for column, (name, gram) in enumerate(grams.items()):
        # As cosines between channels, lest the strongest one be all that is seen.
        lengths: Array = np.sqrt(gram.diagonal()).clip(1e-30)
        cosines: Array = gram / np.outer(lengths, lengths)
        panel(6, column, f"Gram matrix: {name}", cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    for column, (patch, weights) in enumerate(looks):
        panel(5, column, "where the marked patch looks", looking(image, patch, weights))
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def stretched(values: Array) -> Array:
    """Bring values to [0, 1], clipping the outermost hundredths."""
    low, high = np.percentile(values, (1, 99))
    result: Array = ((values - low) / max(high - low, 1e-30)).clip(0, 1).astype(np.float32)
    return result


def detail(image: Array) -> Array:
    """Cut the upper middle out of (C, H, W), where a portrait has its face, for display."""
    height, width = image.shape[1:]
    rows = slice(height // 16, height // 16 + max(1, height // 3))
    columns = slice(width // 3, width // 3 + max(1, width // 3))
    return image[:, rows, columns].transpose(1, 2, 0).clip(0, 1)


def looking(image: Array, patch: tuple[int, int, int], weights: Array) -> Array:
    """Darken what a patch does not attend to, and frame the patch."""
    top, left, side = patch
    others = np.delete(weights.ravel(), weights.argmax())  # it always looks at itself the most
    strength = np.sqrt(weights / others.max(initial=1e-30)).clip(0, 1)
    lit = np.kron(strength, np.ones((side, side), np.float32))[: image.shape[1], : image.shape[2]]
    picture = image.transpose(1, 2, 0) * (0.15 + 0.85 * lit[..., None])
    frame = np.zeros(image.shape[1:], bool)
    frame[top : top + side, left : left + side] = True
    frame[top + 2 : top + side - 2, left + 2 : left + side - 2] = False
    picture[frame] = (1, 0.8, 0.1)
    result: Array = picture.clip(0, 1).astype(np.float32)
    return result


def coloured(angle: Any, brightness: Array) -> Array:
    """Make RGB pictures whose hue tells an orientation: half a turn goes round the colours."""
    hue = np.broadcast_to(angle / np.pi % 1, brightness.shape)
    saturation = np.full_like(brightness, 0.75)
    return hsv_to_rgb(np.stack([hue, saturation, brightness], axis=-1)).astype(np.float32)


def prevailing(responses: Array, angles: NDArray[Any]) -> Array:
    """Colour each pixel by the orientation that prevails there, as bright as it is clear."""
    energy = (responses**2).sum(axis=0)
    # Opposite directions are one orientation, so angles are doubled where they are averaged.
    pull = np.tensordot(np.exp(2j * angles), energy, axes=1)
    return coloured(np.angle(pull) / 2, stretched(np.sqrt(np.abs(pull)).astype(np.float32)))


def tinted(responses: Array, angles: NDArray[Any]) -> Array:
    """Show the size of every response in the hue of its orientation."""
    return montage(
        np.stack(
            [
                [coloured(a, stretched(np.abs(r)) ** 0.7) for a, r in zip(angles, row, strict=True)]
                for row in responses
            ]
        )
    )


def montage(maps: Array) -> Array:
    """Set pictures (rows, columns, H, W) or (rows, columns, H, W, 3) side by side, with gaps."""
    rows, columns, height, width, *colour = maps.shape
    gap = max(1, width // 32)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *colour)
    paper = 0.07 if colour else np.nan  # a colour map leaves out what is not a number
    result = np.full(shape, paper, np.float32)
    for row in range(rows):
        for column in range(columns):
            y, x = row * (height + gap), column * (width + gap)
            result[y : y + height, x : x + width] = maps[row, column]
    return result


def rates(axes: Axes, table: Table) -> None:
    """Draw each op's rate beside the machine's peak, one colour per algorithm."""
    algorithms = sorted({row.algorithm for row in table.rows})
    for algorithm, colour in zip(algorithms, BARS, strict=False):
        chosen = [row.algorithm == algorithm for row in table.rows]
        places, gflops = np.flatnonzero(chosen), [row.gflops for row in table.rows]
        axes.barh(places, np.compress(chosen, gflops), height=0.86, color=colour, label=algorithm)
    for place, row in enumerate(table.rows):
        axes.text(0, place, f" {row.name}", va="center", fontsize=9, color=INK)
    axes.invert_yaxis()
    axes.axvline(table.peak, color=INK, linestyle="--", linewidth=1)
    axes.set_title("GFLOP/s, and the measured peak", **TITLE)
    axes.set_facecolor(PAPER)
    axes.set_yticks([])
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[:].set_visible(False)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.05),
        ncols=3,
        fontsize=9,
        frameon=False,
        labelcolor=INK,
    )


def boxes(axes: Axes, matching: Matching, size: tuple[int, ...]) -> None:
    """Draw objects dashed, the boxes matched to them solid, and all other boxes faint."""
    height, width = size
    scale = np.array([width, height, width, height])
    matched, found = matching.pairs

    def frame(box: Array, **style: Any) -> None:
        x, y, w, h = box * scale
        axes.add_patch(Rectangle((x - w / 2, y - h / 2), w, h, fill=False, **style))

    for index, box in enumerate(matching.predicted):
        if index not in matched:
            frame(box, edgecolor=INK, linewidth=0.6, alpha=0.35)
    for query, target in zip(matched, found, strict=True):
        colour = BARS[target % len(BARS)]
        frame(matching.objects[target], edgecolor="white", linewidth=1.2, linestyle="--")
        frame(matching.predicted[query], edgecolor=colour, linewidth=2.2)
        ends = np.stack([matching.objects[target, :2], matching.predicted[query, :2]]) * scale[:2]
        axes.plot(*ends.T, color=colour, linewidth=1.5)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))  # lines outside widen it
