"""Tables of which a step updates only the rows that its batch touches.

Of `exact_adam` a row that is not touched lags behind: it makes up for the steps that it missed once
it is touched again, and all rows do in `settle`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from harness.model.layers import MultiHotDense, TableCall
from kernels.multi_hot import registry
from kernels.multi_hot.table_rules import Rule, update_rows
from kernels.multi_hot.touched import Touched


class TablePlan(NamedTuple):
    """How a table is updated."""

    rule: Rule
    is_native: bool
    """Whether the native kernels find and update the rows, or XLA's operations."""


class Table:
    """A table with its slots, on one device."""

    def __init__(self, name: str, plan: TablePlan, variable: tf.Variable) -> None:
        """Args:
        name: the path of the layer's kernel.
        plan: how it is updated.
        variable: [V, H] float32 or bfloat16, on the device at hand.
        """
        self.name = name
        self.variable = variable
        self.slots = {
            slot: tf.Variable(tf.fill(shape, tf.cast(value, dtype)), trainable=False, name=slot)
            for slot, (shape, dtype, value) in plan.rule.slots(*variable.shape).items()
        }
        self._rule = plan.rule
        self.implementation: registry.Implementation = "native" if plan.is_native else "gather"
        """Of what is done with rows."""

    @property
    def kind(self) -> str:
        """Of its optimizer."""
        return self._rule.kind

    @property
    def lags(self) -> bool:
        """Whether rows may have steps to make up for."""
        return self.kind == "exact_adam"

    @property
    def variables(self) -> list[tf.Variable]:
        """The table, then its slots."""
        return [self.variable, *self.slots.values()]

    def catch_up(self, touched: Touched | None, *, step: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
        """Lets the touched rows, or all, make up for the steps up to `step`; returns the table."""
        if self.lags:
            from kernels.multi_hot.native import table as native

            self._assign(
                native.catch_up(self._rule, self._values(), touched, step=step, active=active)
            )
        return tf.convert_to_tensor(self.variable)

    def row_gradients(self, dy: tf.Tensor, touched: Touched) -> tuple[tf.Tensor, tf.Tensor]:
        """The gradients of the touched rows, float32 [n, H], and the sum of their squares [1]."""
        return registry.product(self.implementation).row_gradients(dy, touched)

    def update(
        self,
        touched: Touched,
        dy: tf.Tensor,
        rows: tf.Tensor | None,
        *,
        learning_rate: tf.Tensor,
        factor: tf.Tensor,
        step: tf.Tensor,
        active: tf.Tensor,
    ) -> None:
        """Updates the touched rows by their gradients `rows`, or where they are None, by those that
        follow from `dy`.

        Args:
            touched: of the batch.
            dy: float32 [B, H].
            rows: float32 [n, H].
            learning_rate: float32.
            factor: float32, of the gradients.
            step: int64, counted from 1.
            active: bool; where it is false, nothing changes.
        """
        rate = self._rule.rate(learning_rate, step)
        if self.implementation == "native":
            from kernels.multi_hot.native import table as native

            updated = native.update(
                self._rule,
                self._values(),
                touched,
                dy if rows is None else rows,
                from_dy=rows is None,
                rate=rate,
                factor=factor,
                step=step,
                active=active,
            )
        else:
            rows = self.row_gradients(dy, touched)[0] if rows is None else rows
            updated = update_rows(
                self._rule,
                self._values(),
                touched,
                rows,
                rate=rate,
                factor=factor,
                step=step,
                active=active,
            )
        self._assign(updated)

    def _values(self) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(variable) for variable in self.variables]

    def _assign(self, values: Sequence[tf.Tensor]) -> None:
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)


class RowGradient(NamedTuple):
    """Of a table, what its update follows from."""

    table: Table
    touched: Touched
    dy: tf.Tensor
    """float32 [B, H]."""
    sets: Mapping[str, Any]
    """Of the rows: `TableCall.sets`."""
    is_of_all: bool = False
    """Whether it is of the rows of all devices, of which this one has touched a part so far."""

    def rows(self) -> tf.Tensor:
        """The gradients of the touched rows, float32 [n, H], and 0 in unused slots."""
        rows, _ = self.table.row_gradients(self.dy, self.touched)
        return tf.where(self.touched.ids[:, None] >= 0, rows, 0.0)


class ProductGradient(NamedTuple):
    """Of a weight that is a table, what its gradient follows from."""

    place: int
    """In `State.trainable`."""
    num_tokens: int
    dtype: tf.DType
    """Of the weight."""
    implementation: registry.Implementation
    dy: tf.Tensor
    """float32 [B, H]."""
    sets: Mapping[str, Any]
    """Of the rows: `TableCall.sets`."""


class Clipping:
    """What an optimizer does to gradients before it uses them, over dense ones and touched rows."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Args:
        optimizer: whose `global_clipnorm` is taken over: it knows nothing of the rows.
        """
        self._global_norm = optimizer.global_clipnorm
        self._norm = optimizer.clipnorm
        self._value = optimizer.clipvalue
        optimizer.global_clipnorm = None

    @property
    def needs_rows(self) -> bool:
        """Whether the gradients of the rows themselves are needed."""
        return any((self._global_norm, self._norm, self._value))

    def __call__(
        self, gradients: Sequence[tf.Tensor], rows: Sequence[tuple[tf.Tensor, tf.Tensor]]
    ) -> tuple[list[tf.Tensor], list[tuple[tf.Tensor, tf.Tensor]]]:
        """The dense gradients, and of each table the rows' gradients with the factor on them.

        Args:
            gradients: dense ones; but for the global norm, the optimizer clips them itself.
            rows: of each table the gradients of its rows and the sum of their squares.
        """
        one = tf.constant(1.0)
        if self._value:
            limit = self._value
            return list(gradients), [(tf.clip_by_value(r, -limit, limit), one) for r, _ in rows]
        if self._norm:
            limit = self._norm
            return list(gradients), [(r, _factor(s[0], limit)) for r, s in rows]
        if self._global_norm:
            squares = [tf.reduce_sum(tf.square(gradient)) for gradient in gradients]
            factor = _factor(tf.add_n([*squares, *(s[0] for _, s in rows)]), self._global_norm)
            return [g * factor for g in gradients], [(r, factor) for r, _ in rows]
        return list(gradients), [(r, one) for r, _ in rows]


def _factor(squares: tf.Tensor, limit: float) -> tf.Tensor:
    return limit / tf.maximum(tf.sqrt(squares), limit)


class Tables:
    """All tables of a state, and the switch that a trial run turns off."""

    def __init__(self, tables: Sequence[Table], optimizer: keras.optimizers.Optimizer) -> None:
        """Args:
        tables: perhaps none.
        optimizer: of the other weights, whose steps and learning rate hold for the tables too.
        """
        self.all = tuple(tables)
        self._optimizer = optimizer
        self._clipping = Clipping(optimizer) if tables else None
        self._frozen = tf.Variable(0, trainable=False, dtype=tf.int64) if tables else None
        self._is_behind = False
        self._settle = tf.function(self._settled, jit_compile=True, autograph=False)

    @property
    def variables(self) -> list[tf.Variable]:
        """Of all tables."""
        return [variable for table in self.all for variable in table.variables]

    def freeze(self, frozen: bool) -> None:
        """While frozen, steps leave the tables as they are: a trial run would otherwise have to
        copy them."""
        if self._frozen is not None:
            self._frozen.assign(int(frozen))

    def calls(self, watch: Any, *, catch_up: bool) -> Mapping[str, TableCall | None]:
        """What the layers are to do, by the paths of their kernels.

        Args:
            watch: of the tape; None where no gradient is wanted.
            catch_up: whether the rows may be changed, else they must be settled.
        """

        def call(table: Table) -> TableCall:
            def caught_up(touched: Touched) -> tf.Tensor:
                if not catch_up:
                    return tf.convert_to_tensor(table.variable)
                return table.catch_up(touched, step=self._steps_done(), active=self._is_active())

            return TableCall(watch=watch, caught_up=caught_up, implementation=table.implementation)

        return {table.name: None if watch is None else call(table) for table in self.all}

    def apply(
        self, gradients: Sequence[tf.Tensor], rows: Sequence[RowGradient], finite: tf.Tensor | bool
    ) -> list[tf.Tensor]:
        """Updates the tables, before the optimizer updates the rest; returns the gradients for it.

        Args:
            gradients: dense ones, of all other weights.
            rows: of the tables that the loss depends on.
            finite: whether the step counts.
        """
        assert self._clipping is not None
        factors = [(None, tf.constant(1.0))] * len(rows)
        if self._clipping.needs_rows:
            found = [row.table.row_gradients(row.dy, row.touched) for row in rows]
            gradients, factors = self._clipping(gradients, found)
        learning_rate = tf.cast(tf.convert_to_tensor(self._optimizer.learning_rate), tf.float32)
        for row, (clipped, factor) in zip(rows, factors, strict=True):
            if row.is_of_all:
                row.table.catch_up(row.touched, step=self._steps_done(), active=self._is_active())
            row.table.update(
                row.touched,
                row.dy,
                clipped,
                learning_rate=learning_rate,
                factor=factor,
                step=self._steps_done() + 1,
                active=self._is_active() & finite,
            )
        return list(gradients)

    def was_trained(self) -> None:
        """Notes that rows may lag behind."""
        self._is_behind = any(table.lags for table in self.all)

    def settle(self) -> None:
        """Lets all rows make up for what they missed, unless none has missed anything."""
        if self._is_behind:
            with tf.device(self.all[0].variable.device):
                self._settle()
            self._is_behind = False

    def _settled(self) -> None:
        for table in self.all:
            table.catch_up(None, step=self._steps_done(), active=tf.constant(True))

    def _steps_done(self) -> tf.Tensor:
        return tf.cast(tf.convert_to_tensor(self._optimizer.iterations), tf.int64)

    def _is_active(self) -> tf.Tensor:
        assert self._frozen is not None
        return tf.equal(tf.convert_to_tensor(self._frozen), 0)


def layers_of(model: keras.Model) -> dict[str, MultiHotDense]:
    """The multi-hot layers of a model whose tables can be trained, by the paths of these."""
    layers = (layer for layer in model._flatten_layers() if isinstance(layer, MultiHotDense))
    return {layer.kernel.path: layer for layer in layers if layer.kernel.trainable}
