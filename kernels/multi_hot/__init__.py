"""The multi-hot product: sums of table rows over sets of token ids, without the 0/1 matrix.

The names that need TensorFlow are loaded on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from kernels.multi_hot.registry import (
    IMPLEMENTATIONS,
    ROW_OPTIMIZERS,
    Batches,
    Implementation,
    Lot,
    RowOptimizer,
    UnavailableError,
    takes_rowids,
    why_unavailable,
)

if TYPE_CHECKING:
    from kernels.multi_hot.api import multi_hot, multi_hot_dense, table_gradient, touched_rows
    from kernels.multi_hot.select import choose_implementation

__all__ = [
    "IMPLEMENTATIONS",
    "ROW_OPTIMIZERS",
    "Batches",
    "Implementation",
    "Lot",
    "RowOptimizer",
    "UnavailableError",
    "choose_implementation",
    "multi_hot",
    "multi_hot_dense",
    "table_gradient",
    "takes_rowids",
    "touched_rows",
    "why_unavailable",
]

_MODULES = {
    "multi_hot": "api",
    "multi_hot_dense": "api",
    "table_gradient": "api",
    "touched_rows": "api",
    "choose_implementation": "select",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
