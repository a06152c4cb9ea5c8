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
from harness.engine.step import NUM_SUMS, distributed, row_weights, rows_of_step, step_sums
from harness.pipeline.batch import Batches
from harness.pipeline.stream import Stream
from harness.records import Compilation, Evaluation


class Evaluator:
    """Evaluates a model on all rows of a stream."""

    def __init__(self, model: keras.Model, stream: Stream, devices: Devices) -> None:
        """Args:
        model: gives logits, float32 [b, 1] or [b, K]; built under the strategy of `devices`.
        stream: one pass over the rows, with a single capacity.
        """
        self._model = model
        self._stream = stream
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
        for dispatch, batches in self._stream:
            if not self._compiled:
                begin = time.perf_counter()
                self._sums(batches, 0).numpy()
                seconds = time.perf_counter() - begin
                compilation = Compilation(
                    program="evaluation", capacity=dispatch.capacity, seconds=seconds, step=step
                )
                self._compiled = True
                start += seconds
            pending.append(self._sums(batches, dispatch.num_steps))
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

    def _sums(self, batches: Sequence[Batches], num_steps: int) -> tf.Tensor:
        """Sums over the first `num_steps` steps, float64 [NUM_SUMS]; does not wait."""
        count = tf.constant(num_steps)
        strategy = self._devices.strategy
        if len(batches) == 1:
            with tf.device(self._devices.names[0]):
                return self._loop(batches[0], count, tf.constant(0))
        return self._distributed(distributed(batches, strategy), count)

    @tf.function(autograph=False)
    def _distributed(self, batches: Batches, num_steps: tf.Tensor) -> tf.Tensor:
        def of_replica(batches: Batches, num_steps: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            index = tf.cast(context.replica_id_in_sync_group, tf.int32)
            return self._loop(batches, num_steps, index)

        strategy = self._devices.strategy
        sums = strategy.run(of_replica, args=(batches, num_steps))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, sums, axis=None)

    def _replica_loop(
        self, batches: Batches, num_steps: tf.Tensor, replica: tf.Tensor
    ) -> tf.Tensor:
        def body(step: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            inputs, labels = rows_of_step(batches, step)
            logits = self._model(inputs, training=False)
            num_rows = tf.gather(batches.num_rows, step)
            weights = row_weights(num_rows, replica=replica, rows=labels.shape[0])
            return step + 1, sums + step_sums(labels, row_losses(labels, logits), logits, weights)

        _, sums = tf.while_loop(
            lambda step, _: step < num_steps,
            body,
            (tf.constant(0), tf.zeros([NUM_SUMS], tf.float64)),
            parallel_iterations=1,
        )
        return sums
