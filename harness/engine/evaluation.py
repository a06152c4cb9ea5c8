"""The compiled evaluation: sums of loss and hits over rows, without changing anything.

Letters: S steps of a dispatch, b rows of a replica's share of a batch.
"""

import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from harness.engine.devices import Devices
from harness.engine.losses import row_losses
from harness.engine.step import NUM_SUMS, row_weights, step_sums
from harness.pipeline.batch import AnyBatches, distributed
from harness.pipeline.feed import Feed
from harness.records import Compilation, Evaluation


class Evaluator:
    """Evaluates a model on all rows of a feed."""

    def __init__(self, model: keras.Model, feed: Feed, devices: Devices) -> None:
        """Args:
        model: gives logits, float32 [b, 1] or [b, K]; built under the strategy of `devices`.
        feed: one pass over the rows, with a single capacity; iterated for every evaluation.
        """
        self._model = model
        self._feed = feed
        self._devices = devices
        self._loop = tf.function(self._replica_loop, jit_compile=True, autograph=False)
        self._compiled = False

    def run(self, *, step: int, epoch: int) -> tuple[Evaluation, Compilation | None]:
        """Evaluates once.

        Args:
            step, epoch: how far training has come, for the record.

        Returns:
            The evaluation, whose time excludes compilation, and what was compiled for it, if
            anything was: the first call compiles.
        """
        compilation = None
        start = time.perf_counter()
        pending = []
        examples = 0
        for dispatch, batches in self._feed:
            if not self._compiled:
                begin = time.perf_counter()
                self._sums(batches, 0).numpy()
                seconds = time.perf_counter() - begin
                compilation = Compilation(
                    program="evaluation", capacity=dispatch.capacity, seconds=seconds, step=step
                )
                self._compiled = True
                start += seconds
            pending.append(self._sums(batches, dispatch.num_steps, first=dispatch.first))
            examples += dispatch.examples
        loss, hits = np.sum([sums.numpy() for sums in pending], axis=0)
        evaluation = Evaluation(
            step=step,
            epoch=epoch,
            examples=examples,
            seconds=time.perf_counter() - start,
            loss=float(loss) / examples,
            accuracy=float(hits) / examples,
        )
        return evaluation, compilation

    def _sums(self, batches: Sequence[AnyBatches], num_steps: int, *, first: int = 0) -> tf.Tensor:
        """Sums over `num_steps` steps from `first` on, float64 [NUM_SUMS]; does not wait."""
        steps = tf.constant(first), tf.constant(first + num_steps)
        if len(batches) == 1:
            with tf.device(self._devices.names[0]):
                return self._loop(batches[0], *steps, tf.constant(0))
        together = distributed(batches, self._devices.strategy)
        return self._distributed(together, *steps)

    @tf.function(autograph=False)
    def _distributed(self, batches: AnyBatches, first: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
        def of_replica(batches: AnyBatches, first: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            index = tf.cast(context.replica_id_in_sync_group, tf.int32)
            return self._loop(batches, first, end, index)

        strategy = self._devices.strategy
        sums = strategy.run(of_replica, args=(batches, first, end))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def _replica_loop(
        self, batches: AnyBatches, first: tf.Tensor, end: tf.Tensor, replica: tf.Tensor
    ) -> tf.Tensor:
        def body(step: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            inputs, labels, num_rows = batches.read(step)
            logits = self._model(inputs, training=False)
            weights = row_weights(num_rows, replica=replica, rows=labels.shape[0])
            return step + 1, sums + step_sums(labels, row_losses(labels, logits), logits, weights)

        _, sums = tf.while_loop(
            lambda step, _: step < end,
            body,
            (first, tf.zeros([NUM_SUMS], tf.float64)),
            parallel_iterations=1,
        )
        return sums
