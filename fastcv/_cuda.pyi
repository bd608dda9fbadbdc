"""The compiled CUDA kernels, which a build may lack. They trust their arguments."""

from collections.abc import Sequence

# An array: its address and strides in bytes of (N, C, H, W); of indices also an index's bytes.
_Array = tuple[int, Sequence[int]]
_Indices = tuple[int, Sequence[int], int]
# A new (N, C, H, W): its address, and whether it is channels-last.
_Result = tuple[int, bool]
# The device and its stream.
_Queue = tuple[int, int]
_Pair = Sequence[int]
# Input, weight, outputs, stride, padding before, dilation, groups.
_Convolution = tuple[Sequence[int], Sequence[int], _Pair, _Pair, _Pair, _Pair, int]
# Costs: address, strides in bytes, rows, columns.
_Problem = tuple[int, Sequence[int], int, int]
# Objects' boxes and their strides, labels and their stride, queries, objects, first pair.
_Image = tuple[int, Sequence[int], int, int, int, int, int]
# All problems, or one of them, how many there are, and how many bytes their costs are apart.
_Problems = Sequence[_Problem] | tuple[_Problem, int, int]
# maximize, forbid_nan, cost_limit
_Ask = tuple[bool, bool, float]
# Scale, softcap, left, right, bottom_right, dropout, seed.
_AttentionOptions = tuple[float, float, int, int, bool, float, int]
# Query, key, value, mask, whether that is boolean, lengths, a length's bytes.
_AttentionInputs = tuple[_Array, _Array, _Array, _Array, bool, _Array, int]
# An address, and over which axes the gradient is summed.
_Gradient = tuple[int, Sequence[bool]]
# grad_output, output, lse; the gradients of query, key, value, mask.
_AttentionGradients = tuple[_Array, _Array, _Array, _Gradient, _Gradient, _Gradient, _Gradient]

archs: str

class Dtype:
    float32: Dtype
    float64: Dtype
    float16: Dtype
    bfloat16: Dtype

def device_count() -> int: ...
def synchronize(device: int) -> None: ...
def take_index_fault(device: int) -> bool: ...
def indexed_workspace_bytes(planes: int) -> int: ...
def max_pool2d(
    shape: Sequence[int],
    outputs: _Pair,
    window: Sequence[_Pair],
    dtype: Dtype,
    input: _Array,
    output: _Result,
    indices: tuple[int, int],
    queue: _Queue,
) -> bool: ...
def max_pool2d_grad_input(
    planes: Sequence[int],
    windows: _Pair,
    dtype: Dtype,
    grad_output: _Array,
    indices: _Indices,
    grad_input: _Result,
    workspace: int,
    queue: _Queue,
) -> bool: ...
def max_unpool2d(
    planes: Sequence[int],
    windows: _Pair,
    dtype: Dtype,
    input: _Array,
    indices: _Indices,
    output: _Result,
    workspace: int,
    queue: _Queue,
) -> bool: ...
def max_unpool2d_grad_input(
    planes: Sequence[int],
    windows: _Pair,
    dtype: Dtype,
    grad_output: _Array,
    indices: _Indices,
    grad_input: _Result,
    queue: _Queue,
) -> bool: ...
def take_assignment_fault(device: int) -> str: ...
def assignment_workspace_bytes(problems: _Problems, dtype: Dtype, ask: _Ask) -> int: ...
def linear_sum_assignment(
    problems: _Problems,
    sizes: int,
    dtype: Dtype,
    ask: _Ask,
    columns: tuple[int, int],
    pairs: Sequence[int],
    workspace: int,
    queue: _Queue,
) -> str: ...
def detr_match_workspace_bytes(
    shape: Sequence[int], objects: Sequence[_Image], dtype: Dtype, focal: bool
) -> int: ...
def detr_match(
    shape: Sequence[int],
    logits: _Array,
    boxes: _Array,
    objects: Sequence[_Image],
    dtype: Dtype,
    weights: Sequence[float],
    focal: bool,
    results: Sequence[int],
    workspace: int,
    queue: _Queue,
) -> str: ...
def conv2d(
    shape: _Convolution,
    dtype: Dtype,
    input: _Array,
    weight: _Array,
    output: _Result,
    epilogue: tuple[int, int, int, float],
    workspace: int,
    queue: _Queue,
) -> None: ...
def conv_transpose2d(
    shape: _Convolution,
    dtype: Dtype,
    input: _Array,
    weight: _Array,
    output: _Result,
    epilogue: tuple[int, int, int, float],
    workspace: int,
    queue: _Queue,
) -> None: ...
def conv2d_grad_weight(
    shape: _Convolution,
    dtype: Dtype,
    grad_output: _Array,
    input: _Array,
    grad_weight: int,
    workspace: int,
    queue: _Queue,
) -> None: ...
def conv2d_workspace_bytes(shape: _Convolution, dtype: Dtype) -> int: ...
def conv2d_grad_weight_workspace_bytes(shape: _Convolution, dtype: Dtype) -> int: ...
def gram_matrix_workspace_bytes(shape: Sequence[int], dtype: Dtype) -> int: ...
def gram_matrix(
    shape: Sequence[int],
    dtype: Dtype,
    scale: float,
    input: _Array,
    output: int,
    workspace: int,
    queue: _Queue,
) -> None: ...
def gram_matrix_grad_input(
    shape: Sequence[int],
    dtype: Dtype,
    scale: float,
    grad_output: _Array,
    input: _Array,
    grad_input: _Result,
    queue: _Queue,
) -> None: ...
def scaled_dot_product_attention(
    batch: Sequence[int],
    sizes: Sequence[int],
    options: _AttentionOptions,
    inputs: _AttentionInputs,
    dtype: Dtype,
    output: int,
    lse: int,
    weights: int,
    queue: _Queue,
) -> None: ...
def scaled_dot_product_attention_grad_workspace_bytes(
    batch: Sequence[int],
    sizes: Sequence[int],
    options: _AttentionOptions,
    inputs: _AttentionInputs,
    gradients: _AttentionGradients,
    dtype: Dtype,
) -> int: ...
def scaled_dot_product_attention_grad(
    batch: Sequence[int],
    sizes: Sequence[int],
    options: _AttentionOptions,
    inputs: _AttentionInputs,
    gradients: _AttentionGradients,
    dtype: Dtype,
    workspace: int,
    queue: _Queue,
) -> None: ...
