"""Build fastcv._core, one source per kernel compiled once per instruction set, and fastcv.capi."""

import os
import platform
import sys
import sysconfig
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ISA_FLAGS = {
    "x86_64": {
        "baseline": [],
        "avx2": ["-mavx2", "-mfma"],
        "avx512": [
            *["-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
            "-mprefer-vector-width=512",
        ],
    },
    "aarch64": {"neon": []},
}
MACHINE = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
ISAS = ISA_FLAGS.get(MACHINE, {"baseline": []})

# Contraction is off because kernels say where they want a fused multiply-add (see csrc/simd.h).
FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fno-math-errno", "-ffp-contract=off", "-fno-lto"]
if os.environ.get("FASTCV_SANITIZE"):
    SANITIZE = [f"-fsanitize={os.environ['FASTCV_SANITIZE']}", "-fno-sanitize-recover=all"]
    FLAGS += [*SANITIZE, "-g", "-O1", "-fno-omit-frame-pointer"]
else:
    SANITIZE = []


class BuildExt(build_ext):
    """Adds each instruction set's flags to its own files, chosen by their folder."""

    def build_extensions(self) -> None:
        compile_one = self.compiler._compile

        def compile_with_isa(obj, src, ext, cc_args, extra_postargs, pp_opts):
            path = Path(src)
            # Kernels throw nothing; tables for unwinding would be weak symbols that sets share.
            isa = path.parent.name if path.parent.parent.name == "isa" else None
            flags = [*ISAS[isa], "-fno-exceptions"] if isa else []
            compile_one(obj, src, ext, cc_args, [*extra_postargs, *flags], pp_opts)

        self.compiler._compile = compile_with_isa
        super().build_extensions()


# Of the kernels, the slowest to compile first.
PARTS = ("convolution", "pooling", "matrices", "assignment")
sources = [
    *sorted(str(p) for p in Path("csrc").glob("*.cpp")),
    *(f"csrc/isa/{isa}/{part}.cpp" for part in PARTS for isa in reversed(ISAS)),
    *sorted(str(p) for p in Path("csrc/bind").glob("*.cpp")),
    *sorted(str(p) for p in Path("csrc/capi").glob("*.cpp")),
]
core = Pybind11Extension(
    "fastcv._core",
    sources,
    depends=["fastcv/capi/fastcv.h", *(str(p) for p in Path("csrc").rglob("*.h*"))],
    extra_compile_args=FLAGS,
    extra_link_args=["-fopenmp", *SANITIZE],
)

# Python's own flags may ask for link-time optimisation, which merges code across sets.
if "-flto" in (sysconfig.get_config_var("CFLAGS") or ""):
    core.extra_link_args.append("-fno-lto")

extensions: list[Extension] = [core]
try:
    from Cython.Build import cythonize
except ImportError:  # a build without isolation, in an environment that lacks it
    print("warning: without Cython, fastcv.capi.ops for cimport is left out", file=sys.stderr)
else:
    extensions += cythonize(
        Extension("fastcv.capi.ops", ["fastcv/capi/ops.pyx"], include_dirs=["fastcv/capi"]),
        build_dir="build",
        quiet=True,
    )

ParallelCompile("FASTCV_BUILD_JOBS", default=os.cpu_count() or 1).install()

setup(ext_modules=extensions, cmdclass={"build_ext": BuildExt})
