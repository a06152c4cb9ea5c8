"""`native`: C++ kernels that XLA calls inside the compiled program, built on this machine.

Importing this compiles and loads nothing, not even TensorFlow; the first use does.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name != "PRODUCT":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kernels.multi_hot.native.product import PRODUCT

    return PRODUCT
