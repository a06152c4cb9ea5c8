"""The steps of training, evaluation and prediction, each for one batch: functions for `Program`."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from harness.base.errors import InputError
from harness.feed.batch import Share
from harness.model.layers import Surroundings, TableCalls, computing, identity
from harness.program.cut_step import Begun, CutStep, Step
from harness.program.exchange import Gradients, packed, pays_for
from harness.program.normalization import SumOverDevices, needs_all_rows, over_all_rows
from harness.program.padding import without_padding
from harness.program.seeds import Seeds
from harness.program.small_gradients import small_products
from harness.program.state import Called, State
from harness.task.losses import is_sparse
from harness.task.ranking import Ranking, best, without_seen
from harness.task.task import Judgement, SettledTask
from kernels.multi_hot import Implementation


@dataclass(frozen=True)
class Caller:
    """Calls a model on a device's share of a batch, and tells its layers how to compute."""

    model: keras.Model
    implementation: Implementation
    unique: frozenset[str] = frozenset()  # names of ragged inputs without repeated ids in a row
    num_workers: int = 1

    def __call__(
        self,
        state: State,
        share: Share,
        all_reduce: SumOverDevices,
        *,
        training: bool,
        watch: Callable[[Any], None] | None = None,
        catch_up: bool = False,
    ) -> Called:
        """Calls the model with a state's values. With `watch`, the gradient tape's, gradients may
        follow; for `catch_up` see `Tables.readers`."""
        given = {n: sets for n, sets in share.inputs.items() if isinstance(sets, dict)}
        ragged = {n: {**sets, "values": without_padding(**sets)} for n, sets in given.items()}
        by_rows = state.tables.readers(catch_up=catch_up)
        calls = None
        if watch is not None:
            calls = TableCalls(watch=watch)
            # Within a machine, sending a gradient is faster than computing all of it everywhere.
            if self.num_workers > 1:
                calls.pays = pays_for(share)
        surroundings = Surroundings(
            implementation=self.implementation,
            values={id(ragged[name]["values"]): sets["values"] for name, sets in given.items()},
            rowids={
                id(ragged[name]["row_splits"]): ids
                for name, ids in share.rowids.items()
                if name in ragged
            },
            unique=frozenset(id(ragged[name]["values"]) for name in self.unique if name in ragged),
            among={identity(ragged[n]): lot for n, lot in share.among.items() if n in ragged},
            by_rows=by_rows,
            calls=calls,
            num_devices=share.num_devices,
        )
        inputs: Any = {**share.inputs, **ragged}
        inputs = inputs[""] if list(inputs) == [""] else inputs
        rows = share.weights.shape[0]
        small = small_products(self.model, rows) if state.for_gpu else contextlib.nullcontext()
        with computing(surroundings), over_all_rows(self.model, share, all_reduce), small:
            called = state.call(self.model, inputs, training=training)
        shape = [*getattr(called.outputs, "shape", ())]
        if shape and shape[0] not in (None, rows):
            raise InputError(
                f"the model gives outputs of shape {shape} for {rows} rows; give one for each "
                "row, by pooling what is computed for each of its ids"
            )
        return called._replace(calls=calls.made if calls else [])


def row_sums(judged: Judgement, share: Share, added: Any) -> tf.Tensor:
    """Returns float32 [1 or 2, rows]: each row's loss, with the added losses, and its hit if that
    is a metric. To add them up over the rows at the end saves kernels in every step."""
    loss = judged.losses * share.weights
    if added is not None:  # Keras reports the loss so
        loss += added
    rows = tf.stack([loss] if judged.hits is None else [loss, judged.hits])
    return rows if share.num_rows else tf.zeros_like(rows)


def count(
    task: SettledTask,
    sums: Sequence[Sequence[tf.Variable]],
    judged: Judgement,
    share: Share,
    *,
    training: bool,
) -> None:
    of_rows = None if share.num_rows else share.weights
    for metric, variables in zip(task.stateful, sums, strict=True):
        if training and metric.name in task.evaluation_only:
            continue
        values = [tf.convert_to_tensor(variable) for variable in variables]
        after = metric.stateless_update_state(
            values, judged.targets[is_sparse(metric)], judged.probabilities, sample_weight=of_rows
        )
        for variable, value in zip(variables, after, strict=True):
            variable.assign(tf.cast(value, variable.dtype))


def forward_backward(
    call: Caller,
    task: SettledTask,
    state: State,
    share: Share,
    all_reduce: SumOverDevices,
    *,
    scale: tf.Tensor | None = None,
    updates: bool = False,
) -> tuple[Gradients, Judgement, Called]:
    """Computes this device's part of the gradients of the mean loss over the batch's rows, times
    `scale`, with the losses that layers add. With `updates`, rows of tables may catch up, and
    gradients may be sparse, as in `State.gradients`."""
    with tf.GradientTape() as tape:
        called = call(state, share, all_reduce, training=True, watch=tape.watch, catch_up=updates)
        with tf.name_scope("loss"):
            judged = task.judge(share.labels, called.outputs)
            loss = tf.reduce_sum(judged.losses * share.weights) / share.batch_rows
            if called.added_loss is not None:  # weighted, so that the devices' add up to the mean
                loss += called.added_loss * share.fraction
            if scale is not None:
                loss *= scale
    return state.gradients(tape, loss, called, sparse=updates), judged, called


def training_step(call: Caller, task: SettledTask, *, unused: list[str]) -> CutStep:
    """Returns a step that changes the state by one batch, and puts unused weights into `unused`."""

    def begin(state: State, share: Share, all_reduce: SumOverDevices) -> Begun:
        scale = state.loss_scale.scale if state.loss_scale is not None else None
        gradients, judged, called = forward_backward(
            call, task, state, share, all_reduce, scale=scale, updates=True
        )
        unused[:] = gradients.unused
        # Floats that layers keep, such as averages, become the mean over all devices. For anything
        # else any device's value will do.
        changes = called.changes
        kept = [name for name, value in changes.items() if value.dtype.is_floating]
        means = [changes.pop(name) * share.fraction for name in kept]
        with tf.name_scope("loss"):
            count(task, state.sums, judged, share, training=True)
            sums = row_sums(judged, share, called.added_loss)
        sent, gathered, unpack = packed(gradients, share)

        def finish(summed: Sequence[tf.Tensor | tf.IndexedSlices], carried: Any) -> tf.Tensor:
            changes, sums = carried
            state.assign({**changes, **dict(zip(kept, summed[len(sent) :], strict=True))})
            state.apply(unpack(summed[: len(sent)]))
            return sums

        gathered = [*gathered, *(False for _ in means)]
        return Begun([*sent, *means], gathered, (changes, sums), finish)

    return CutStep(begin, needs_all_rows(call.model))


def _called(call: Caller, state: State, share: Share, all_reduce: SumOverDevices) -> Called:
    """Calls the model outside of training, and keeps what layers change then, such as the seed of a
    dropout that is always on."""
    called = call(state, share, all_reduce, training=False)
    if share.num_devices > 1 and called.changes.keys() - {Seeds.NAME}:
        raise InputError(
            f"evaluations and predictions change {', '.join(sorted(called.changes))}, of which "
            f"{share.num_devices} devices would have different values; set replicas=1, or change "
            "it only where the argument training is true"
        )
    state.assign(called.changes)
    return called


def evaluation_step(call: Caller, task: SettledTask) -> Step:
    """Returns a step that changes metrics, and what layers change outside of training."""

    def step(state: State, share: Share, all_reduce: SumOverDevices) -> Any:
        called = _called(call, state, share, all_reduce)
        # Keras too uses no class weights in an evaluation.
        judged = task.judge(share.labels, called.outputs, training=False, inputs=share.inputs)
        count(task, state.sums, judged, share, training=False)
        sums = row_sums(judged, share, called.added_loss)
        return (sums, judged.probabilities) if task.is_measured else sums

    return step


def prediction_step(call: Caller, ranking: Ranking | None = None) -> Step:
    """Returns a step that changes only what layers change outside of training; it returns the
    outputs, or the best of them."""

    def step(state: State, share: Share, all_reduce: SumOverDevices) -> tuple[tf.Tensor, tf.Tensor]:
        called = _called(call, state, share, all_reduce)
        outputs = tf.cast(called.outputs, tf.float32)
        if ranking is not None:
            seen = None if ranking.seen is None else share.inputs[ranking.seen]
            outputs = best(outputs if seen is None else without_seen(outputs, seen), ranking.k)
        return tf.zeros([0, outputs.shape[0]]), outputs

    return step
