"""The libraries that are compared, one file each.

A peer is a class with a ``version`` and up to three methods, one per mode: ``packed`` (weights
known in advance), ``call`` (nothing known in advance) and ``gradients`` (by input and by weight).
Each takes a `problem.Problem` and returns the ways in which the library offers that: functions
without arguments, of which the worker times the fastest. ``arrays`` makes NumPy arrays of what
they return.
"""

import importlib
from typing import Any

PEERS = {
    "fastcv": ("fastcv", "Fastcv"),
    "torch NCHW": ("torch", "TorchNCHW"),
    "torch channels-last": ("torch", "TorchChannelsLast"),
    "ONNX Runtime": ("onnxruntime", "OnnxRuntime"),
    "OpenVINO": ("openvino", "OpenVINO"),
    "ncnn": ("ncnn", "Ncnn"),
}


def load_peer(name: str, threads: int) -> Any:
    """Import one peer; an ImportError means that it is not installed."""
    module, cls = PEERS[name]
    return getattr(importlib.import_module(f"peers.{module}"), cls)(threads)
