"""Tables of which a step updates only the rows that its batch touches.

Under `exact_adam` a row that is not touched lags behind: it makes up for the missed steps once it
is touched again, or in `settle`, which brings all rows up to date.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from harness.model.layers import MultiHotDense, TableCall
from kernels.multi_hot import registry
from kernels.multi_hot.native.table import catch_up
from kernels.multi_hot.table_rules import Rule
from kernels.multi_hot.touched import Touched


class TablePlan(NamedTuple):
    """The way in which a table is updated."""

    rule: Rule
    is_native: bool
    """Whether native kernels find and update the rows, instead of XLA's operations."""


class Table:
    """A table with its slots, on one device."""

    def __init__(self, name: str, plan: TablePlan, variable: tf.Variable) -> None:
        """Args:
        name: the path of the layer's kernel.
        plan: the way in which the table is updated.
        variable: the table, [V, H] float32 or bfloat16, on the current device.
        """
        self.name = name
        self.variable = variable
        self.slots = {
            slot: tf.Variable(tf.fill(shape, tf.cast(value, dtype)), trainable=False, name=slot)
            for slot, (shape, dtype, value) in plan.rule.slots(*variable.shape).items()
        }
        self._rule = plan.rule
        self.implementation: registry.Implementation = "native" if plan.is_native else "gather"
        """The implementation that finds and updates the rows."""

    @property
    def kind(self) -> str:
        """The name of the table's optimizer."""
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
        """Lets the touched rows, or all if None, make up for missed steps up to `step`; returns the
        table."""
        if self.lags:  # which only the native kernels can make up for
            self._assign(catch_up(self._rule, self._values(), touched, step=step, active=active))
        return tf.convert_to_tensor(self.variable)

    def row_gradients(self, dy: tf.Tensor, touched: Touched) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the touched rows' gradients, float32 [n, H], and the sum of their squares [1]."""
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
        """Updates the touched rows by their gradients.

        Args:
            touched: the rows that the batch touches.
            dy: the gradient of the products, float32 [B, H].
            rows: the gradients of the touched rows, float32 [n, H]; None to compute them from `dy`.
            learning_rate: the learning rate, float32.
            factor: the factor on the gradients, float32.
            step: the number of the step, int64, counted from 1.
            active: bool; if it is false, nothing changes.
        """
        self._assign(
            registry.product(self.implementation).update(
                self._rule,
                self._values(),
                touched,
                dy,
                rows,
                rate=self._rule.rate(learning_rate, step),
                factor=factor,
                step=step,
                active=active,
            )
        )

    def _values(self) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(variable) for variable in self.variables]

    def _assign(self, values: Sequence[tf.Tensor]) -> None:
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)


class RowGradient(NamedTuple):
    """The tensors from which the update of a table's rows follows."""

    table: Table
    touched: Touched
    dy: tf.Tensor
    """The gradient of the products, float32 [B, H]."""
    sets: Mapping[str, Any]
    """The sets of the batch's rows, as in `TableCall.sets`."""
    is_of_all: bool = False
    """Whether `touched` holds the rows of all devices, of which this device has so far brought only
    its own up to date."""

    def rows(self) -> tf.Tensor:
        """Returns the touched rows' gradients, float32 [n, H], with 0 in unused slots."""
        rows, _ = self.table.row_gradients(self.dy, self.touched)
        return tf.where(self.touched.ids[:, None] >= 0, rows, 0.0)


class ProductGradient(NamedTuple):
    """The tensors from which the gradient of a whole table follows, a weight in
    `State.trainable`."""

    place: int
    """The weight's place in `State.trainable`."""
    num_tokens: int
    dtype: tf.DType
    """The dtype of the weight."""
    implementation: registry.Implementation
    dy: tf.Tensor
    """The gradient of the products, float32 [B, H]."""
    sets: Mapping[str, Any]
    """The sets of the batch's rows, as in `TableCall.sets`."""


class Clipping:
    """The optimizer's clipping of gradients, over dense ones and those of touched rows together."""

    def __init__(self, optimizer: keras.optimizers.Optimizer) -> None:
        """Args:
        optimizer: its `global_clipnorm` moves here, since the optimizer does not see the rows.
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
        """Returns the dense gradients, and for each table the rows' gradients and the factor on
        them.

        Args:
            gradients: the dense gradients, clipped here by the global norm only: the optimizer
                itself does the other clipping.
            rows: the gradients of each table's rows, and the sum of their squares.
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
        tables: the tables, if any.
        optimizer: the optimizer of the other weights; its step count and learning rate hold for
            the tables as well.
        """
        self.all = tuple(tables)
        self._optimizer = optimizer
        self._clipping = Clipping(optimizer) if tables else None
        self._frozen = tf.Variable(0, trainable=False, dtype=tf.int64) if tables else None
        self._is_behind = False
        self._settle = tf.function(self._settled, jit_compile=True, autograph=False)

    @property
    def variables(self) -> list[tf.Variable]:
        """The variables of all tables."""
        return [variable for table in self.all for variable in table.variables]

    def freeze(self, frozen: bool) -> None:
        """Sets whether steps leave the tables as they are, so that a trial run need not copy
        them."""
        if self._frozen is not None:
            self._frozen.assign(int(frozen))

    def calls(self, watch: Any, *, catch_up: bool) -> Mapping[str, TableCall | None]:
        """Returns the call that each table's layer is to make, by the path of its kernel.

        Args:
            watch: the `watch` of the gradient tape; None if no gradient is wanted.
            catch_up: whether rows may be changed to make up for missed steps; otherwise all must be
                settled.
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
        """Updates the tables, before the optimizer updates the other weights; returns the gradients
        for the optimizer.

        Args:
            gradients: the dense gradients of all other weights.
            rows: the gradients of the tables that the loss depends on.
            finite: whether the gradients are finite, so that the step counts.
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
        """Lets all rows make up for missed steps, if any row may have missed some."""
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
    """Returns the multi-hot layers of a model whose tables can be trained, by the tables' paths."""
    layers = (layer for layer in model._flatten_layers() if isinstance(layer, MultiHotDense))
    return {layer.kernel.path: layer for layer in layers if layer.kernel.trainable}
