"""Build fastcv._core, one source per kernel compiled once per instruction set, and fastcv.capi.

FASTCV_CUDA=1 builds fastcv._cuda too, and fails without nvcc; "auto" builds it where nvcc is; 0,
the default, does not. FASTCV_CUDA_ARCHS names the architectures, "80;90a" for instance.
"""

import os
import platform
import re
import shutil
import subprocess
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

# GCC pairs struct members that were stored one by one, and such a pair is read only when both
# stores have left the core: 3% of attention's time. Convolution and pooling do not feel it.
PART_FLAGS = {"matrices": ["-fno-tree-slp-vectorize"]}

# Contraction is off because kernels say where they want a fused multiply-add (see csrc/simd.h).
FLAGS = ["-std=c++17", "-O3", "-fopenmp", "-fno-math-errno", "-ffp-contract=off", "-fno-lto"]
if os.environ.get("FASTCV_SANITIZE"):
    SANITIZE = [f"-fsanitize={os.environ['FASTCV_SANITIZE']}", "-fno-sanitize-recover=all"]
    FLAGS += [*SANITIZE, "-g", "-O1", "-fno-omit-frame-pointer"]
else:
    SANITIZE = []


# The last one's code for virtual hardware is kept as well, for chips that came later.
CUDA_ARCHS = os.environ.get("FASTCV_CUDA_ARCHS") or "75;80;86;89;90;90a"


def find_nvcc() -> str | None:
    """Return the path of nvcc where a CUDA build is wanted and possible."""
    wanted = os.environ.get("FASTCV_CUDA", "0")
    if wanted not in ("auto", "0", "1"):
        sys.exit(f"FASTCV_CUDA must be auto, 0 or 1, got {wanted}")
    if wanted == "0":
        return None
    folders = [
        f"{os.environ[name]}/bin" for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ
    ]
    # Then PATH, and where the packages of PyPI put it.
    folders += [os.environ.get("PATH", ""), *(f"{path}/nvidia/cu13/bin" for path in sys.path)]
    nvcc = shutil.which("nvcc", path=os.pathsep.join(folders))
    if nvcc is None and wanted == "1":
        sys.exit("FASTCV_CUDA=1, but nvcc is not in CUDA_HOME, CUDA_PATH, PATH or nvidia/cu13")
    return nvcc


def cuda_flags() -> list[str]:
    flags = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-ffp-contract=off"]
    for arch in CUDA_ARCHS.split(";"):
        flags += ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
    plain = [arch for arch in CUDA_ARCHS.split(";") if arch.isdigit()]
    if plain:
        flags += ["-gencode", f"arch=compute_{plain[-1]},code=compute_{plain[-1]}"]
    return flags


def cuda_library_folders(nvcc: str) -> list[str]:
    """Return where nvcc's own toolkit has its libraries: it says so when asked what it would do."""
    asked = [nvcc, "--dryrun", "-x", "cu", os.devnull, "-o", os.devnull]
    plan = subprocess.run(asked, capture_output=True, text=True, check=True)
    (libraries,) = re.findall(r"^#\$ LIBRARIES=(.*)$", plan.stderr, re.MULTILINE)
    return re.findall(r'-L"?([^"\s]+)', libraries)


NVCC = find_nvcc()


class BuildExt(build_ext):
    """Adds each instruction set's flags to its own files, by their folder; nvcc compiles *.cu."""

    def build_extensions(self) -> None:
        compile_one = self.compiler._compile
        self.compiler.src_extensions.append(".cu")

        def compile_with_isa(obj, src, ext, cc_args, extra_postargs, pp_opts):
            path = Path(src)
            if path.suffix == ".cu":
                self.spawn([NVCC, *cuda_flags(), "-c", src, "-o", obj])
                return
            # Kernels throw nothing; tables for unwinding would be weak symbols that sets share.
            isa = path.parent.name if path.parent.parent.name == "isa" else None
            flags = [*ISAS[isa], "-fno-exceptions", *PART_FLAGS.get(path.stem, [])] if isa else []
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
    # What is listed here goes into a source distribution, CUDA's files among it.
    depends=[
        "fastcv/capi/fastcv.h",
        *(str(p) for p in Path("csrc").rglob("*.h*")),
        *(str(p) for p in Path("csrc/cuda").glob("*")),
    ],
    extra_compile_args=FLAGS,
    extra_link_args=["-fopenmp", *SANITIZE],
)

# Python's own flags may ask for link-time optimisation, which merges code across sets.
if "-flto" in (sysconfig.get_config_var("CFLAGS") or ""):
    core.extra_link_args.append("-fno-lto")

extensions: list[Extension] = [core]
if NVCC:
    extensions.append(
        Pybind11Extension(
            "fastcv._cuda",
            sorted(
                str(p) for pattern in ("*.cu", "*.cpp") for p in Path("csrc/cuda").glob(pattern)
            ),
            depends=["csrc/ops.h", *(str(p) for p in Path("csrc/cuda").glob("*.h"))],
            define_macros=[("FASTCV_CUDA_ARCHS", CUDA_ARCHS)],
            extra_compile_args=FLAGS,
            library_dirs=cuda_library_folders(NVCC),
            # The driver is found when a device is first asked for, so the import needs none.
            libraries=["cudart_static", "dl", "rt", "pthread"],
        )
    )
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
