"""Argument checks of the ops, a file each. Every error text of the package is made here.

A check returns its argument in the one form that the rest of the package works with (plain
integers, pairs, shapes), or raises before anything has been allocated or written. A valid call pays
for attribute reads and comparisons; what follows from shapes and parameters alone is worked out
once per distinct combination and remembered.
"""

from fastcv._checks.arrays import *
from fastcv._checks.assignment import *
from fastcv._checks.attention import *
from fastcv._checks.conv_transpose2d import *
from fastcv._checks.convolution import *
from fastcv._checks.gram_matrix import *
from fastcv._checks.pooling import *
from fastcv._checks.values import *
