"""The multi-hot product: sums of table rows over sets of token ids, without the 0/1 matrix."""

from kernels.multi_hot.api import IMPLEMENTATIONS, Implementation, multi_hot, multi_hot_dense
from kernels.multi_hot.native.build import NativeUnavailableError
from kernels.multi_hot.select import Choice, choose_implementation

__all__ = [
    "IMPLEMENTATIONS",
    "Choice",
    "Implementation",
    "NativeUnavailableError",
    "choose_implementation",
    "multi_hot",
    "multi_hot_dense",
]
