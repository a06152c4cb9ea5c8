"""A step of training, evaluation or prediction, from top to bottom: what one replica computes of
its rows of a batch. `Program` compiles it into a loop.

A step of training is `compute`, the exchange of gradients between replicas, and `update`. Where XLA
has no sums, as between processes, `worker_loops` compiles the two apart and exchanges in between.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from harness.base.errors import InputError
from harness.feed.batch import ReplicaBatch
from harness.model.layers import CallContext, calling
from harness.program.all_reduce import over_all_rows
from harness.program.exchange import Gradients, exchange, pays_for
from harness.program.launches import by_fewer_kernels, small_products
from harness.program.state import ForwardResult, State
from harness.program.strategy import this_replica
from harness.task.outputs import AnyTask
from harness.task.ranking import Ranking, best, without_seen
from harness.task.task import LossResult
from kernels.multi_hot import Implementation

Step = Callable[[State, ReplicaBatch], Any]
"""A function that processes a replica's rows of a batch; returns a tensor, or tensors in lists."""


class Carry(NamedTuple):
    """What an update needs besides the gradients."""

    changes: dict[str, tf.Tensor]
    """Next values of variables that are not trained. Floats, such as averages, are weighted, so
    that their sums over replicas are means."""
    sums: tf.Tensor  # of rows, as `row_sums` returns them


@dataclass(frozen=True)
class Forward:
    """Calls a model on a replica's rows of a batch, and tells its layers how to compute."""

    model: keras.Model
    implementation: Implementation
    unique: frozenset[str] = frozenset()  # names of ragged inputs without repeated ids in a row
    num_workers: int = 1
    on_gpu: bool = False  # whether XLA compiles it for a GPU

    def __call__(
        self,
        state: State,
        batch: ReplicaBatch,
        *,
        training: bool,
        tape: tf.GradientTape | None = None,
        catch_up: bool = False,
    ) -> ForwardResult:
        """Calls the model with a state's values. With a `tape` gradients may follow; for `catch_up`
        see `Tables.readers`."""
        inputs: dict[str, Any] = dict(batch.inputs)
        known = []
        for name, ragged in batch.ragged.items():
            inputs[name] = {**ragged.sets, "values": ragged.without_padding()}
            known.append((inputs[name], ragged._replace(unique=name in self.unique)))
        context = CallContext(
            implementation=self.implementation,
            inputs=known,
            readers=state.tables.readers(catch_up=catch_up),
            watch=None if tape is None else tape.watch,
        )
        # Within a machine, sending a gradient is faster than computing all of it everywhere.
        if self.num_workers > 1:
            context.pays = pays_for(batch)
        rows = batch.weights.shape[0]
        small = small_products(self.model, rows) if self.on_gpu else contextlib.nullcontext()
        given = inputs[""] if list(inputs) == [""] else inputs
        with calling(context), over_all_rows(self.model, batch), small:
            result = state.call(given, training=training)
        for outputs in tf.nest.flatten(result.outputs):
            shape = [*getattr(outputs, "shape", ())]
            if shape and shape[0] not in (None, rows):
                raise InputError(
                    f"the model gives outputs of shape {shape} for {rows} rows; give one for each "
                    "row, by pooling what is computed for each of its ids"
                )
        return result._replace(calls=context.calls)


def compute(
    forward: Forward, task: AnyTask, state: State, batch: ReplicaBatch, *, updates: bool
) -> tuple[Gradients, Carry]:
    """Returns this replica's part of the gradients of the mean loss over the batch's rows, with the
    losses that layers add, times the scale of the loss; and what the update needs besides. Unless
    an update follows, rows of tables do not catch up, and metrics do not count the batch."""
    with tf.GradientTape() as tape:
        result = forward(state, batch, training=True, tape=tape, catch_up=updates)
        with tf.name_scope("loss"):
            losses = task.compute_loss(batch.labels, result.outputs)
            loss = tf.reduce_sum(losses.of_rows * batch.weights) / batch.batch_rows
            if result.added_loss is not None:  # weighted, so that replicas' add up to the mean
                loss += result.added_loss * batch.fraction
            if state.loss_scale is not None:
                loss *= state.loss_scale.scale
    gradients, this_replica().unused = state.gradients(tape, loss, result)
    if forward.on_gpu:
        gradients = gradients._replace(weights=by_fewer_kernels(gradients.weights))
    changes = {
        name: value * batch.fraction if value.dtype.is_floating else value
        for name, value in result.changes.items()
    }
    with tf.name_scope("loss"):
        if updates:
            count(task, state, losses, batch, training=True)
        return gradients, Carry(changes, row_sums(losses, batch, result.added_loss))


def update(state: State, gradients: Gradients, carry: Carry) -> tf.Tensor:
    """Updates a state by the gradients of all replicas; returns this replica's row sums."""
    state.assign(carry.changes)
    state.apply(gradients)
    return carry.sums


@dataclass(frozen=True)
class TrainStep:
    """A step of training for a model and a task, or without `updates` a look at the gradients that
    an update would get, by name. Its phases can be compiled apart."""

    forward: Forward
    task: AnyTask
    updates: bool = True

    def __call__(self, state: State, batch: ReplicaBatch) -> Any:
        gradients, carry = self.compute(state, batch)
        gradients, changes = exchange(gradients, carry.changes, batch)
        return self.update(state, gradients, carry._replace(changes=changes))

    def compute(self, state: State, batch: ReplicaBatch) -> tuple[Gradients, Carry]:
        return compute(self.forward, self.task, state, batch, updates=self.updates)

    def update(self, state: State, gradients: Gradients, carry: Carry) -> Any:
        return update(state, gradients, carry) if self.updates else state.dense(gradients)


def evaluate_step(forward: Forward, task: AnyTask, state: State, batch: ReplicaBatch) -> Any:
    """Changes metrics, and what layers change outside of training; returns the row sums, and the
    probabilities if they are measured."""
    result = _called(forward, state, batch)
    seen = {name: ragged.sets for name, ragged in batch.ragged.items()}
    # Keras too uses no class weights in an evaluation.
    losses = task.compute_loss(batch.labels, result.outputs, training=False, inputs=seen)
    count(task, state, losses, batch, training=False)
    sums = row_sums(losses, batch, result.added_loss)
    return (sums, losses.probabilities) if task.is_measured else sums


def predict_step(
    forward: Forward, ranking: Ranking | None, state: State, batch: ReplicaBatch
) -> tuple[tf.Tensor, tf.Tensor]:
    """Changes only what layers change outside of training; returns no row sums, and the outputs, or
    the best of them."""
    every = tf.nest.flatten(_called(forward, state, batch).outputs)
    every = [tf.cast(outputs, tf.float32) for outputs in every]
    outputs = tf.concat(every, axis=1) if len(every) > 1 else every[0]
    if ranking is not None:
        seen = None if ranking.seen is None else batch.ragged[ranking.seen].sets
        outputs = best(outputs if seen is None else without_seen(outputs, seen), ranking.k)
    return tf.zeros([0, outputs.shape[0]]), outputs


def _called(forward: Forward, state: State, batch: ReplicaBatch) -> ForwardResult:
    """Calls the model outside of training, and keeps what layers change then, such as the seed of a
    dropout that is always on."""
    result = forward(state, batch, training=False)
    if batch.num_replicas > 1 and (changed := state.changed_weights(result.changes)):
        raise InputError(
            f"evaluations and predictions change {', '.join(changed)}, of which "
            f"{batch.num_replicas} replicas would have different values; set replicas=1, or change "
            "it only where the argument training is true"
        )
    state.assign(result.changes)
    return result


def row_sums(losses: LossResult, batch: ReplicaBatch, added: Any) -> tf.Tensor:
    """Returns float32 [1 + row metrics, rows]: each row's loss, with the added losses, and its
    `row_metrics`. To add them up over the rows at the end saves kernels in every step."""
    loss = losses.of_rows * batch.weights
    if added is not None:  # Keras reports the loss so
        loss += added
    of_outputs = [own * batch.weights for own in losses.of_outputs]
    rows = tf.stack([loss, *of_outputs, *losses.hits])
    return rows if batch.num_rows else tf.zeros_like(rows)


def count(
    task: AnyTask, state: State, losses: LossResult, batch: ReplicaBatch, *, training: bool
) -> None:
    """Adds a batch to the sums that metrics keep."""
    of_rows = None if batch.num_rows else batch.weights
    for metric, variables, compared in zip(task.stateful, state.sums, losses.compared, strict=True):
        if training and metric.name in task.evaluation_only:
            continue
        values = [tf.convert_to_tensor(variable) for variable in variables]
        after = metric.stateless_update_state(values, *compared, sample_weight=of_rows)
        for variable, value in zip(variables, after, strict=True):
            variable.assign(tf.cast(value, variable.dtype))
