"""Arrays on a device, on their way from the user's function to where there are kernels for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def run_on_device(name: str, variables: Mapping[str, Any]) -> Any:
    """Run a function on what its arguments are among its variables, some being on a device."""
    from fastcv.cuda._arrays import call

    return call(name, variables)
