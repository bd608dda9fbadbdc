"""The compiled kernels. They trust their arguments: every check is made by the callers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

class Convolution:
    def __init__(
        self,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
        activation: int = 0,
        slope: float = 0.0,
        algorithm: int = 0,
    ) -> None: ...

class Conv2dPlan:
    def __init__(
        self, weight: NDArray[Any], bias: NDArray[Any] | None, convolution: Convolution
    ) -> None: ...
    def run(self, input: NDArray[Any], output: NDArray[Any]) -> None: ...

class ConvTranspose2dPlan:
    def __init__(
        self, weight: NDArray[Any], bias: NDArray[Any] | None, convolution: Convolution
    ) -> None: ...
    def run(self, input: NDArray[Any], output: NDArray[Any]) -> None: ...

def conv2d(
    input: NDArray[Any],
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    output: NDArray[Any],
    convolution: Convolution,
) -> None: ...
def conv2d_grad_input(
    grad_output: NDArray[Any],
    weight: NDArray[Any],
    grad_input: NDArray[Any],
    convolution: Convolution,
) -> None: ...
def conv2d_grad_weight(
    grad_output: NDArray[Any],
    input: NDArray[Any],
    grad_weight: NDArray[Any],
    convolution: Convolution,
) -> None: ...
def conv2d_choice(
    input_shape: tuple[int, int, int, int],
    weight_shape: tuple[int, int, int, int],
    output_shape: tuple[int, int, int, int],
    itemsize: int,
    convolution: Convolution,
    packed: bool,
) -> tuple[str, str]: ...
def conv_transpose2d(
    input: NDArray[Any],
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    output: NDArray[Any],
    convolution: Convolution,
) -> None: ...
def conv_transpose2d_grad_input(
    grad_output: NDArray[Any],
    weight: NDArray[Any],
    grad_input: NDArray[Any],
    convolution: Convolution,
) -> None: ...
def conv_transpose2d_grad_weight(
    grad_output: NDArray[Any],
    input: NDArray[Any],
    grad_weight: NDArray[Any],
    convolution: Convolution,
) -> None: ...
def conv_transpose2d_choice(
    input_shape: tuple[int, int, int, int],
    weight_shape: tuple[int, int, int, int],
    output_shape: tuple[int, int, int, int],
    itemsize: int,
    convolution: Convolution,
    packed: bool,
) -> tuple[str, str]: ...
def gram_matrix(input: NDArray[Any], output: NDArray[Any], scale: float) -> None: ...
def gram_matrix_grad_input(
    grad_output: NDArray[Any], input: NDArray[Any], grad_input: NDArray[Any], scale: float
) -> None: ...

class Attention:
    def __init__(
        self,
        batch: tuple[int, ...],
        heads: int,
        kv_heads: int,
        queries: int,
        keys: int,
        columns: int,
        value_columns: int,
        scale: float,
        softcap: float,
        left: int,
        right: int,
        bottom_right: bool,
        dropout: float,
        seed: int,
    ) -> None: ...

def scaled_dot_product_attention(
    attention: Attention,
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    mask: NDArray[Any] | None,
    kv_lengths: NDArray[Any] | None,
    output: NDArray[Any],
    lse: NDArray[Any] | None,
    weights: NDArray[Any] | None,
) -> None: ...
def scaled_dot_product_attention_grad(
    attention: Attention,
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    grad_output: NDArray[Any],
    output: NDArray[Any],
    lse: NDArray[Any],
    mask: NDArray[Any] | None,
    kv_lengths: NDArray[Any] | None,
    grad_query: NDArray[Any],
    grad_key: NDArray[Any],
    grad_value: NDArray[Any],
    grad_mask: NDArray[Any] | None,
) -> None: ...

class Pool2dWindow:
    def __init__(
        self,
        kernel_size: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> None: ...

def max_pool2d(
    input: NDArray[Any],
    output: NDArray[Any],
    indices: NDArray[Any] | None,
    window: Pool2dWindow,
) -> None: ...
def max_pool2d_grad_input(
    grad_output: NDArray[Any], indices: NDArray[Any], grad_input: NDArray[Any]
) -> None: ...
def max_unpool2d(input: NDArray[Any], indices: NDArray[Any], output: NDArray[Any]) -> None: ...
def max_unpool2d_grad_input(
    grad_output: NDArray[Any], indices: NDArray[Any], grad_input: NDArray[Any]
) -> None: ...

kept_result_bytes: int

class ResultLayout:
    def __init__(
        self, shape: Sequence[int], dtype: np.dtype[Any], channels_last: bool = False
    ) -> None: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def new(self) -> NDArray[Any]: ...
    @staticmethod
    def new_together(layouts: Sequence[ResultLayout]) -> tuple[NDArray[Any], ...]: ...

class KnownCalls:
    def __init__(self, sets: int = 64) -> None: ...
    def find(self, call: tuple[Any, ...]) -> Any: ...
    def keep(self, call: tuple[Any, ...], plan: object) -> None: ...

def measure_peak(itemsize: int, threads: int) -> float: ...
def measure_bandwidth(threads: int) -> float: ...
def set_num_threads(n: int) -> None: ...
def get_num_threads() -> int: ...
def isa() -> str: ...
def isas_available() -> list[str]: ...
def compiler() -> str: ...
def openmp_version() -> int: ...

class CostError(Exception): ...

def linear_sum_assignment(
    cost_matrix: NDArray[Any],
    maximize: bool,
    cost_limit: float,
    forbid_nan: bool,
    return_duals: bool,
    /,
) -> tuple[Any, ...]: ...
def linear_sum_assignment_batch(
    costs: NDArray[Any] | list[NDArray[Any]],
    sizes: NDArray[np.int64] | None,
    maximize: bool,
    cost_limit: float,
    forbid_nan: bool,
    /,
) -> NDArray[np.int64]: ...
def detr_match(
    logits: NDArray[Any],
    boxes: NDArray[Any],
    labels: NDArray[np.int64],
    target_boxes: NDArray[Any],
    begin: NDArray[np.int64],
    pairs_begin: NDArray[np.int64],
    cost_class: float,
    cost_bbox: float,
    cost_giou: float,
    focal: bool,
    query: NDArray[np.int64],
    target: NDArray[np.int64],
    cost: NDArray[np.float64],
) -> None: ...

c_api: Any
xla_handlers: dict[str, Any]
