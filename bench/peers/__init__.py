"""The libraries that are compared, one file each.

A peer is a class with the library's ``version``, and what its part in any op needs: how it is set
up, how it runs a model, and ``arrays``, which makes NumPy arrays of what its functions return. How
it computes an op is in that op's file (`problem`).
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
    "NumPy": ("numpy", "NumPy"),
    "SciPy": ("scipy", "SciPy"),
    "lap": ("lap", "Lap"),
}


def load_peer(name: str, threads: int) -> Any:
    """Import one peer; an ImportError means that it is not installed."""
    library, cls = PEERS[name]
    peer = getattr(importlib.import_module(f"peers.{library}"), cls)(threads)
    peer.library = library
    return peer
