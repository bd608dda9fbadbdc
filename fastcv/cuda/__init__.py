"""fastcv on CUDA devices: errors that come late. docs/cuda.md says what runs there."""

from __future__ import annotations

from typing import Any

from fastcv import _checks
from fastcv.cuda._extension import extension

__all__ = ["synchronize"]


def synchronize(device: int = 0) -> None:
    """Wait until all work on a device is done, and raise what it found.

    No function of fastcv waits for a device, so none can say at once that an index is outside its
    plane, or that costs have no matching. The error comes from a later call on the device, or from
    here.

    Parameters
    ----------
    device : int, optional
        The device's number.

    Raises
    ------
    IndexError
        If an index of a call since the last such error was outside its plane, or a label no class.
    ValueError
        If costs had no matching: some were NaN, or of an infinity that may not be, or too many
        infinite; or if sizes on the device exceeded their costs.
    ImportError
        If this build has no CUDA kernels.
    RuntimeError
        If CUDA reports an error.
    """
    op = "synchronize"
    kernels: Any = extension()
    number = _checks.integer(op, "device", device, 0)
    kernels.synchronize(number)
    if kernels.take_index_fault(number):
        raise _checks.late_index_error(op, number)
    fault = kernels.take_assignment_fault(number)
    if fault:
        raise _checks.late_assignment_error(op, number, fault)
