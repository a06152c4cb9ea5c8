"""Tables of which a step updates only the rows that its batch touches.

Under `exact_adam` a row that is not touched lags behind: it makes up for the missed steps once it
is touched again, or in `State.catch_up_all`, which brings all rows up to date.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from harness.model.layers import MultiHotDense, RowReader
from harness.model.network import multi_hot_layers
from harness.program.exchange import Gradients
from harness.program.strategy import copies_of
from kernels.multi_hot import registry, touched_rows
from kernels.multi_hot.native.product import catch_up
from kernels.multi_hot.table_rules import Rule, StepNumbers, Touched

Weights = Mapping[str, tf.Tensor | tf.IndexedSlices]


class TablePlan(NamedTuple):
    rule: Rule
    implementation: registry.Implementation
    """The implementation that finds and updates the rows."""


class Table:
    """A table [V, H], float32 or bfloat16, named by the path of its kernel, and its slots."""

    def __init__(self, name: str, plan: TablePlan, variable: tf.Variable) -> None:
        self.name = name
        self.variable = variable
        self.slots = {
            slot: tf.Variable(tf.fill(shape, tf.cast(value, dtype)), trainable=False, name=slot)
            for slot, (shape, dtype, value) in plan.rule.slots(*variable.shape).items()
        }
        self.rule, self.implementation = plan
        self.lags = self.rule.kind == "exact_adam"

    @property
    def variables(self) -> list[tf.Variable]:
        return [self.variable, *self.slots.values()]

    def catch_up(self, touched: Touched | None, *, step: tf.Tensor, active: tf.Tensor) -> tf.Tensor:
        """Lets the touched rows, or all if None, make up for missed steps; returns the table."""
        if self.lags:  # which only the native kernels can make up for
            self._assign(catch_up(self.rule, self._values(), touched, step=step, active=active))
        return tf.convert_to_tensor(self.variable)

    def row_gradients(self, dy: tf.Tensor, touched: Touched) -> tuple[tf.Tensor, tf.Tensor]:
        return registry.product(self.implementation).row_gradients(dy, touched)

    def update(
        self, touched: Touched, dy: tf.Tensor, rows: tf.Tensor | None, numbers: StepNumbers
    ) -> None:
        update = registry.product(self.implementation).update
        self._assign(update(self.rule, self._values(), touched, dy, rows, numbers))

    def _values(self) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(variable) for variable in self.variables]

    def _assign(self, values: Sequence[tf.Tensor]) -> None:
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)


class TableRows(NamedTuple):
    table: Table
    touched: Touched
    dy: tf.Tensor  # The gradient of the products, float32 [B, H]

    def gradients(self) -> tf.Tensor:
        """Returns the touched rows' gradients, float32 [n, H], with 0 in unused slots."""
        rows, _ = self.table.row_gradients(self.dy, self.touched)
        return tf.where(self.touched.ids[:, None] >= 0, rows, 0.0)


class Tables:
    """All tables of a state, and the switch that a trial run turns off. The step count and learning
    rate of the other weights' optimizer hold for the tables as well."""

    def __init__(self, tables: Sequence[Table], optimizer: keras.optimizers.Optimizer) -> None:
        self.all = tuple(tables)
        self._optimizer = optimizer
        self._clipnorm, self._clipvalue = optimizer.clipnorm, optimizer.clipvalue
        self._global_clipnorm = optimizer.global_clipnorm
        if tables:  # which the optimizer does not see, so that it cannot know the global norm
            optimizer.global_clipnorm = None
        self._frozen = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.are_behind = False
        """Whether rows may have missed steps."""

    @property
    def variables(self) -> list[tf.Variable]:
        return [variable for table in self.all for variable in table.variables]

    def freeze(self, frozen: bool) -> None:
        """Sets whether steps leave the tables as they are, for a trial run."""
        for copy in copies_of(self._frozen):
            copy.assign(int(frozen))

    def readers(self, *, catch_up: bool) -> dict[str, RowReader]:
        """Returns how each table's layer is to read it, by the path of its kernel. With `catch_up`,
        rows may make up for missed steps; otherwise none must be behind."""

        def reader(table: Table) -> RowReader:
            def caught_up(touched: Touched) -> tf.Tensor:
                if not catch_up:
                    return tf.convert_to_tensor(table.variable)
                return table.catch_up(touched, step=self._steps_done(), active=self._is_active())

            return RowReader(table.implementation, caught_up)

        return {table.name: reader(table) for table in self.all}

    def apply(self, gradients: Gradients, finite: tf.Tensor | bool) -> Weights:
        """Updates the tables if gradients are finite; returns those for the other weights."""
        if not self.all:
            return gradients.weights
        of_tables = self.rows_of(gradients)
        steps, active = self._steps_done(), self._is_active()
        for of in of_tables:
            if of.table.name not in gradients.touched:  # nor have all replicas' rows caught up
                of.table.catch_up(of.touched, step=steps, active=active)
        weights, clipped = self._clipped(gradients.weights, of_tables)
        learning_rate = tf.cast(tf.convert_to_tensor(self._optimizer.learning_rate), tf.float32)
        for (table, touched, dy), (rows, factor) in zip(of_tables, clipped, strict=True):
            rate = table.rule.rate(learning_rate, steps + 1)
            table.update(touched, dy, rows, StepNumbers(rate, factor, steps + 1, active & finite))
        return weights

    def rows_of(self, gradients: Gradients) -> list[TableRows]:
        """Returns the touched rows of each table on which the loss depends."""
        found = []
        for table in self.all:
            if (row := gradients.rows.get(table.name)) is not None:
                touched = gradients.touched.get(table.name)
                if touched is None:  # the batch is that of all replicas
                    touched = touched_rows(**row.sets, implementation=table.implementation)
                found.append(TableRows(table, touched, row.dy))
        return found

    def _clipped(
        self, weights: Weights, of_tables: Sequence[TableRows]
    ) -> tuple[Weights, list[tuple[tf.Tensor | None, tf.Tensor]]]:
        """Clips dense gradients and those of touched rows together, as Keras's optimizers do by one
        of the limits; returns the dense ones, which the optimizer itself clips by the other two,
        and for each table the rows' gradients, if they are known, and the factor on them."""

        def factor(squares: tf.Tensor, limit: float) -> tf.Tensor:
            return limit / tf.maximum(tf.sqrt(squares), limit)

        one = tf.constant(1.0)
        if not (self._clipnorm or self._clipvalue or self._global_clipnorm):
            return weights, [(None, one)] * len(of_tables)
        found = [of.table.row_gradients(of.dy, of.touched) for of in of_tables]
        if limit := self._clipvalue:
            return weights, [(tf.clip_by_value(g, -limit, limit), one) for g, _ in found]
        if self._clipnorm:
            return weights, [(g, factor(squares[0], self._clipnorm)) for g, squares in found]
        dense = [tf.reduce_sum(tf.square(gradient)) for gradient in weights.values()]
        total = tf.add_n([*dense, *(squares[0] for _, squares in found)])
        shared = factor(total, self._global_clipnorm)
        clipped = {name: gradient * shared for name, gradient in weights.items()}
        return clipped, [(g, shared) for g, _ in found]

    def was_trained(self) -> None:
        self.are_behind = any(table.lags for table in self.all)

    def catch_up_all(self) -> None:
        """Lets all rows make up for missed steps, in a program."""
        for table in self.all:
            table.catch_up(None, step=self._steps_done(), active=tf.constant(True))

    def _steps_done(self) -> tf.Tensor:
        return tf.cast(tf.convert_to_tensor(self._optimizer.iterations), tf.int64)

    def _is_active(self) -> tf.Tensor:
        return tf.equal(tf.convert_to_tensor(self._frozen), 0)


def layers_of(model: keras.Model) -> dict[str, MultiHotDense]:
    """Returns the multi-hot layers of a model whose tables can be trained, by the tables' paths."""
    return {la.kernel.path: la for la in multi_hot_layers(model) if la.kernel.trainable}
