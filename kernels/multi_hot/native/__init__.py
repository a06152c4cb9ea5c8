"""`native`: C++ kernels that XLA calls inside the compiled program, built on this machine.

Importing this compiles and loads nothing; the first use does.
"""

from kernels.multi_hot.native.product import PRODUCT as PRODUCT
