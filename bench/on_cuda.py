"""The operations on a CUDA device, beside others. Prints Markdown.

The time a call keeps the device busy: each call runs so often between two events that the host
keeps ahead, in rounds that take turns; tables have medians over the rounds. Pooling's has the
memory traffic that a call cannot avoid, by its time; that of convolutions their arithmetic, and
torch's take cuDNN's fastest way, which is looked for before.

Assignment: the same for fastcv and, where it is installed, torch-linear-assignment. SciPy's time is
the host's, with the copies there and back that it needs.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
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

# N, C, H, W; filters, window, stride, padding, dilation, groups; transposed or not.
CONVOLUTIONS = {
    "depthwise_3x3": ((32, 144, 56, 56), 144, 3, 1, 1, 1, 144, False),
    "depthwise_7x7": ((32, 96, 56, 56), 96, 7, 1, 3, 1, 96, False),
    "depthwise_dilated": ((8, 256, 64, 64), 256, 3, 1, 4, 4, 256, False),
    "resnext_grouped": ((32, 128, 56, 56), 128, 3, 1, 1, 1, 32, False),
    "dense_3x3": ((32, 64, 56, 56), 64, 3, 1, 1, 1, 1, False),
    "dense_3x3_strided": ((32, 128, 56, 56), 256, 3, 2, 1, 1, 1, False),
    "dense_1x1": ((32, 256, 56, 56), 64, 1, 1, 0, 1, 1, False),
    "transposed_few_channels": ((8, 16, 256, 256), 8, 4, 2, 1, 1, 1, True),
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


def convolutions(
    case: tuple[Any, ...], dtype: torch.dtype, layout: torch.memory_format
) -> dict[str, tuple[Callable[[], Any], Callable[[], Any], int]]:
    """Of each mode: fastcv's call, torch's, and operations."""
    shape, filters, window, stride, padding, dilation, groups, transposed = case
    x = torch.randn(shape, device="cuda", dtype=dtype).to(memory_format=layout)
    sizes = (shape[1], filters // groups) if transposed else (filters, shape[1] // groups)
    weight = torch.randn((*sizes, window, window), device="cuda", dtype=dtype)
    weight = weight.to(memory_format=layout)
    bias = torch.randn(filters, device="cuda", dtype=dtype)
    name = "conv_transpose2d" if transposed else "conv2d"
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    own, torchs = getattr(ft, name), getattr(torch.nn.functional, name)
    grad = torch.randn_like(torchs(x, weight, bias, **options))
    pairs = [[each, each] for each in (stride, padding, dilation)]
    of_torch = torch.ops.aten.convolution_backward.default
    # Of the larger of the two images each pixel of a channel meets a group's channels of the other.
    pixels = shape[2] * shape[3] if transposed else grad.shape[2] * grad.shape[3]
    operations = 2 * shape[0] * pixels * shape[1] * filters // groups * window**2

    def backward(by_input: bool) -> Any:
        mask = [by_input, not by_input, False]
        return of_torch(grad, x, weight, [filters], *pairs, transposed, [0, 0], groups, mask)

    by_input, by_weight = (getattr(ft, f"{name}_grad_{of}") for of in ("input", "weight"))
    return {
        "forward": (
            lambda: own(x, weight, bias, **options),
            lambda: torchs(x, weight, bias, **options),
            operations,
        ),
        "grad_input": (
            lambda: by_input(grad, weight, shape, **options),
            lambda: backward(True),
            operations,
        ),
        "grad_weight": (
            lambda: by_weight(grad, x, tuple(weight.shape), **options),
            lambda: backward(False),
            operations,
        ),
    }


# Problems, rows, columns: a batch of DETR's with all its layers, and square ones.
ASSIGNMENTS = {"detr": (208, 300, 100), "square": (208, 300, 300)}


def solvers(costs: Any) -> dict[str, Callable[[], float]]:
    """Of each library: milliseconds of one call."""
    found = {"fastcv": lambda: milliseconds(lambda: ft.linear_sum_assignment_batch(costs))}
    try:
        from torch_linear_assignment import batch_linear_assignment
    except ImportError:
        pass
    else:
        found["torch-linear-assignment"] = lambda: milliseconds(
            lambda: batch_linear_assignment(costs)
        )
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError:
        return found

    def scipy() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        columns = [torch.from_numpy(linear_sum_assignment(each)[1]) for each in costs.cpu().numpy()]
        torch.stack(columns).cuda()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) * 1e3

    found["scipy"] = scipy
    return found


def assignments(rounds: int) -> None:
    """Print the table of assignment."""
    print("\n| case | costs | library | ms | ms / fastcv's |")
    print("|---|---|---|---:|---:|")
    generator = torch.Generator().manual_seed(0)
    for name, shape in ASSIGNMENTS.items():
        uniform = torch.rand(shape, generator=generator).cuda()
        for kind, costs in (("uniform", uniform), ("0 .. 99", (100 * uniform).floor())):
            calls = solvers(costs)
            for call in calls.values():
                call()
            times = [{key: call() for key, call in calls.items()} for _ in range(rounds)]
            medians = {key: statistics.median(each[key] for each in times) for key in calls}
            for key, median in medians.items():
                ratio = median / medians["fastcv"]
                print(f"| {name} | {kind} | {key} | {median:.3f} | {ratio:.2f} |", flush=True)


# Images (N, C, H, W).
GRAM = {
    "style_64": (1, 64, 512, 512),
    "style_128": (1, 128, 256, 256),
    "style_256": (4, 256, 128, 128),
    "style_512": (4, 512, 64, 64),
    "small_64": (64, 64, 28, 28),
}
# N, heads, tokens, columns, with a bias that the samples share: windows, whole images, long texts.
ATTENTION = {
    "window_49": (4096, 4, 49, 32, True),
    "window_144": (1024, 4, 144, 32, True),
    "vit_197": (64, 12, 197, 64, False),
    "text_1k": (8, 16, 1024, 64, False),
    "text_4k": (2, 16, 4096, 128, False),
    "text_8k": (1, 16, 8192, 128, False),
}
Row = tuple[str, str, Callable[[], Any], Callable[[], Any], float]


def gram_rows(dtype: torch.dtype) -> Iterator[Row]:
    """Case, mode, fastcv's call, torch's, operations: those of one triangle, and of the product."""
    for name, shape in GRAM.items():
        x = torch.randn(shape, device="cuda", dtype=dtype)
        batch, channels, height, width = shape
        pixels = height * width
        flat, scale = x.flatten(2), 1 / (channels * pixels)
        grads = torch.randn(batch, channels, channels, device="cuda", dtype=dtype)
        triangle = batch * channels * (channels + 1) * pixels
        yield (
            name,
            "forward",
            functools.partial(ft.gram_matrix, x),
            lambda flat=flat, scale=scale: torch.bmm(flat, flat.mT) * scale,
            triangle,
        )
        yield (
            name,
            "gradient",
            functools.partial(ft.gram_matrix_grad_input, grads, x),
            lambda flat=flat, grads=grads, scale=scale: torch.bmm((grads + grads.mT) * scale, flat),
            2 * batch * channels**2 * pixels,
        )


def attention_rows(dtype: torch.dtype) -> Iterator[Row]:
    """The same for attention, whose gradient counts five products of a forward pass's two."""
    torchs = torch.nn.functional.scaled_dot_product_attention
    for name, (batch, heads, tokens, columns, with_bias) in ATTENTION.items():
        shape = (batch, heads, tokens, columns)
        arrays = [torch.randn(shape, device="cuda", dtype=dtype) for _ in range(3)]
        bias = torch.randn(1, heads, tokens, tokens, device="cuda", dtype=dtype)
        mask = bias if with_bias else None
        products = 2.0 * batch * heads * tokens * tokens * columns
        yield (
            name,
            "forward",
            functools.partial(ft.scaled_dot_product_attention, *arrays, mask),
            functools.partial(torchs, *arrays, mask),
            2 * products,
        )
        output, lse = ft.scaled_dot_product_attention(*arrays, mask, return_lse=True)
        leaves = [each.detach().requires_grad_() for each in (*arrays, *([bias] * with_bias))]
        whole = torchs(*leaves)
        yield (
            name,
            "gradient",
            functools.partial(
                ft.scaled_dot_product_attention_grad,
                *(output, *arrays, output, lse, mask),
                need_mask_grad=with_bias,
            ),
            functools.partial(torch.autograd.grad, whole, leaves, output, retain_graph=True),
            5 * products,
        )


def products(title: str, rows: Callable[[torch.dtype], Iterator[Row]], rounds: int) -> None:
    """Print the table of an operation that is made of products."""
    print(f"\n{title}\n")
    print("| case | type | mode | fastcv ms | torch ms | torch / fastcv | TFLOP/s |")
    print("|---|---|---|---:|---:|---:|---:|")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for name, mode, own, torchs, operations in rows(dtype):
            own(), torchs()
            times = [(milliseconds(own), milliseconds(torchs)) for _ in range(rounds)]
            ours, theirs = (statistics.median(each) for each in zip(*times, strict=True))
            figures = (
                f"{ours:.4f} | {theirs:.4f} | {theirs / ours:.2f} | {operations / ours / 1e9:.1f}"
            )
            print(f"| {name} | {str(dtype)[6:]} | {mode} | {figures} |", flush=True)


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
    torch.backends.cudnn.benchmark = True
    print("\n| case | type | layout | mode | fastcv ms | torch ms | torch / fastcv | TFLOP/s |")
    print("|---|---|---|---|---:|---:|---:|---:|")
    for name, case in CONVOLUTIONS.items():
        for dtype in (torch.float32, torch.bfloat16):
            for layout in (torch.contiguous_format, torch.channels_last):
                for mode, (own, torchs, operations) in convolutions(case, dtype, layout).items():
                    own(), torchs()
                    times = [(milliseconds(own), milliseconds(torchs)) for _ in range(rounds)]
                    ours, theirs = (statistics.median(each) for each in zip(*times, strict=True))
                    kind = "NCHW" if layout is torch.contiguous_format else "channels-last"
                    figures = (f"{ours:.4f}", f"{theirs:.4f}", f"{theirs / ours:.2f}")
                    rate = f"{operations / ours / 1e9:.1f}"
                    cells = (name, str(dtype)[6:], kind, mode, *figures, rate)
                    print(f"| {' | '.join(cells)} |", flush=True)
    assignments(rounds)
    products("Gram matrices, beside `torch.bmm`:", gram_rows, rounds)
    products("Attention, beside torch's fused one:", attention_rows, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
