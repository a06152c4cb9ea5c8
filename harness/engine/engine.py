"""The engine: what the loop drives. One dispatch in, one small vector out."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from harness.background import Background
from harness.engine.checkpoints import Checkpoints
from harness.engine.devices import Devices
from harness.engine.evaluation import Evaluator, MetricSums, Predictor
from harness.engine.inspection import Inspector
from harness.engine.program import Program
from harness.engine.state import State
from harness.engine.step import Caller, TrainingStep, num_row_sums
from harness.pipeline.batch import AnyBatches
from harness.pipeline.plan import Dispatch, Plan
from harness.records import Compilation, StepSums
from harness.task import SettledTask
from kernels.multi_hot import Implementation

Started = tuple[list[tf.Tensor], int]
"""The row sums of each device that a dispatch will come to, and its real rows."""


class Engine:
    """Trains and evaluates one model on the given devices."""

    def __init__(
        self,
        model: keras.Model,
        task: SettledTask,
        devices: Devices,
        optimizer: keras.optimizers.Optimizer,
        *,
        implementation: Implementation,
        unique: frozenset[str] = frozenset(),
    ) -> None:
        """Args:
        model: gives logits or probabilities, [b, `task.num_outputs`].
        task: what is asked of it.
        devices: where it is trained.
        optimizer: updates its weights.
        implementation: of the multi-hot products whose layers name none.
        unique: names of the ragged inputs that hold no id twice in a row.
        """
        # Of a model's own policy: float16 gradients underflow unless the loss is scaled.
        scaled = any(layer.compute_dtype == "float16" for layer in model.layers)
        with tf.device(devices.names[0]):
            self.states = build_states(
                model, devices, optimizer, scaled=scaled, metrics=task.stateful
            )
        call = Caller(model, implementation=implementation, unique=unique)
        self._step = TrainingStep(call, task, num_devices=len(devices.names))
        self._training = Program(
            "training step",
            self._step,
            self.states,
            devices,
            implementation=implementation,
            row_sums=num_row_sums(task),
            changes_state=True,
        )
        self._metrics = MetricSums(task, self.states)
        self._skipped_before = 0
        self.evaluator = Evaluator(call, task, self.states, devices, implementation=implementation)
        self.predictor = Predictor(call, self.states, devices, implementation=implementation)
        self.inspector = Inspector(call, task, self.states, devices, implementation=implementation)

    @property
    def learning_rate(self) -> float:
        """The optimizer's, now; as the shortest number that is this float32: 0.001, not
        0.0010000000474974513."""
        return float(str(np.float32(self.states[0].optimizer.learning_rate)))

    def take_unused(self) -> tuple[str, ...]:
        """Names of weights that the loss does not depend on, once; known when a step is traced."""
        unused, self._step.unused = self._step.unused, ()
        return unused

    def prepare(
        self, plan: Plan, dispatch: Dispatch, batches: Sequence[AnyBatches], *, start_step: int
    ) -> list[Compilation]:
        """Compiles every training program of a plan from a step on, if that was not yet done."""
        return [
            made
            for num_steps, capacity in plan.programs(start_step=start_step)
            for made in self._training.compile(
                batches, num_steps=num_steps, capacity=capacity, at_step=dispatch.step
            )
        ]

    def begin_epoch(self) -> None:
        """Metrics that keep sums of their own begin anew."""
        self._metrics.reset()

    def train(self, dispatch: Dispatch, batches: Sequence[AnyBatches]) -> Started:
        """Starts a dispatch; returns what `fetch` waits for."""
        calls = [self._training(call, batches) for call in dispatch.calls]
        sums = []
        for own in zip(*calls, strict=True):
            with tf.device(own[0].device):
                sums.append(tf.add_n(own))
        return sums, dispatch.examples

    def fetch(self, started: Started) -> StepSums:
        """Waits for a dispatch to end: the one host sync of a window."""
        devices, examples = started
        sums = np.sum([sums.numpy() for sums in devices], axis=0)
        scale = self.states[0].loss_scale  # all devices have the same
        skipped = 0 if scale is None else int(scale.skipped_steps.numpy())
        skipped, self._skipped_before = skipped - self._skipped_before, skipped
        return StepSums(
            loss=float(sums[0]),
            metrics=self._metrics.values(sums, examples),
            skipped_steps=skipped,
            loss_scale=None if scale is None else float(scale.scale.numpy()),
        )

    def finish(self) -> None:
        """Gives the model the trained weights; an optimizer that averages them, the averages."""
        for state in self.states:
            state.finalize()
        self.states[0].write_to_model()

    def read_model(self) -> None:
        """Takes up the values that someone gave the model."""
        for state in self.states:
            state.read_from_model(self.states[0])

    def checkpoints(self, folder: Path, background: Background) -> Checkpoints:
        """Those of its state in a folder, written by `background`."""
        return Checkpoints(folder, self.states, background)

    def restored(self) -> None:
        """To be called when the states were restored from a checkpoint."""
        if (scale := self.states[0].loss_scale) is not None:
            self._skipped_before = int(scale.skipped_steps.numpy())


def build_states(
    model: keras.Model,
    devices: Devices,
    optimizer: keras.optimizers.Optimizer,
    *,
    scaled: bool,
    metrics: Sequence[keras.metrics.Metric] = (),
) -> tuple[State, ...]:
    """The state of each device, all alike."""
    return tuple(
        State(model, optimizer, device=device, place=place, scaled=scaled, metrics=metrics)
        for place, device in enumerate(devices.names)
    )
