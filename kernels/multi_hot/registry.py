"""The form of an implementation of the multi-hot product, and the list of implementations.

This module imports no TensorFlow, so a command line can offer the names without loading it.
Shapes: B rows, V num_tokens, H units, N values (capacity; nnz = row_splits[-1] of them count).
"""

import contextlib
import importlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

Tensor = Any

# The registry, from the simplest to the most specialized. Each name is a module beside this file
# whose `PRODUCT` is the implementation, or a package whose module `product` has it.
Implementation = Literal["dense", "gather", "native"]

IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)

# Optimizers of the rows that a batch touches; see `table_rules.Rule`.
RowOptimizer = Literal["sgd", "adagrad", "lazy_adam", "exact_adam"]

ROW_OPTIMIZERS: tuple[RowOptimizer, ...] = get_args(RowOptimizer)


class UnavailableError(ValueError):
    """An implementation cannot be used on this machine; the message says why and what to do."""


class BatchGroup:
    """Several batches of one shape on a device, and what is computed of all of them at once."""

    def __init__(self, values: Tensor, row_splits: Tensor, weights: Tensor | None) -> None:
        import tensorflow as tf

        self.values = values  # [L, N] int32, uint16 or uint32
        self.row_splits = row_splits  # [L, B + 1] int32
        self.weights = weights  # [L, N] float32
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[["BatchGroup"], Any]) -> Any:
        """Return what `make` makes of the batches, always computed outside the loop."""
        if key not in self._made:
            with self._graph.as_default() if self._graph else contextlib.nullcontext():
                self._made[key] = make(self)
        return self._made[key]


class BatchRef(NamedTuple):
    """Several batches, and the number of the current one."""

    lot: BatchGroup
    step: Tensor  # int32 scalar in [0, L)


class Problem(NamedTuple):
    """The checked sets of one batch, and facts about the table."""

    values: Tensor  # [N] int32
    row_splits: Tensor  # [B + 1] int32 or int64
    num_tokens: int  # V
    dtype: Any  # the table's; sums are float32 in any case
    unique: bool  # the caller's promise that no row holds an id twice
    value_rowids: Tensor | None = None  # [N] int32, the row of each value; None: to be derived
    weights: Tensor | None = None  # [N] float32, which add up; None: an id counts once
    result: Any = None  # the result's dtype; None: the table's
    group: BatchRef | None = None  # several batches that the sets are one of


@dataclass(frozen=True, kw_only=True)
class Product:
    """One implementation: its functions, and what it can do."""

    index: Callable[[Problem], Any]
    """Returns what `forward` and `backward` share; called once per batch."""
    forward: Callable[[Tensor, Any], Tensor]
    """Returns y [B, H] from the table [V, H] and the index, as float32 sums."""
    backward: Callable[[Tensor, Any], Tensor]
    """Returns dW [V, H] from dy [B, H] and the index, as float32 sums in dy's dtype."""
    touch: Callable[[Problem], Any]
    """Returns a batch's distinct ids, a `table_rules.Touched`."""
    row_gradients: Callable[[Tensor, Any], tuple[Tensor, Tensor]]
    """Returns the touched rows' gradients, float32 [n, H], from dy [B, H]; and the sum of their
    squares, float32 [1]. Unused slots may hold anything."""
    update: Callable[..., list[Tensor]]
    """Returns a table and its slots after an update, as `table_rules.update` does."""
    takes_rowids: bool = True
    """Whether it accepts `value_rowids`, which a compiled program computes once for many steps, as
    `segments.take_batches` does. If not, `native.product.take_rows` copies each batch."""
    deterministic_on_gpu: bool = False
    """Whether a GPU adds in a fixed order, so that every run gives the same bits."""
    fits: Callable[[int, int], bool] = lambda num_rows, num_tokens: True
    """Returns whether `auto` should consider it for batches of B rows of V possible ids."""
    prepare: Callable[[str], str] = lambda device_type: ""
    """Builds and loads what it needs on "CPU" or "GPU". Returns an identifier of that build, or
    raises UnavailableError."""


def product(name: str) -> Product:
    """Return the implementation called `name`; ValueError if there is none."""
    if name not in IMPLEMENTATIONS:
        raise ValueError(
            f"unknown implementation {name!r}: choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    module = importlib.import_module(f"kernels.multi_hot.{name}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{module.__name__}.product")
    found: Product = module.PRODUCT
    return found


def takes_rowids(name: str) -> bool:
    return product(name).takes_rowids


def why_unavailable(name: str, device_type: str) -> str | None:
    """Build and load an implementation for "CPU" or "GPU"; return why that fails."""
    try:
        product(name).prepare(device_type)
    except UnavailableError as error:
        return str(error)
    return None
