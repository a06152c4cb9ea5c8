"""The programs, which the training loop drives: one dispatch in, one small vector out."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from harness.base.watchdog import exit_after
from harness.feed.batch import BatchesByRows
from harness.feed.feed import Dispatches, Feed
from harness.feed.plan import Call, Dispatch, Plan, shares_of
from harness.model.network import multi_hot_layers
from harness.model.variables import checksum_of
from harness.program.all_reduce import needs_all_rows
from harness.program.devices import PATIENCE_SECONDS, Devices
from harness.program.program import Program, compile_all
from harness.program.state import State
from harness.program.step import Forward, TrainStep, evaluate_step, predict_step
from harness.program.strategy import copies_of
from harness.program.tables import TablePlan
from harness.run.records import Compilation, Distribution, Evaluation, Inspection, StepSums
from harness.task.losses import ACCURACY
from harness.task.measures import Quality
from harness.task.outputs import AnyTask
from harness.task.ranking import Ranking
from kernels.multi_hot import Implementation

_TIMES_THE_USUAL = 50  # The least times its usual length after which a dispatch counts as stuck

NUM_BINS = 30  # The number of bins of a histogram, the same as TensorBoard's


class InspectionSchedule(NamedTuple):
    """How often to look at gradients, in epochs: n at the end of every n-th epoch, 0 never."""

    histograms_every: int = 0
    precision_every: int = 0


Watch = Callable[[int, Mapping[str, Any] | None], bool]
"""Called before a batch with its number and None, and after it with the number and the results so
far; then it returns whether that batch is to be the last."""


class ModelPrograms:
    """Trains and evaluates one model on the given devices. `implementation` computes the multi-hot
    products of layers that name none, `unique` names the ragged inputs that hold no id twice in a
    row, and `tables` has the plans of tables that are updated by rows, by the paths of their
    kernels."""

    def __init__(
        self,
        model: keras.Model,
        task: AnyTask,
        devices: Devices,
        optimizer: keras.optimizers.Optimizer,
        *,
        implementation: Implementation,
        unique: frozenset[str],
        tables: Mapping[str, TablePlan],
    ) -> None:
        in_part = needs_all_rows(model) and not devices.cluster.is_alone
        # Programs for a GPU use operations that only XLA has.
        on_gpu = devices.device_type == "GPU" and not in_part
        self.state = State(
            model, optimizer, devices, metrics=task.stateful, tables=tables, on_gpu=on_gpu
        )
        # Whether XLA compiles only a part of a training step.
        self.compiles_in_part = in_part
        # Two compilations at once would compete for a GPU's memory and disturb XLA's measurements
        # there; and several devices or workers must begin their all-reduces in the same order.
        is_one = len(devices.names) == 1 and devices.cluster.is_alone
        self._compiles_concurrently = is_one and devices.device_type == "CPU"
        self.have_trained = False
        self._steps_per_epoch: int | None = None
        self._task = task
        self._cluster = devices.cluster
        self._step_seconds: float | None = None  # in the last dispatch
        self.forward = Forward(
            model,
            implementation=implementation,
            unique=unique,
            num_workers=devices.cluster.num_workers,
            on_gpu=on_gpu,
        )
        program = functools.partial(
            Program, state=self.state, implementation=implementation, on_gpu=on_gpu
        )
        row_sums = 1 + len(task.row_metrics)
        self._training = program("training step", TrainStep(self.forward, task), row_sums=row_sums)
        self._gradients = program("look at gradients", TrainStep(self.forward, task, updates=False))
        self._evaluation = program(
            "evaluation",
            functools.partial(evaluate_step, self.forward, task),
            row_sums=row_sums,
            row_outputs=task.num_outputs if task.is_measured else None,
        )
        self._prediction = functools.cache(
            lambda ranking: program(
                "prediction",
                functools.partial(predict_step, self.forward, ranking),
                row_sums=0,
                row_outputs=2 * ranking.k if ranking else task.num_outputs,
            )
        )

    @property
    def learning_rate(self) -> float:
        """The current learning rate, as the shortest number that rounds to this float32."""
        return float(str(np.float32(self.state.optimizer.learning_rate)))

    def take_unused(self) -> tuple[str, ...]:
        """Returns, once, the weights that the loss turned out not to depend on in a trace."""
        unused, self._training.unused = self._training.unused, ()
        return unused

    def prepare(
        self,
        plan: Plan,
        dispatch: Dispatch,
        batches: BatchesByRows,
        *,
        start_step: int,
        evaluation: tuple[Feed, Plan] | None = None,
    ) -> list[Compilation]:
        """Compiles every program that a plan trains with from a step on, and the evaluation of
        other rows, so that a model that cannot be evaluated fails before the first epoch. At the
        beginning of an epoch, it resets metrics that keep sums of their own."""
        self._steps_per_epoch = plan.steps_per_epoch
        if dispatch.step % plan.steps_per_epoch == 0:
            self._reset_metrics()
        if dispatch.step != start_step:
            return []  # all were compiled before the first dispatch
        start = time.perf_counter()
        loops = [(self._training, batches, call) for call in plan.programs(start_step=start_step)]
        if evaluation is not None:
            feed, own_plan = evaluation
            passes: Dispatches = feed.dispatches(own_plan)
            _, own = next(passes)
            loops[:0] = [(self._evaluation, own, call) for call in own_plan.programs()]
        compilations = compile_all(
            loops, at_step=dispatch.step, concurrent=self._compiles_concurrently
        )
        if compilations:  # preparing them is part of no window's time
            others = time.perf_counter() - start - sum(made.seconds for made in compilations)
            last = compilations[-1]
            compilations[-1] = replace(last, seconds=last.seconds + others)
        return compilations

    @property
    def reads_sums_alone(self) -> bool:
        """Whether nothing else is read after a dispatch: no loss scale, no metric's own sums."""
        return not self._task.stateful and self.state.loss_scale is None

    def train(self, parts: Sequence[tuple[Dispatch, BatchesByRows]]) -> list[StepSums]:
        """Runs a dispatch, or with `reads_sums_alone` several, and waits: their one host sync."""
        self.have_trained = True
        start = time.perf_counter()
        num_steps = sum(dispatch.num_steps for dispatch, _ in parts)
        with self._time_limit(num_steps):
            begun = _by_device([self._begin(*part) for part in parts], tf.stack)
            (sums,) = self._cluster.total(np.sum([own.numpy() for own in begun], axis=0))
        self._step_seconds = (time.perf_counter() - start) / num_steps
        pairs = zip(sums.reshape(len(parts), -1), parts, strict=True)
        return [self._step_sums(own, dispatch.examples) for own, (dispatch, _) in pairs]

    def _time_limit(self, num_steps: int) -> AbstractContextManager[None]:
        """Returns a context that limits the time of a dispatch on several GPUs, but the first: they
        wait for each other in every sum of gradients, also for one that is lost."""
        # Several workers may wait long for what the chief does between dispatches.
        may_wait = len(self.state.devices.names) > 1 and self._cluster.is_alone
        if not may_wait or self._step_seconds is None:
            return nullcontext()
        usual = num_steps * self._step_seconds
        seconds = max(PATIENCE_SECONDS, _TIMES_THE_USUAL * usual)
        return exit_after(
            seconds,
            f"error: {num_steps} steps, which usually take {usual:.1f} s, have not ended in "
            f"{seconds:.0f} s: the GPUs may be waiting for one that is lost, as `nvidia-smi` would "
            "show. The run can be resumed from its last checkpoint",
        )

    def _begin(self, dispatch: Dispatch, batches: BatchesByRows) -> Sequence[tf.Tensor]:
        """Begins a dispatch; returns its row sums on each device."""
        calls = [self._training(call, batches) for call in dispatch.calls]
        self.state.tables.was_trained()
        # At the end of every epoch, even if nobody reads the tables: so all runs round alike.
        if (dispatch.step + dispatch.num_steps) % (self._steps_per_epoch or 1) == 0:
            self.state.catch_up_all()
        return _by_device(calls, tf.add_n)

    def _step_sums(self, sums: np.ndarray, examples: int) -> StepSums:
        scale = self.state.loss_scale
        metrics = self._metrics(sums, examples)
        skipped = 0 if scale is None else int(scale.skipped_steps.numpy())
        for copy in copies_of(scale.skipped_steps) if scale is not None and skipped else ():
            copy.assign(0)
        return StepSums(
            loss=float(sums[0]),
            metrics={n: v for n, v in metrics.items() if n not in self._task.evaluation_only},
            skipped_steps=skipped,
            loss_scale=None if scale is None else float(scale.scale.numpy()),
        )

    def evaluate(
        self,
        feed: Feed,
        plan: Plan,
        *,
        step: int,
        epoch: int,
        measures: Quality | None = None,
        watch: Watch | None = None,
        with_checksum: bool = False,
    ) -> tuple[Evaluation, list[Compilation]]:
        """Evaluates one pass; changes only the sums of metrics, and what layers change outside of
        training. `measures` get the rows' probabilities, and `watch` is called around each batch,
        of calls of one step. Returns the evaluation, whose time excludes compilation, and what was
        compiled, which is nothing after `prepare`."""
        compilations = []
        start = time.perf_counter()
        pending: list[Any] = []
        last: tuple[Call, Sequence[tf.Tensor]] | None = None  # whose outputs are not measured yet
        examples = 0
        self._reset_metrics()
        self.state.catch_up_all()
        if measures is not None:
            measures.reset()

        def so_far() -> dict[str, float]:
            pending[:] = [np.sum([np.asarray(sums) for sums in pending], axis=0)]
            (sums,) = self._cluster.total(pending[0])
            return {"loss": float(sums[0]) / examples, **self._metrics(sums, examples)}

        calls = ((call, b) for dispatch, b in feed.dispatches(plan) for call in dispatch.calls)
        for number, (call, batches) in enumerate(calls):
            if watch is not None:
                watch(number, None)
            compilations += self._compile_evaluation(plan, call, batches, at_step=step)
            found = self._evaluation(call, batches)
            if self._task.is_measured:
                self._measure(measures, last)  # while the device works on this call
                last = call, [outputs for _, outputs in found]
                found = [sums for sums, _ in found]
            pending += found
            examples += call.num_steps * call.rows
            if watch is not None and watch(number, so_far()):
                break
        self._measure(measures, last)
        metrics = so_far()
        by_labels = self._task.kind == "multi_label"
        f1 = _by_thresholds(metrics, measures) if measures is not None and by_labels else {}
        compiling = sum(made.seconds for made in compilations)
        evaluation = Evaluation(
            step=step,
            epoch=epoch,
            examples=examples,
            seconds=time.perf_counter() - start - compiling,
            loss=metrics.pop("loss"),
            metrics=metrics,
            f1=f1,
            checksum=self.checksum() if with_checksum else None,
        )
        return evaluation, compilations

    def _compile_evaluation(
        self, plan: Plan, call: Call, batches: BatchesByRows, *, at_step: int
    ) -> list[Compilation]:
        if self._evaluation.is_compiled(call, batches):
            return []
        loops = [(self._evaluation, batches, one) for one in plan.programs()]
        return compile_all(loops, at_step=at_step, concurrent=self._compiles_concurrently)

    def _measure(
        self, measures: Quality | None, outputs: tuple[Call, Sequence[tf.Tensor]] | None
    ) -> None:
        if measures is not None and outputs is not None:
            together = self._gathered(*outputs)
            measures.add(together.reshape(-1, together.shape[-1]))

    def checksum(self) -> int:
        self.state.catch_up_all()
        return checksum_of(self.forward.model)

    def inspect(
        self, dispatch: Dispatch, batches: BatchesByRows, due: InspectionSchedule
    ) -> tuple[Inspection | None, list[Compilation]]:
        """Looks at the gradients of the dispatch's last batch, with the weights as they are after
        it: at an epoch's end the same batch however its steps were divided. Changes nothing,
        neither weights nor dropout seeds. None if no inspection is due."""
        histograms, precision = (n and (dispatch.epoch + 1) % n == 0 for n in due)
        if not (histograms or precision):
            return None, []
        step = dispatch.step + dispatch.num_steps
        self.state.catch_up_all()
        last = dispatch.calls[-1]
        call = replace(last, first=last.first + last.num_steps - 1, num_steps=1)
        compilations = self._gradients.compile(batches, call, at_step=step)
        start = time.perf_counter()
        found = self._gradients(call, batches)[0]  # all devices have the same
        gradients = {name: gradient.numpy() for name, gradient in found.items()}
        finite = sum(int(np.isfinite(gradient).sum()) for gradient in gradients.values())
        size = sum(gradient.size for gradient in gradients.values())
        spreads: list[tuple[Distribution, ...]] = [(), ()]
        if histograms:
            slopes = dict(gradients)
            for layer in multi_hot_layers(self.forward.model):
                if (name := layer.kernel.path) in slopes:  # without the rows of other ids
                    slopes[name] = slopes[name][slopes[name].any(axis=1)]
            weights = {name: v.numpy() for name, v in self.state.trained.items()}
            spreads = [
                tuple(distribution(*each) for each in own.items()) for own in (weights, slopes)
            ]
        inspection = Inspection(
            step=step,
            epoch=dispatch.epoch,
            seconds=time.perf_counter() - start,
            gradient_norm=float(
                tf.linalg.global_norm([tf.cast(g, tf.float32) for g in found.values()])
            ),
            non_finite_fraction=(size - finite) / size,
            weights=spreads[0],
            gradients=spreads[1],
        )
        return inspection, compilations

    def predict(
        self, feed: Feed, plan: Plan, *, ranking: Ranking | None = None, watch: Watch | None = None
    ) -> np.ndarray:
        """Returns the outputs for every row of one pass, float32 [rows, outputs], or with a ranking
        what `ranking.best` returns. For calls of one step, it calls `watch` around each batch."""
        program = self._prediction(ranking)
        parts: list[np.ndarray] = []
        missing = plan.stored_rows
        self.state.catch_up_all()
        for dispatch, batches in feed.dispatches(plan):
            for call in dispatch.calls:
                if watch is not None:
                    watch(len(parts), None)
                program.compile(batches, call, at_step=0)
                _, outputs = zip(*program(call, batches), strict=True)
                for own in self._gathered(call, outputs):
                    parts.append(own[:missing])  # what only fills a batch is left out
                    missing -= len(parts[-1])
                if watch is not None and watch(
                    len(parts) - 1, {"outputs": self._task.by_output(parts[-1])}
                ):
                    return np.concatenate(parts)
        return np.concatenate(parts)

    def _gathered(self, call: Call, outputs: Sequence[tf.Tensor]) -> np.ndarray:
        """Returns all workers' outputs, [steps, rows, outputs], from those of each device here."""
        if len(outputs) == self._cluster.num_workers == 1:
            return outputs[0].numpy()
        shares = shares_of(call.rows, len(outputs) * self._cluster.num_workers)
        # Workers exchange arrays of one shape: that of the first share, the largest.
        parts = [np.pad(own, [(0, 0), (0, shares[0] - own.shape[1]), (0, 0)]) for own in outputs]
        every = np.concatenate(self._cluster.gather(np.stack(parts)))
        return np.concatenate([p[:, :rows] for p, rows in zip(every, shares, strict=True)], axis=1)

    def take_from_chief(self) -> None:
        """Gives every worker the chief's state, if they have the same model and optimizer."""
        if not self._cluster.is_alone:
            self.state.take_from_chief(self._cluster)

    def finish(self) -> None:
        """Gives the model the trained weights, or their averages if the optimizer keeps such."""
        self.state.catch_up_all()
        self.state.finalize()

    def _reset_metrics(self) -> None:
        for metric, variables in zip(self._task.stateful, self.state.sums, strict=True):
            for variable, begin in zip(variables, metric.variables, strict=True):
                for copy in copies_of(variable):
                    copy.assign(copies_of(begin.value)[0])

    def _metrics(self, row_sums: np.ndarray, examples: int) -> dict[str, float]:
        """Returns every metric's value, from all devices' `step.row_sums` over so many examples."""
        of_rows = zip(self._task.row_metrics, row_sums[1:], strict=True)
        found = {name: float(total) / examples for name, total in of_rows}
        for place, metric in enumerate(self._task.stateful):
            every = [copies_of(variable) for variable in self.state.sums[place]]
            parts = (np.sum([copy.numpy() for copy in copies], axis=0) for copies in every)
            sums = self._cluster.total(*parts)
            if not self._cluster.is_alone:  # the chief's checkpoint is to have the sums of all
                for copies, total in zip(every, sums, strict=True):
                    for copy in copies:
                        first = self._cluster.is_chief and copy is copies[0]
                        own = total if first else np.zeros_like(total)
                        copy.assign(tf.constant(own, copy.dtype))
            held = zip(metric.variables, sums, strict=True)
            with tf.device("/CPU:0"):  # these are only a few numbers
                values = [(v, tf.constant(own, v.dtype)) for v, own in held]
                with keras.StatelessScope(values):  # where a result may be a variable, too
                    found[metric.name] = float(keras.ops.convert_to_numpy(metric.result()))
        return {name: found[name] for name in self._task.metric_names}


def _by_thresholds(metrics: dict[str, float], measures: Quality) -> dict[str, float]:
    """Returns F1 by the classes' thresholds, and puts such an accuracy in place of that by 0.5."""
    if ACCURACY in metrics:
        metrics[ACCURACY] = measures.accuracy
    return {"f1_micro": measures.f1_micro, "f1_macro": measures.macro(measures.f1)}


def _by_device(
    found: Sequence[Sequence[tf.Tensor]], together: Callable[[Sequence[tf.Tensor]], tf.Tensor]
) -> Sequence[tf.Tensor]:
    """Puts together on each device what several calls found there."""
    if len(found) == 1:
        return found[0]
    by_device = []
    for own in zip(*found, strict=True):
        with tf.device(own[0].device):
            by_device.append(together(own))
    return by_device


def distribution(name: str, values: np.ndarray) -> Distribution:
    """Returns how finite values, in float32 or less, spread over NUM_BINS equal bins."""
    finite = values[np.isfinite(values)].astype(np.float64)  # float32 could overflow in the range
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    if low == high:
        # As wide as NumPy makes it, unless the value is so large that the edges would coincide.
        margin = max(0.5, 1e-6 * abs(low))
        low, high = low - margin, high + margin
    counts, edges = np.histogram(finite, bins=NUM_BINS, range=(low, high))
    return Distribution(
        name=name,
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        num_non_finite=values.size - finite.size,
    )
