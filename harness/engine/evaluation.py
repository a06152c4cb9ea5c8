"""Passes over all rows of a feed that change nothing: evaluations and predictions."""

import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from harness.engine.devices import Devices
from harness.engine.program import Program
from harness.engine.state import State
from harness.engine.step import Caller, evaluation_step, num_row_sums, prediction_step
from harness.pipeline.feed import Feed
from harness.pipeline.plan import Call, Plan
from harness.records import Compilation, Evaluation
from harness.task import SettledTask


class MetricSums:
    """The sums that metrics keep on the devices."""

    def __init__(self, task: SettledTask, states: Sequence[State]) -> None:
        self._task = task
        self._states = states

    def reset(self) -> None:
        """Begins anew."""
        for state in self._states:
            for metric, variables in zip(self._task.stateful, state.sums, strict=True):
                for variable, begin in zip(variables, metric.variables, strict=True):
                    variable.assign(begin.value)

    def values(self, row_sums: np.ndarray, examples: int) -> dict[str, float]:
        """Every metric by name.

        Args:
            row_sums: of the rows at hand, over all devices; see `step.row_sums`.
            examples: real rows among them.
        """
        found = {"accuracy": float(row_sums[1]) / examples} if self._task.with_accuracy else {}
        for place, metric in enumerate(self._task.stateful):
            devices = [[v.numpy() for v in state.sums[place]] for state in self._states]
            sums = [np.sum(parts, axis=0) for parts in zip(*devices, strict=True)]
            found[metric.name] = float(metric.stateless_result([tf.constant(s) for s in sums]))
        return {name: found[name] for name in self._task.metric_names}


class Evaluator:
    """Evaluates a model."""

    def __init__(
        self,
        call: Caller,
        task: SettledTask,
        states: Sequence[State],
        devices: Devices,
        *,
        implementation: str,
    ) -> None:
        """Args:
        call, task: what is evaluated.
        states: of each device.
        devices: where it runs.
        implementation: of the multi-hot product.
        """
        self._metrics = MetricSums(task, states)
        self._program = Program(
            "evaluation",
            evaluation_step(call, task),
            states,
            devices,
            implementation=implementation,
            row_sums=num_row_sums(task),
            changes_state=bool(task.stateful),
        )

    def run(
        self, feed: Feed, plan: Plan, *, step: int, epoch: int
    ) -> tuple[Evaluation, list[Compilation]]:
        """Evaluates once.

        Args:
            feed, plan: one pass over the rows, in calls of one length and capacity.
            step, epoch: how far training has come, for the record.

        Returns:
            The evaluation, whose time excludes compilation, and what was compiled for it: the first
            call compiles.
        """
        compilations = []
        start = time.perf_counter()
        pending = []
        examples = 0
        self._metrics.reset()
        for dispatch, batches in feed.dispatches(plan):
            for call in dispatch.calls:
                compilations += self._program.compile(
                    batches, num_steps=call.num_steps, capacity=call.capacity, at_step=step
                )
                pending += self._program(call, batches)
            examples += dispatch.examples
        sums = np.sum([parts.numpy() for parts in pending], axis=0)
        metrics = self._metrics.values(sums, examples)
        seconds = time.perf_counter() - start - sum(made.seconds for made in compilations)
        evaluation = Evaluation(
            step=step,
            epoch=epoch,
            examples=examples,
            seconds=seconds,
            loss=float(sums[0]) / examples,
            metrics=metrics,
        )
        return evaluation, compilations


class Predictor:
    """Gives a model's outputs."""

    def __init__(
        self, call: Caller, states: Sequence[State], devices: Devices, *, implementation: str
    ) -> None:
        """Args:
        call: what is asked.
        states: of each device.
        devices: where it runs.
        implementation: of the multi-hot product.
        """
        self._program = Program(
            "prediction",
            prediction_step(call),
            states,
            devices,
            implementation=implementation,
            row_sums=None,
            changes_state=False,
        )

    def run(self, feed: Feed, plan: Plan) -> np.ndarray:
        """The outputs of every row in order, float32 [rows, outputs].

        Args:
            feed, plan: one pass over the rows, in calls of one step.
        """
        parts = []
        for dispatch, batches in feed.dispatches(plan):
            for call in dispatch.calls:
                for first in range(call.first, call.first + call.num_steps):
                    one = Call(first=first, num_steps=1, capacity=call.capacity)
                    self._program.compile(batches, num_steps=1, capacity=one.capacity, at_step=0)
                    for outputs, real in self._program(one, batches):
                        parts.append(outputs.numpy()[real.numpy() > 0])
        return np.concatenate(parts)
