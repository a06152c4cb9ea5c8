"""The programs, which the training loop drives: one dispatch in, one small vector out."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harness.data.examples import Examples
from harness.feed.batch import BatchesByRows
from harness.feed.feed import Dispatches, Feed
from harness.feed.plan import Call, Dispatch, Plan, shares_of
from harness.program.compile_errors import named_culprit
from harness.program.devices import PATIENCE_SECONDS, Devices
from harness.program.inspection import Inspector
from harness.program.normalization import needs_all_rows
from harness.program.packing import checksum_of
from harness.program.padding import require_masked
from harness.program.program import Program, compile_all
from harness.program.small_gradients import small_layers
from harness.program.state import State
from harness.program.step import Caller, evaluation_step, prediction_step, training_step
from harness.program.tables import TablePlan
from harness.program.watchdog import limited
from harness.run.records import Compilation, Evaluation, StepSums
from harness.task.losses import ACCURACY
from harness.task.measures import Quality
from harness.task.ranking import Ranking
from harness.task.task import SettledTask
from kernels.multi_hot import Implementation

_TIMES_THE_USUAL = 50  # The least times its usual length after which a dispatch counts as stuck

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
        task: SettledTask,
        devices: Devices,
        optimizer: keras.optimizers.Optimizer,
        *,
        implementation: Implementation,
        batch_size: int,
        unique: frozenset[str],
        tables: Mapping[str, TablePlan],
    ) -> None:
        in_part = needs_all_rows(model) and not devices.cluster.is_alone
        # Programs for a GPU use operations that only XLA has.
        for_gpu = devices.device_type == "GPU" and not in_part
        small = small_layers(model, batch_size // devices.num_shares) if for_gpu else ()
        self.states = tuple(
            State(
                model,
                optimizer,
                device=device,
                place=place,
                share=devices.first_share + place,
                metrics=task.stateful,
                tables=tables,
                for_gpu=for_gpu,
                small={layer.kernel.path for layer in small},
            )
            for place, device in enumerate(devices.names)
        )
        # Whether XLA compiles only a part of a training step.
        self.compiles_in_part = in_part
        # Two compilations at once would compete for a GPU's memory and disturb XLA's measurements
        # there; and several devices or workers must begin their all-reduces in the same order.
        is_one = len(devices.names) == 1 and devices.cluster.is_alone
        self._compiles_beside = is_one and devices.device_type == "CPU"
        self.have_trained = False
        self._steps_per_epoch: int | None = None
        self._model = model
        self._task = task
        self._cluster = devices.cluster
        self._step_seconds: float | None = None  # in the last dispatch
        call = Caller(
            model,
            implementation=implementation,
            unique=unique,
            num_workers=devices.cluster.num_workers,
        )
        program = functools.partial(
            Program,
            states=self.states,
            implementation=implementation,
            cluster=devices.cluster,
            all_reduce=devices.all_reduce,
        )
        row_sums = 1 + task.with_accuracy
        self._unused: list[str] = []
        self._training = program(
            "training step", training_step(call, task, unused=self._unused), row_sums=row_sums
        )
        self._evaluation = program(
            "evaluation",
            evaluation_step(call, task),
            row_sums=row_sums,
            row_outputs=task.num_outputs if task.is_measured else None,
        )
        self._prediction = functools.cache(
            lambda ranking: program(
                "prediction",
                prediction_step(call, ranking),
                row_sums=0,
                row_outputs=2 * ranking.k if ranking else task.num_outputs,
            )
        )
        self._call = call
        self.inspect = Inspector(call, task, self.states[0], program).run

    def require_masked(self, examples: Examples) -> None:
        with named_culprit(self._model):
            require_masked(self._call, self.states[0], examples, self._task)

    @property
    def learning_rate(self) -> float:
        """The current learning rate, as the shortest number that rounds to this float32."""
        return float(str(np.float32(self.states[0].optimizer.learning_rate)))

    def take_unused(self) -> tuple[str, ...]:
        """Returns, once, the weights that the loss turned out not to depend on in a trace."""
        unused, self._unused[:] = tuple(self._unused), []
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
        compilations = compile_all(loops, at_step=dispatch.step, beside=self._compiles_beside)
        if compilations:  # preparing them is part of no window's time
            others = time.perf_counter() - start - sum(made.seconds for made in compilations)
            last = compilations[-1]
            compilations[-1] = replace(last, seconds=last.seconds + others)
        return compilations

    @property
    def reads_sums_alone(self) -> bool:
        """Whether nothing else is read after a dispatch: no loss scale, no metric's own sums."""
        return not self._task.stateful and self.states[0].loss_scale is None

    def train(self, parts: Sequence[tuple[Dispatch, BatchesByRows]]) -> list[StepSums]:
        """Runs a dispatch, or with `reads_sums_alone` several, and waits: their one host sync."""
        self.have_trained = True
        start = time.perf_counter()
        num_steps = sum(dispatch.num_steps for dispatch, _ in parts)
        with self._limited(num_steps):
            begun = _by_device([self._begin(*part) for part in parts], tf.stack)
            (sums,) = self._cluster.total(np.sum([own.numpy() for own in begun], axis=0))
        self._step_seconds = (time.perf_counter() - start) / num_steps
        pairs = zip(sums.reshape(len(parts), -1), parts, strict=True)
        return [self._step_sums(own, dispatch.examples) for own, (dispatch, _) in pairs]

    def _limited(self, num_steps: int) -> AbstractContextManager[None]:
        """Returns a context that limits the time of a dispatch on several GPUs, but the first: they
        wait for each other in every sum of gradients, also for one that is lost."""
        # Several workers may wait long for what the chief does between dispatches.
        may_wait = len(self.states) > 1 and self._cluster.is_alone
        if not may_wait or self._step_seconds is None:
            return nullcontext()
        usual = num_steps * self._step_seconds
        seconds = max(PATIENCE_SECONDS, _TIMES_THE_USUAL * usual)
        return limited(
            seconds,
            f"error: {num_steps} steps, which usually take {usual:.1f} s, have not ended in "
            f"{seconds:.0f} s: the GPUs may be waiting for one that is lost, as `nvidia-smi` would "
            "show. The run can be resumed from its last checkpoint",
        )

    def _begin(self, dispatch: Dispatch, batches: BatchesByRows) -> Sequence[tf.Tensor]:
        """Begins a dispatch; returns its row sums on each device."""
        calls = [self._training(call, batches) for call in dispatch.calls]
        for state in self.states:
            state.tables.was_trained()
            # At the end of every epoch, even if nobody reads the tables: so all runs round alike.
            if (dispatch.step + dispatch.num_steps) % (self._steps_per_epoch or 1) == 0:
                state.tables.settle()
        return _by_device(calls, tf.add_n)

    def _step_sums(self, sums: np.ndarray, examples: int) -> StepSums:
        scales = [state.loss_scale for state in self.states if state.loss_scale is not None]
        metrics = self._metrics(sums, examples)
        skipped = int(scales[0].skipped_steps.numpy()) if scales else 0  # on all devices
        for scale in scales if skipped else ():
            scale.skipped_steps.assign(0)
        return StepSums(
            loss=float(sums[0]),
            metrics={n: v for n, v in metrics.items() if n not in self._task.evaluation_only},
            skipped_steps=skipped,
            loss_scale=float(scales[0].scale.numpy()) if scales else None,
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
        """Evaluates one pass; changes only the sums that metrics keep, and what layers change
        outside of training. `measures` get the rows' probabilities, and `watch` is called around
        each batch, of calls of one step. Returns the evaluation, whose time excludes compilation,
        and what was compiled, which is nothing after `prepare`."""
        compilations = []
        start = time.perf_counter()
        pending: list[Any] = []
        fetched: list[tuple[Call, Sequence[tf.Tensor]]] = []
        examples = 0
        self._reset_metrics()
        self._settle()
        if measures is not None:
            measures.reset()

        def measure() -> None:
            if measures is not None and fetched:
                together = self._gathered(*fetched.pop())
                measures.add(together.reshape(-1, together.shape[-1]))

        def so_far() -> dict[str, float]:
            pending[:] = [np.sum([np.asarray(sums) for sums in pending], axis=0)]
            (sums,) = self._cluster.total(pending[0])
            return {"loss": float(sums[0]) / examples, **self._metrics(sums, examples)}

        calls = ((call, b) for dispatch, b in feed.dispatches(plan) for call in dispatch.calls)
        for number, (call, batches) in enumerate(calls):
            if watch is not None:
                watch(number, None)
            if not self._evaluation.is_compiled(call, batches):
                loops = [(self._evaluation, batches, one) for one in plan.programs()]
                compilations += compile_all(loops, at_step=step, beside=self._compiles_beside)
            found = self._evaluation(call, batches)
            if self._task.is_measured:
                measure()  # of the call before, while the device works on this one
                fetched[:] = [(call, [outputs for _, outputs in found])]
                found = [sums for sums, _ in found]
            pending += found
            examples += call.num_steps * call.rows
            if watch is not None and watch(number, so_far()):
                break
        measure()
        metrics = so_far()
        f1 = {}
        if measures is not None and self._task.kind == "multi_label":
            f1 = {"f1_micro": measures.f1_micro, "f1_macro": measures.macro(measures.f1)}
            if ACCURACY in metrics:
                metrics[ACCURACY] = measures.accuracy  # by the classes' thresholds, not by 0.5
        seconds = time.perf_counter() - start - sum(made.seconds for made in compilations)
        evaluation = Evaluation(
            step=step,
            epoch=epoch,
            examples=examples,
            seconds=seconds,
            loss=metrics.pop("loss"),
            metrics=metrics,
            f1=f1,
            checksum=self.checksum() if with_checksum else None,
        )
        return evaluation, compilations

    def checksum(self) -> int:
        self.states[0].write_to_model()
        return checksum_of(self._model)

    def predict(
        self, feed: Feed, plan: Plan, *, ranking: Ranking | None = None, watch: Watch | None = None
    ) -> np.ndarray:
        """Returns the outputs for every row of one pass, float32 [rows, outputs], or with a ranking
        what `ranking.best` returns. For calls of one step, it calls `watch` around each batch."""
        program = self._prediction(ranking)
        parts: list[np.ndarray] = []
        self._settle()
        for dispatch, batches in feed.dispatches(plan):
            for call in dispatch.calls:
                if watch is not None:
                    watch(len(parts), None)
                program.compile(batches, call, at_step=0)
                _, outputs = zip(*program(call, batches), strict=True)
                parts += list(self._gathered(call, outputs))
                if watch is not None and watch(len(parts) - 1, {"outputs": parts[-1]}):
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
            for state in self.states:
                state.take_from_chief(self._cluster)

    def finish(self) -> None:
        """Gives the model the trained weights, or their averages if the optimizer keeps such."""
        self._settle()
        for state in self.states:
            state.finalize()
        self.states[0].write_to_model()

    def read_model(self) -> None:
        for state in self.states:
            state.read_from_model(self.states[0])

    def _settle(self) -> None:
        for state in self.states:
            state.tables.settle()

    def _reset_metrics(self) -> None:
        for state in self.states:
            for metric, variables in zip(self._task.stateful, state.sums, strict=True):
                for variable, begin in zip(variables, metric.variables, strict=True):
                    variable.assign(begin.value)

    def _metrics(self, row_sums: np.ndarray, examples: int) -> dict[str, float]:
        """Returns every metric's value, from all devices' `step.row_sums` over so many examples."""
        found = {"accuracy": float(row_sums[1]) / examples} if self._task.with_accuracy else {}
        for place, metric in enumerate(self._task.stateful):
            devices = [[v.numpy() for v in state.sums[place]] for state in self.states]
            sums = self._cluster.total(
                *(np.sum(parts, axis=0) for parts in zip(*devices, strict=True))
            )
            if not self._cluster.is_alone:  # the chief's checkpoint is to have the sums of all
                for state in self.states:
                    first = self._cluster.is_chief and state is self.states[0]
                    for variable, total in zip(state.sums[place], sums, strict=True):
                        own = total if first else np.zeros_like(total)
                        variable.assign(tf.constant(own, variable.dtype))
            held = zip(metric.variables, sums, strict=True)
            with tf.device("/CPU:0"):  # these are only a few numbers
                values = [(v, tf.constant(own, v.dtype)) for v, own in held]
                with keras.StatelessScope(values):  # where a result may be a variable, too
                    found[metric.name] = float(keras.ops.convert_to_numpy(metric.result()))
        return {name: found[name] for name in self._task.metric_names}


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
