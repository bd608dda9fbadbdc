"""fastcv for PyTorch: the same functions for tensors, differentiable.

Importing this imports torch. Tensors are read in place and results are torch tensors over the
kernels' own memory: nothing is copied on the way in or out. The functions are operators of
`torch.library` as well (``torch.ops.fastcv``), so `torch.compile` and `torch.export` take them as
they are. docs/frameworks.md says what composes with what.
"""

from typing import TYPE_CHECKING, Any

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError("fastcv.torch needs PyTorch: pip install torch") from error

from fastcv.torch._accelerate import Report, accelerate, report
from fastcv.torch._matcher import HungarianMatcher
from fastcv.torch._matchings import MATCHINGS
from fastcv.torch._ops import FUNCTIONS
from fastcv.torch._override import override

__all__ = ["HungarianMatcher", "Report", "accelerate", "override", "report"]
__all__ += sorted(FUNCTIONS | MATCHINGS)

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


globals().update(FUNCTIONS | MATCHINGS)
