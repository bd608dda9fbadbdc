"""The demo: every op on a photograph, a table of what each cost, and a picture of what it did."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcv import (
    Conv2d,
    ConvTranspose2d,
    _core,
    detr_match,
    get_num_threads,
    gram_matrix,
    max_pool2d,
    max_unpool2d,
    reference,
    scaled_dot_product_attention,
)

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[np.float32]

LONGEST_SIDE = 1024  # of a photograph in pixels; a larger one is reduced to it
NETWORK_SIDE = 224
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)

# Both banks of oriented filters come as ridges and as edges, eighths of a half turn apart.
PHASES = (0, np.pi / 2)
ANGLES = np.pi * np.arange(8) / 8


def main(argv: list[str]) -> int:
    """Run the demo and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fastcv demo", description=__doc__)
    parser.add_argument("image", nargs="?", type=Path, help="a photograph (default: an astronaut)")
    parser.add_argument("--output", type=Path, default=Path("fastcv-demo.png"), metavar="FILE")
    options = parser.parse_args(argv)
    try:
        import_module("skimage")
        from fastcv._demo_picture import draw
    except ImportError as error:
        return _fail(
            f"The demo reads and draws pictures with scikit-image and matplotlib ({error}).\n"
            "Install them: pip install 'fastcv[demo]'"
        )
    try:
        photo = _read(options.image)
    except Exception as error:  # a decoder may raise anything at all on a broken file
        return _fail(f"Cannot read the image {options.image}: {error}")

    table = Table()
    full, small = _pixels(photo), _pixels(_square(photo, NETWORK_SIDE))
    filters = run_filters(table, full)
    run_network(table, f"network {NETWORK_SIDE}", small)
    layers = run_network(table, "network full", full)
    sizes = run_enlargement(table, full)
    pools = run_pooling(table, full)
    grams = {
        name: table.gram_matrix(f"Gram matrix: {name}", layer)
        for name, layer in zip(
            ("stem", "3x3", "dilated", "1x1"), layers[:3] + layers[4:], strict=True
        )
    }
    looks = run_attention(table, full)
    matching = run_matching(filters["sobel"])
    print(
        "\nGFLOP/s count a direct convolution, and both triangles of a Gram matrix. Winograd and a"
        "\nkernel that computes one triangle multiply less, and may exceed the peak."
        "\nThe error is the largest one against float64, relative to the output's root mean square."
    )
    try:
        draw(options.output, full, filters, layers, sizes, pools, grams, looks, matching, table)
    except (OSError, ValueError) as error:  # an unknown format is a ValueError
        return _fail(f"Cannot write the picture: {error}")
    print(f"\nThe picture is in {options.output}")
    return 0


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


# The photograph


def _read(path: Path | None) -> Image:
    """Make an upright, opaque RGB image, 8 bits a channel, of any file that Pillow reads."""
    from PIL import Image, ImageOps

    if path is None:
        return Image.fromarray(import_module("skimage.data").astronaut())
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith(("I", "F")):  # 16 bits and more, gray: Pillow would clip, not scale
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it holds values that are not finite")
        low, high = (0, 65535) if image.mode.startswith("I;16") else (values.min(), values.max())
        scaled = (values - low) / max(high - low, 1e-30) * 255
        image = Image.fromarray(scaled.round().astype(np.uint8))
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    image = image.convert("RGB")
    if max(image.size) > LONGEST_SIDE:
        print(f"{path}: {image.width} x {image.height} pixels, reduced to {LONGEST_SIDE}")
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image


def _square(image: Image, side: int) -> Image:
    """Cut the middle square out of an image and bring it to ``side`` pixels."""
    from PIL import ImageOps

    return ImageOps.fit(image, (side, side))


def _pixels(image: Image) -> Array:
    """Convert to (3, H, W) float32 in [0, 1]."""
    return np.ascontiguousarray(np.asarray(image, np.float32).transpose(2, 0, 1)) / np.float32(255)


# The table


class Row(NamedTuple):
    """What running one op came to."""

    name: str
    algorithm: str
    seconds: float
    gflops: float


class Table:
    """Runs ops, and prints a line about each."""

    def __init__(self) -> None:
        threads = get_num_threads()
        self.peak = _core.measure_peak(4, threads) / 1e9
        self.rows: list[Row] = []
        print(
            f"{_core.isa()}, {threads} thread{'s' * (threads > 1)}, float32, "
            f"measured peak {self.peak:.0f} GFLOP/s\n\n"
            f"{'op':24} {'input':>12} {'filters':28} {'algorithm':14} "
            f"{'ms':>8} {'GFLOP/s':>8} {'of peak':>8} {'error':>8}"
        )

    def run(
        self,
        name: str,
        image: Array,
        weight: NDArray[Any],
        *,
        activation: Literal["relu", "relu6", "silu"] | None = None,
        **parameters: Any,
    ) -> Array:
        """Convolve (C, H, W) ``image``, add a line to the table, return the output."""
        weight = weight.astype(np.float32)
        plan = Conv2d(weight, activation=activation, **parameters)
        expected = reference.conv2d(image, weight, activation=activation, **parameters)
        algorithm = plan.explain(image.shape).partition(":")[0]
        filters = _filters(len(weight), weight, parameters)
        flops = 2 * expected.size * weight[0].size
        return self._measure(name, image, filters, algorithm, plan, expected, flops)

    def transposed(self, name: str, image: Array, weight: NDArray[Any], **parameters: Any) -> Array:
        """Do the same by a transposed convolution."""
        weight = weight.astype(np.float32)
        plan = ConvTranspose2d(weight, **parameters)
        expected = reference.conv_transpose2d(image, weight, **parameters)
        algorithm = plan.explain(image.shape).partition(":")[0]
        filters = _filters(len(expected), weight, parameters)
        flops = 2 * image.size * weight[0].size
        return self._measure(name, image, filters, algorithm, plan, expected, flops)

    def gram_matrix(self, name: str, image: Array) -> Array:
        """Multiply the channels of ``image``, add a line to the table, return the matrix."""
        expected, flops = reference.gram_matrix(image), 2 * len(image) * image.size
        return self._measure(name, image, "", "gram_matrix", gram_matrix, expected, flops)

    def attention(self, name: str, tokens: Array) -> Array:
        """Let (heads, tokens, columns) attend to each other."""

        def attend(x: Array) -> Array:
            result: Array = scaled_dot_product_attention(x, x, x)
            return result

        expected = reference.scaled_dot_product_attention(tokens, tokens, tokens)
        flops = 4 * tokens.size * tokens.shape[1]
        return self._measure(
            name, tokens, "queries, keys and values", "fused", attend, expected, flops
        )

    def moved(
        self,
        name: str,
        image: Array,
        window: str,
        call: Callable[[Array], Array],
        expected: ArrayLike,
    ) -> Array:
        """Run an op that compares and moves numbers: it has no rate of operations."""
        output = call(image)
        error = np.abs(output - np.asarray(expected)).max()
        seconds = _median_time(call, image)
        print(
            f"{name:24} {'x'.join(map(str, image.shape)):>12} {window:28} {'-':14} "
            f"{seconds * 1e3:8.3f} {'-':>8} {'-':>8} {error:8.0e}"
        )
        return output

    def _measure(
        self,
        name: str,
        image: Array,
        filters: str,
        algorithm: str,
        call: Callable[[Array], Array],
        expected: NDArray[np.float64],
        flops: int,
    ) -> Array:
        output = call(image)
        scale = np.sqrt(np.mean(expected**2))
        # A blank image leaves next to nothing to relate the error to.
        error = np.abs(output - expected).max() / (scale if scale > 1e-6 else 1)
        seconds = _median_time(call, image)
        gflops = 1e-9 * flops / seconds
        self.rows.append(Row(name, algorithm, seconds, gflops))
        print(
            f"{name:24} {'x'.join(map(str, image.shape)):>12} {filters:28} {algorithm:14} "
            f"{seconds * 1e3:8.3f} {gflops:8.1f} {gflops / self.peak:8.0%} {error:8.0e}"
        )
        return output


def _filters(count: int, weight: NDArray[Any], parameters: dict[str, Any]) -> str:
    text = f"{count}, {weight.shape[2]}x{weight.shape[3]}"
    for word in ("stride", "dilation"):
        text += f" {word} {parameters[word]}" if word in parameters else ""
    return text + (" depthwise" if weight.shape[1] == 1 < parameters.get("groups", 1) else "")


def _median_time(call: Callable[[Array], Any], image: Array) -> float:
    """Median seconds of a call, over a fifth of a second and at least five calls."""
    times: list[float] = []
    end = time.perf_counter() + 0.2
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call(image)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


# What is computed


def gray(window: NDArray[Any]) -> NDArray[Any]:
    """Make a filter (1, 3, R, S) that applies a window to the luminance of an RGB image."""
    window = np.multiply.outer(LUMINANCE, window)
    return window[None]


def gabor(size: int, wavelength: float, angle: float, phase: float) -> NDArray[Any]:
    """Sample a wave along ``angle`` under a Gaussian, with mean 0 and absolute sum 1."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    wave = np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength + phase)
    window = wave * np.exp(-(x * x + y * y) / (size / 2.5) ** 2)
    window -= window.mean()
    result: NDArray[Any] = window / np.abs(window).sum()
    return result


def run_filters(table: Table, image: Array) -> dict[str, Array]:
    """Run classic filters; the border is repeated first, lest it look like an edge."""

    def grown(by: int) -> Array:
        return np.pad(image, ((0, 0), (by, by), (by, by)), mode="edge")

    slope = np.outer([1, 2, 1], [-1, 0, 1]) / 8
    sobel = np.concatenate([gray(slope), gray(slope.T)])
    bell = np.exp(-(np.arange(-10, 11) ** 2) / (2 * 4.0**2))
    blur = np.tile(np.outer(bell, bell) / bell.sum() ** 2, (3, 1, 1, 1))
    ring = np.where(np.arange(9).reshape(3, 3) == 4, 8, -1) / 8
    bank = np.concatenate(
        [
            gray(gabor(11, wavelength, angle, phase))
            for wavelength in (4, 8)
            for phase in PHASES
            for angle in ANGLES
        ]
    )
    return {
        "sobel": table.run("Sobel edges", grown(1), sobel),
        "blur": table.run("Gaussian blur", grown(10), blur, groups=3),
        "ring": table.run("centre against ring", grown(4), gray(ring), dilation=4),
        "bank": table.run("Gabor bank", grown(5), bank),
    }


def run_network(table: Table, name: str, image: Array) -> list[Array]:
    """Run the first layers of a small network: oriented colour filters, then random ones."""
    rng = np.random.default_rng(0)

    def random(filters: int, channels: int, size: int) -> NDArray[Any]:
        weight = rng.standard_normal((filters, channels, size, size))
        weight -= weight.mean(axis=(1, 2, 3), keepdims=True)  # blind to what all channels share
        return weight * float(np.sqrt(2 / weight[0].size))

    colours = np.array([[1, 1, 1], [2, -1, -1], [-1, 2, -1], [-1, -1, 2]]) / 2
    stem = np.stack(
        [
            np.multiply.outer(colour, gabor(7, 5, angle, phase))
            for colour in colours
            for phase in PHASES
            for angle in ANGLES
        ]
    )
    layers = [image]

    def add(layer: str, weight: NDArray[Any], **parameters: Any) -> None:
        layers.append(table.run(f"{name}: {layer}", layers[-1], weight, **parameters))

    add("stem", stem * 8, stride=2, padding=3, activation="relu")
    add("3x3", random(64, 64, 3), padding=1, activation="relu")
    add("dilated", random(64, 64, 3), padding=2, dilation=2, activation="relu")
    add("depthwise", random(64, 1, 3), padding=1, groups=64, activation="relu6")
    add("1x1", random(128, 64, 1), activation="silu")
    return layers[1:]


def run_enlargement(table: Table, image: Array) -> dict[str, Array]:
    """Reduce the photograph to a quarter of its size, and enlarge it again in two ways."""
    side = 4
    colours, height, width = image.shape
    image = np.pad(image, ((0, 0), (0, -height % side), (0, -width % side)), mode="edge")
    square = np.ones((colours, 1, side, side))
    small = table.run("reduced", image, square / side**2, stride=side, groups=colours)
    blocks = table.transposed("enlarged by squares", small, square, stride=side, groups=colours)

    # A cubic convolution reaches two pixels far to either side; the border is repeated for it.
    distance = np.abs(np.arange(4 * side) - (4 * side - 1) / 2) / side
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    cubic = np.where(distance < 1, near, far)
    windows = np.tile(np.outer(cubic, cubic), (colours, 1, 1, 1))
    grown = np.pad(small, ((0, 0), (2, 2), (2, 2)), mode="edge")
    smooth = table.transposed(
        "enlarged by cubics", grown, windows, stride=side, padding=14, groups=colours
    )
    return {"reduced": small, "squares": blocks, "cubics": smooth}


def run_attention(table: Table, image: Array) -> list[tuple[tuple[int, int, int], Array]]:
    """Describe patches by colours and edges, and see which patches some of them attend to.

    Each comes as (top, left, side) in pixels, with the weights of all patches.
    """
    side = max(16, -(-max(image.shape[1:]) // 32))
    image = np.pad(
        image, ((0, 0), (0, -image.shape[1] % side), (0, -image.shape[2] % side)), mode="edge"
    )
    means = np.eye(3)[:, :, None, None] * np.full((side, side), 1 / side**2)
    edges = [
        gray(gabor(side, wavelength, angle, phase))
        for wavelength in (side / 4, side / 2)
        for phase in PHASES
        for angle in ANGLES
    ]
    embedding = table.run("patch embedding", image, np.concatenate([means, *edges]), stride=side)
    columns, height, width = embedding.shape
    embedding = embedding - embedding.mean(axis=(1, 2), keepdims=True)
    embedding /= embedding.std(axis=(1, 2), keepdims=True) + np.float32(1e-6)
    embedding[:3] *= 3  # as much say for three colours as for the edges
    tokens = embedding.reshape(1, columns, -1).transpose(0, 2, 1)
    # Of one length, so that a score is an angle: exp(12) between what is alike and what is not.
    length = np.linalg.norm(tokens, axis=-1, keepdims=True) / np.sqrt(12 * columns**0.5)
    tokens = (tokens / (length + 1e-6)).astype(np.float32, order="C")
    table.attention("attention of patches", tokens)

    places = [(height // 5, width // 2), (height // 8, width // 6), (height // 6, width // 12)]
    places.append((height - 1 - height // 8, width // 4))
    looks = []
    for row, column in places:
        query = tokens[:, row * width + column][:, None]
        _, weights = scaled_dot_product_attention(query, tokens, tokens, return_weights=True)
        looks.append(((row * side, column * side, side), weights.reshape(height, width)))
    return looks


class Matching(NamedTuple):
    """Boxes (cx, cy, w, h) in units of the image's size, and which belongs to which."""

    objects: Array
    predicted: Array
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]]  # places in predicted and in objects


def run_matching(edges: Array) -> Matching:
    """Take the cells with the most edges for objects, and match predictions of them to them."""
    side, count, queries = 7, 8, 60
    rng = np.random.default_rng(0)
    energy = (edges**2).sum(axis=0)
    rows, columns = (np.arange(side + 1) * size // side for size in energy.shape)
    sums = np.add.reduceat(np.add.reduceat(energy, rows[:-1], axis=0), columns[:-1], axis=1)
    strongest = np.argsort(-sums, axis=None, kind="stable")[:count]
    centres = np.stack([strongest % side, strongest // side], axis=1) + 0.5
    objects: Array = np.hstack([centres, np.full((count, 2), 0.9)]).astype(np.float32)
    objects /= side

    # Every fourth prediction is near an object, and sure of itself; the others are anywhere.
    predicted = rng.uniform(0.1, 0.9, (queries, 4)).astype(np.float32)
    predicted[:, 2:] *= 0.3
    near = np.arange(0, queries, 4)
    noise = rng.normal(0, 0.02, (len(near), 4)).astype(np.float32)
    predicted[near] = objects[np.arange(len(near)) % count] + noise
    logits = rng.standard_normal((1, queries, 2)).astype(np.float32)
    logits[0, near, 0] += 2

    def match(boxes: Array) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        return detr_match(logits, boxes, [np.zeros(count, np.int64)], [objects])

    ((query, target),) = match(predicted[None])
    seconds = _median_time(match, predicted[None])
    print(f"\ndetr_match of {queries} boxes and {count} objects: {seconds * 1e6:.1f} microseconds")
    return Matching(objects, predicted, (query, target))


def run_pooling(table: Table, image: Array) -> dict[str, Array]:
    """Pool the photograph, and bring it back by its switches and by repeating each pixel."""
    side = 4
    _, height, width = image.shape
    image = image[:, : height // side * side, : width // side * side]
    pooled = table.moved(
        "largest of 4x4",
        image,
        f"{side}x{side} stride {side}",
        lambda x: max_pool2d(x, side),
        reference.max_pool2d(image, side),
    )
    _, switches = max_pool2d(image, side, return_indices=True)
    unpooled = table.moved(
        "back to their places",
        pooled,
        f"{side}x{side} stride {side}",
        lambda x: max_unpool2d(x, switches, side),
        reference.max_unpool2d(pooled, switches, side),
    )
    repeated = pooled.repeat(side, axis=1).repeat(side, axis=2)
    return {"pooled": pooled, "unpooled": unpooled, "repeated": repeated, "image": image}
