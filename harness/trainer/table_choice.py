"""The choice of what updates each multi-hot layer's table: the trainer's optimizer, or an optimizer
of the touched rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import keras
import numpy as np
import tensorflow as tf

from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.feed.batch import Columns, RaggedInput, batch_of
from harness.model.compile_errors import naming_failed_layer
from harness.model.layers import CallContext, MultiHotDense, RowReader, calling
from harness.model.variables import variables_by_name
from harness.program.exchange import MAX_NUMBER
from harness.program.strategy import Replica
from harness.program.tables import TablePlan, layers_of
from harness.run.records import Choice
from harness.task.outputs import AnyTask
from kernels.multi_hot import Implementation, RowOptimizer
from kernels.multi_hot.table_rules import Rule

_LARGE = {"CPU": 2**14, "GPU": 2**24}
"""Elements of a table below which updating the whole table is about as fast. For a GPU this is an
estimate: Adam on 64 MB takes an H100 about 0.2 ms, the time of some 20 kernel launches."""
_TOUCHED_SHARE = {"CPU": 0.45, "GPU": 0.1}
"""The largest share of a table's rows that a batch may touch. On a CPU, `benchmarks.regret` finds
exact_adam as fast as dense Adam up to half; a GPU writes a whole table faster."""
_NARROW = {"CPU": 64, "GPU": math.inf}
"""Units up to which that share holds. It grows with further units: exact_adam's own work on a CPU
is the same for each touched row, and what it saves grows with the row."""
_OF_ALL_ROWS = ("dense", "adam")
_TRACED_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class TablesAsked:
    model: keras.Model
    optimizer: keras.optimizers.Optimizer  # The trainer's optimizer
    device_type: Literal["CPU", "GPU"]
    num_devices: int  # The number of devices of all workers
    train: Examples
    batch_size: int
    task: AnyTask
    strategy: tf.distribute.Strategy

    @functools.cached_property
    def other_uses(self) -> dict[str, str]:
        """Why tables cannot be updated by rows: the loss reads them other than by one product."""
        layers = layers_of(self.model)
        found: dict[str, str] = {}

        columns = Columns.of(self.train).take(np.arange(min(_TRACED_ROWS, self.train.num_rows)))

        def trace() -> None:
            batch = batch_of(columns, 0, "gather")
            graph = tf.compat.v1.get_default_graph()
            # A product reads its table by itself; any other use reads these.
            tables = {n: tf.convert_to_tensor(la.kernel.value) for n, la in layers.items()}
            by_rows = {n: RowReader("gather", _reads(la.kernel.value)) for n, la in layers.items()}
            named = variables_by_name(self.model)
            mapping = [(v, tables.get(name, v.value)) for name, v in named.items()]
            how = {"training": True} if self.model._call_has_training_arg else {}
            given = {
                n: p.sets if isinstance(p, RaggedInput) else p for n, p in batch.inputs.items()
            }
            context = CallContext(implementation="gather", readers=by_rows, watch=lambda _: None)
            scope = keras.StatelessScope(mapping, collect_losses=True)
            with Replica(self.strategy, 0, list), scope, calling(context):
                outputs = self.model(given.get("", given), **how)
                _ = self.model.losses, self.task.compute_loss(batch.labels, outputs)
            for name, table in tables.items():
                outputs = [c.outputs for c in context.calls if c.layer.kernel.path == name]
                if table.consumers():
                    found[name] = "the loss depends on its table in another way than by its product"
                elif len(outputs) > 1:
                    found[name] = "it is called more than once"
                elif outputs and outputs[0].graph is not graph:
                    found[name] = "it is called in a branch or a loop"

        with naming_failed_layer(self.model):
            tf.function(trace, autograph=False).get_concrete_function()
        return found


def _reads(table: tf.Variable) -> Callable[[Any], tf.Tensor]:
    return lambda touched: tf.convert_to_tensor(table)


def choose_table_optimizer(asked: TablesAsked | None, implementation: Implementation) -> Choice:
    """Chooses the optimizer of touched rows that gives the same as the trainer's on all rows, if
    the largest table is so large that this is faster; else `dense`."""

    def dense(why: str) -> Choice:
        return Choice(name="dense", why=why)

    known = {} if asked is None else layers_of(asked.model)
    layers = [layer for layer in known.values() if layer.table_optimizer == "auto"]
    if asked is None or not layers or not asked.train.ragged:
        return dense("no table asks for one")
    largest = max(layers, key=lambda layer: layer.num_tokens * layer.units)
    if largest.num_tokens * largest.units < _LARGE[asked.device_type]:
        return dense(f"the table is small, {largest.num_tokens:,} x {largest.units:,}")
    kind = _same_on_touched_rows(asked.optimizer)
    if kind is None:
        return dense(
            f"of {type(asked.optimizer).__name__}, which changes rows that a batch leaves out"
        )
    for layer in layers:
        if reason := _why_not(layer, kind, asked, implementation):
            return dense(reason)
    touched = _touched_rows(asked)
    why = f"a batch touches about {touched:,} of {largest.num_tokens:,} rows"
    share = _TOUCHED_SHARE[asked.device_type] * max(1, largest.units / _NARROW[asked.device_type])
    if touched > share * largest.num_tokens:
        return dense(why)
    for layer in layers:
        if reason := asked.other_uses.get(layer.kernel.path):
            return dense(reason)
    why += "; the same as on all rows, up to rounding"
    if asked.num_devices > 1:
        sent, table = _exchanged(asked, layers), sum(la.num_tokens * la.units for la in layers)
        instead = f"exchange {sent:,} numbers a step instead of the table's {table:,}"
        if sent >= table:
            return dense(f"devices would {instead}")
        why += f"; devices {instead}"
    return Choice(name=kind, why=why)


def plans_of(
    asked: TablesAsked, chosen: str, implementation: Implementation
) -> dict[str, TablePlan]:
    """Returns the plan of each table that is updated by rows, by name. `chosen` and
    `implementation` are for layers that name none. Raises InputError for what cannot be had."""
    plans = {}
    for name, layer in layers_of(asked.model).items():
        kind = chosen if layer.table_optimizer == "auto" else layer.table_optimizer
        if kind in _OF_ALL_ROWS and layer.table_dtype == "bfloat16":
            raise InputError(
                f"the table of the layer {layer.name!r} is bfloat16, to which a dense optimizer's "
                "small updates are lost; set --table-optimizer=sgd, adagrad or lazy_adam, which "
                "round by chance, or --table-dtype=float32"
            )
        reason = _why_not(layer, kind, asked, implementation)
        if reason is None and kind not in _OF_ALL_ROWS:
            reason = asked.other_uses.get(name)
        if reason:
            raise InputError(
                f"--table-optimizer={kind} cannot be had for the layer {layer.name!r}: {reason}; "
                "set --table-optimizer=dense, or auto"
            )
        if kind not in _OF_ALL_ROWS:
            how: Implementation = layer.implementation or implementation
            how = "native" if how == "native" else "gather"
            plans[name] = TablePlan(_rule(kind, asked.optimizer), how)
    return plans


def kept_by_rows(kind: str) -> int:
    """Returns an optimizer's bytes for each byte of a float32 table."""
    slots = Rule(cast(RowOptimizer, kind)).slots(2**20, 2**10).values()
    return sum(math.prod(shape) for shape, *_ in slots) // (2**20 * 2**10)


def _same_on_touched_rows(optimizer: keras.optimizers.Optimizer) -> str | None:
    """Returns the optimizer of touched rows that gives the same as this one on all rows, if any."""
    if type(optimizer) is keras.optimizers.Adam and not optimizer.amsgrad:
        return "exact_adam"
    if type(optimizer) is keras.optimizers.SGD and not optimizer.momentum:
        return "sgd"
    return None


def _why_not(
    layer: MultiHotDense, kind: str, asked: TablesAsked, implementation: Implementation
) -> str | None:
    optimizer = asked.optimizer
    is_adam = isinstance(optimizer, keras.optimizers.Adam)
    if kind == "adam" and not is_adam:
        return f"that is the trainer's own optimizer, which is {type(optimizer).__name__}"
    if kind in _OF_ALL_ROWS:
        return None
    if asked.num_devices > 1 and layer.num_tokens > MAX_NUMBER:
        return f"devices exchange ids below {MAX_NUMBER:,}, and the table has {layer.num_tokens:,}"
    if layer.kernel_regularizer is not None or layer.kernel.constraint is not None:
        return "its regularizer or constraint is about all rows"
    if layer.kernel.dtype not in ("float32", "bfloat16"):
        return f"its table is {layer.kernel.dtype}, not float32 or bfloat16"
    if layer.kernel.dtype == "bfloat16" and kind == "exact_adam":
        return "its table is bfloat16, whose rounding is far above what it makes up for"
    for name in ("weight_decay", "use_ema", "gradient_accumulation_steps"):
        if getattr(optimizer, name, None):
            return f"the optimizer's {name} is about all rows in every step"
    if kind.endswith("_adam") and is_adam and getattr(optimizer, "amsgrad", False):
        return "Adam's amsgrad is not built for it"
    if kind == "exact_adam" and is_adam:
        betas = optimizer.beta_1, optimizer.beta_2
        if not all(0 < beta < 1 for beta in betas):
            return f"its series needs betas between 0 and 1, not {betas[0]:g} and {betas[1]:g}"
    own = layer.implementation or implementation
    if kind == "exact_adam" and own != "native":
        return f"it needs the implementation native; the layer has {own}"
    return None


def _rule(kind: str, optimizer: keras.optimizers.Optimizer) -> Rule:
    rule = Rule(cast(RowOptimizer, kind))
    if kind.endswith("_adam") and isinstance(optimizer, keras.optimizers.Adam):
        return rule._replace(
            beta_1=optimizer.beta_1, beta_2=optimizer.beta_2, epsilon=optimizer.epsilon
        )
    if kind == "adagrad" and isinstance(optimizer, keras.optimizers.Adagrad):
        initial = optimizer.initial_accumulator_value
        return rule._replace(epsilon=optimizer.epsilon, initial=initial)
    return rule


def _exchanged(asked: TablesAsked, layers: Sequence[MultiHotDense]) -> int:
    ids = max(
        sets.nnz / sets.num_rows * (1 if sets.weights is None else 2)
        for sets in asked.train.ragged.values()
    )
    return round(sum(layer.units + ids for layer in layers) * asked.batch_size)


def _touched_rows(asked: TablesAsked) -> int:
    """Estimates the number of distinct ids of a batch, from rows spread over the data set."""
    sets = max(asked.train.ragged.values(), key=lambda sets: sets.nnz)
    rows = np.linspace(0, sets.num_rows - 1, asked.batch_size).astype(np.int64)
    splits = sets.row_splits
    parts = [sets.values[splits[row] : splits[row + 1]] for row in rows]
    return len(np.unique(np.concatenate(parts)))
