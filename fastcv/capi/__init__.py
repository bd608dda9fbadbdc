"""The C interface: what other compiled packages build on.

`fastcv.get_include()` names this folder. `fastcv.h` is for C and C++, `ops.pxd` for Cython:
``from fastcv.capi.ops cimport conv2d``. docs/capi.md shows both.
"""
