"""Build the example, where fastcv and Cython are: `python setup.py build_ext --inplace`."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastcv

setup(
    name="contours",
    ext_modules=cythonize(
        Extension("contours", ["contours.pyx"], include_dirs=[fastcv.get_include()])
    ),
)
