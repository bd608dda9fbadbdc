"""What this build is and how it runs: version, instruction set, threads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, overload

from fastcv import _checks, _core

# An OpenMP runtime that fails to start a thread ends the process, so absurd numbers stop here.
_MAX_THREADS = 1024


def set_num_threads(n: int) -> None:
    """Set how many threads the kernels use.

    Results do not depend on it: the same call gives the same bits for any number of threads.

    Parameters
    ----------
    n : int
        Number of threads, from 1 to 1024.

    Raises
    ------
    TypeError
        If `n` is not an integer. ``bool`` is not one.
    ValueError
        If `n` is less than 1 or more than 1024.

    See Also
    --------
    get_num_threads : The number in use.

    Notes
    -----
    The environment variables ``FASTCV_NUM_THREADS`` and ``OMP_NUM_THREADS`` set the number that a
    process starts with.

    Examples
    --------
    >>> import fastcv
    >>> before = fastcv.get_num_threads()
    >>> fastcv.set_num_threads(1)
    >>> fastcv.get_num_threads()
    1
    >>> fastcv.set_num_threads(before)
    """
    _core.set_num_threads(_checks.integer("set_num_threads", "n", n, 1, _MAX_THREADS))


def get_num_threads() -> int:
    """Return how many threads the kernels use.

    Returns
    -------
    int
        Number of threads, at least 1.

    See Also
    --------
    set_num_threads : Change it.

    Examples
    --------
    >>> import fastcv
    >>> fastcv.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def get_include() -> str:
    """Return the folder of the C header and of the Cython definitions.

    Compiled modules that use fastcv's C interface give it to their compiler.

    Returns
    -------
    str
        The folder that holds ``fastcv.h`` and ``ops.pxd``.

    Examples
    --------
    >>> import os
    >>> import fastcv
    >>> os.path.exists(os.path.join(fastcv.get_include(), "fastcv.h"))
    True
    """
    return str(Path(__file__).with_name("capi"))


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show the version, the instruction set, the threads and the libraries in use.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, optional
        "stdout" prints; "dicts" returns the same as a dictionary and prints nothing.

    Returns
    -------
    dict or None
        With ``mode="dicts"``, the keys ``version``, ``isa`` (with ``in use`` and ``available``),
        ``threads``, ``openmp`` (with ``version`` and ``runtime``), ``compiler`` and ``cuda``.

    Raises
    ------
    ValueError
        If `mode` is neither of the two.

    Examples
    --------
    >>> import fastcv
    >>> config = fastcv.show_config(mode="dicts")
    >>> config["isa"]["in use"] in config["isa"]["available"]
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f'show_config: mode must be "stdout" or "dicts", got {mode!r}')
    from fastcv.cuda._extension import state as cuda_state

    config: dict[str, Any] = {
        "version": version(),
        "isa": {"in use": _core.isa(), "available": _core.isas_available()},
        "threads": get_num_threads(),
        "openmp": {"version": _core.openmp_version(), "runtime": _openmp_runtimes()},
        "compiler": _core.compiler(),
        "cuda": cuda_state(),
    }
    if mode == "dicts":
        return config

    isa, openmp = config["isa"], config["openmp"]
    lines = {
        **config,
        "isa": f"{isa['in use']} (available: {', '.join(isa['available'])})",
        "openmp": f"{openmp['version']}, {', '.join(openmp['runtime']) or 'runtime not found'}",
    }
    for name, text in lines.items():
        print(f"{name:<9} {text}")
    return None


def version() -> str:
    """Return the version of the installed package."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    try:
        return installed_version("fastcv")
    except PackageNotFoundError:  # built in place, in a checkout that was never installed
        return "0+unknown"


def _openmp_runtimes() -> list[str]:
    """Return the OpenMP libraries in this process. Two of them would fight for the cores."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    return sorted(set(re.findall(r"/.*/lib(?:gomp|iomp5|omp)[-.]\S*", maps.read_text())))
