"""The engine: what the loop drives. One dispatch in, one small vector out."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from harness.background import Background
from harness.config import OptimizerConfig
from harness.engine.checkpoints import Checkpoints
from harness.engine.devices import Devices
from harness.engine.evaluation import Evaluator
from harness.engine.inspection import NO_LOOKS, Inspector, Looks
from harness.engine.replica import build_replicas
from harness.engine.step import TrainingStep
from harness.model.network import Network
from harness.pipeline.batch import AnyBatches
from harness.pipeline.feed import Feed
from harness.pipeline.plan import Dispatch
from harness.records import Compilation, Evaluation, Inspection, StepSums


class Engine:
    """Trains and evaluates one network on the given devices."""

    def __init__(
        self,
        network: Network,
        devices: Devices,
        optimizer: OptimizerConfig,
        *,
        scaled: bool,
        test_feed: Feed,
        checkpoint_dir: Path,
        background: Background,
        looks: Looks = NO_LOOKS,
    ) -> None:
        """Args:
        network: built under the strategy of `devices`.
        scaled: whether the loss is scaled (float16).
        test_feed: the held-out rows, one pass.
        checkpoint_dir: where checkpoints are saved to and resumed from.
        background: where they are written; who saves waits for it at the end.
        looks: when gradients are looked at.
        """
        replicas = build_replicas(network.logits, devices, optimizer, scaled=scaled)
        self._scaled = scaled
        self._variables = replicas[0].variables
        self._step = TrainingStep(network.logits, replicas, devices)
        self._evaluator = Evaluator(network.logits, test_feed, devices)
        self._inspector = Inspector(network.logits, replicas, devices, looks)
        self._checkpoints = Checkpoints(checkpoint_dir, replicas, background)
        self._capacities: set[int] = set()
        # As the shortest number that is this float32: 0.001, not 0.0010000000474974513.
        self.learning_rate = float(str(np.float32(replicas[0].optimizer.learning_rate)))
        """The optimizer's: the one that was asked for, or its own default."""

    def prepare(self, dispatch: Dispatch, batches: Sequence[AnyBatches]) -> Compilation | None:
        """Compiles the training step for this dispatch's shapes, if it was not yet."""
        if dispatch.capacity in self._capacities:
            return None
        start = time.perf_counter()
        self._step.compile_for(batches, first=dispatch.first)
        self._capacities.add(dispatch.capacity)
        return Compilation(
            program="training step",
            capacity=dispatch.capacity,
            seconds=time.perf_counter() - start,
            step=dispatch.step,
        )

    def train(self, dispatch: Dispatch, batches: Sequence[AnyBatches]) -> tf.Tensor:
        """Starts a dispatch; `fetch` waits for what it returns."""
        sums = self._step(batches, dispatch.num_steps, first=dispatch.first)
        assert self._step.num_traces == len(self._capacities), "a dispatch was compiled unseen"
        return sums

    def fetch(self, sums: tf.Tensor) -> StepSums:
        """Waits for a dispatch to end: the one host sync of a window."""
        loss, hits, skipped, scale = sums.numpy().tolist()
        return StepSums(
            loss=loss,
            hits=hits,
            skipped_steps=int(skipped),
            loss_scale=scale if self._scaled else None,
        )

    def evaluate(self, *, step: int, epoch: int) -> tuple[Evaluation, Compilation | None]:
        """Evaluates on the held-out rows; also what had to be compiled for it."""
        return self._evaluator.run(step=step, epoch=epoch)

    def inspect(
        self, dispatch: Dispatch, batches: Sequence[AnyBatches]
    ) -> tuple[Inspection | None, Compilation | None]:
        """Looks at the gradients of the dispatch's last batch, if its epoch is one to look at;
        also what had to be compiled for it."""
        return self._inspector.run(dispatch, batches)

    def save(self, step: int) -> bool:
        """Saves a checkpoint of the state after `step` optimizer steps, unless a weight is not
        finite; returns whether it does. `background` writes it, after what it has to do before."""
        variables = self._variables
        if not tf.reduce_all([tf.reduce_all(tf.math.is_finite(v)) for v in variables]):
            return False
        self._checkpoints.save(step)
        return True

    def restore(self) -> int:
        """Restores the last checkpoint and returns its number of steps."""
        return self._checkpoints.restore()
