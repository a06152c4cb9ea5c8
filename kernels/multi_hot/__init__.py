"""The multi-hot product: sums of table rows over sets of token ids, without the 0/1 matrix.

The names that need TensorFlow are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from kernels.multi_hot.registry import IMPLEMENTATIONS as IMPLEMENTATIONS
from kernels.multi_hot.registry import ROW_OPTIMIZERS as ROW_OPTIMIZERS
from kernels.multi_hot.registry import BatchGroup as BatchGroup
from kernels.multi_hot.registry import BatchRef as BatchRef
from kernels.multi_hot.registry import Implementation as Implementation
from kernels.multi_hot.registry import RowOptimizer as RowOptimizer
from kernels.multi_hot.registry import UnavailableError as UnavailableError
from kernels.multi_hot.registry import takes_rowids as takes_rowids
from kernels.multi_hot.registry import why_unavailable as why_unavailable

if TYPE_CHECKING:
    from kernels.multi_hot.api import multi_hot as multi_hot
    from kernels.multi_hot.api import multi_hot_dense as multi_hot_dense
    from kernels.multi_hot.api import table_gradient as table_gradient
    from kernels.multi_hot.api import touched_rows as touched_rows
    from kernels.multi_hot.select import choose_implementation as choose_implementation

_OF_API = ("multi_hot", "multi_hot_dense", "table_gradient", "touched_rows")


def __getattr__(name: str) -> Any:
    if name not in (*_OF_API, "choose_implementation"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "api" if name in _OF_API else "select"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
