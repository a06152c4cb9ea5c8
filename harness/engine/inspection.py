"""A look at the gradients of one batch: whether they are finite, whether 16 bits lose any, and how
they and the weights spread. It changes nothing: not the weights, not the dropout seeds.

Underflow is counted against float32: the same batch, weights and dropout masks once more, in a
network whose layers compute in float32. Of the gradient elements that are not zero there, the share
that is zero in the run's own precision, with its loss scale, is the share that underflowed (the
"values that become zero" of Micikevicius et al., "Mixed Precision Training", 2018, section 3.2,
figure 3, who count activation gradients; these are the weights'). So the rows of a table whose ids
are not in the batch, and units that no row reaches, count neither way. A unit that rounding moves
across zero, where a ReLU cuts it off, is counted: its gradient is lost as well.

Letters: R replicas.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from harness.engine.devices import Devices
from harness.engine.distribution import distribution
from harness.engine.replica import Replica
from harness.engine.step import gradients_and_sums
from harness.model.layers import MultiHotDense
from harness.model.network import float32_twin
from harness.pipeline.batch import AnyBatches, distributed
from harness.pipeline.plan import Dispatch
from harness.records import Compilation, Distribution, Inspection


@dataclass(frozen=True, kw_only=True)
class Looks:
    """At the end of which epochs there is a look: every so many; 0 is never."""

    histograms_every: int = 0
    precision_every: int = 0


NO_LOOKS = Looks()


class Inspector:
    """Looks at a network's gradients and weights when it is time to."""

    def __init__(
        self, model: keras.Model, replicas: tuple[Replica, ...], devices: Devices, looks: Looks
    ) -> None:
        """Args:
        model: gives logits, float32 [b, 1] or [b, K]; built under the strategy of `devices`.
        replicas: one for each device.
        looks: when it is time to.
        """
        self._model = model
        self._replicas = replicas
        self._devices = devices
        self._looks = looks
        self._reference: keras.Model | None = None
        if looks.precision_every and any(
            layer.compute_dtype in ("float16", "bfloat16") for layer in model.layers
        ):
            self._reference = float32_twin(model)
        self._compiled: set[tuple[int, bool]] = set()
        self._gradients = tf.function(self._replica_gradients, jit_compile=True, autograph=False)
        self._together = tf.function(self._summed_over_replicas, autograph=False)
        self._tables = {
            layer.kernel.path for layer in model.layers if isinstance(layer, MultiHotDense)
        }

    def run(
        self, dispatch: Dispatch, batches: Sequence[AnyBatches]
    ) -> tuple[Inspection | None, Compilation | None]:
        """Looks at the dispatch's last batch, with the weights as they are after it. At the end of
        an epoch that is the same batch however its steps were divided into dispatches.

        Returns:
            What was seen, None where it is not time to look; and what was compiled for it.
        """
        histograms = _is_time(dispatch.epoch, self._looks.histograms_every)
        precision = _is_time(dispatch.epoch, self._looks.precision_every)
        if not (histograms or precision):
            return None, None
        step = dispatch.step + dispatch.num_steps
        last = dispatch.first + dispatch.num_steps - 1
        compare = precision and self._reference is not None
        compilation = None
        start = time.perf_counter()
        if (dispatch.capacity, compare) not in self._compiled:
            self._look(batches, last, compare=compare)[1].numpy()
            self._compiled.add((dispatch.capacity, compare))
            compilation = Compilation(
                program="look at gradients",
                capacity=dispatch.capacity,
                seconds=time.perf_counter() - start,
                step=step,
            )
            start = time.perf_counter()
        gradients, counts = self._look(batches, last, compare=compare)
        non_finite, lost, comparable = counts.numpy().tolist()
        weights, spreads = self._histograms(gradients) if histograms else ((), ())
        inspection = Inspection(
            step=step,
            epoch=dispatch.epoch,
            seconds=time.perf_counter() - start,
            non_finite_fraction=non_finite / sum(g.shape.num_elements() for g in gradients),
            underflow_fraction=lost / max(comparable, 1) if compare else None,
            weights=weights,
            gradients=spreads,
        )
        return inspection, compilation

    def _look(
        self, batches: Sequence[AnyBatches], step: int, *, compare: bool
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """The gradients that an update would get, and `_counts` of them."""
        index = tf.constant(step)  # a Python number would be a new program for each value
        first = self._replicas[0]
        with tf.device(first.device):
            scale = None if first.loss_scale is None else tf.identity(first.loss_scale.scale)
            if len(self._replicas) == 1:
                own, reference = self._gradients(batches[0], index, 0, scale, compare)
            else:
                together = distributed(batches, self._devices.strategy)
                own, reference = self._together(together, index, scale, compare)
            return own, _counts(own, reference)

    def _summed_over_replicas(
        self, batches: AnyBatches, step: tf.Tensor, scale: tf.Tensor | None, compare: bool
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        def of_replica(batches: AnyBatches) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            context = tf.distribute.get_replica_context()
            index = tf.cast(context.replica_id_in_sync_group, tf.int32)
            shares = self._gradients(batches, step, index, scale, compare)
            return context.all_reduce(tf.distribute.ReduceOp.SUM, shares)

        strategy = self._devices.strategy
        summed = strategy.run(of_replica, args=(batches,))
        # All replicas have the same.
        return tf.nest.map_structure(lambda g: strategy.experimental_local_results(g)[0], summed)

    def _replica_gradients(
        self,
        batches: AnyBatches,
        step: tf.Tensor,
        replica: tf.Tensor | int,
        scale: tf.Tensor | None,
        compare: bool,
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """A replica's share of the gradients in the run's precision, and in float32 to `compare`
        with; without, an empty list."""
        own = self._gradients_of(self._model, batches, step, replica, scale)
        if not compare:
            return own, []
        return own, self._gradients_of(self._reference, batches, step, replica, None)

    def _gradients_of(
        self,
        model: keras.Model,
        batches: AnyBatches,
        step: tf.Tensor,
        replica: tf.Tensor | int,
        scale: tf.Tensor | None,
    ) -> list[tf.Tensor]:
        # Called without state: the dropout seeds' next values are returned, and dropped here.
        weights = [tf.convert_to_tensor(v.value) for v in self._model.trainable_variables]
        seeds = [tf.convert_to_tensor(v.value) for v in self._model.non_trainable_variables]
        gradients, _ = gradients_and_sums(
            lambda inputs: model.stateless_call(weights, seeds, inputs, training=True)[0],
            weights,
            batches,
            step,
            replica=replica,
            scale=scale,
        )
        return gradients

    def _histograms(
        self, gradients: Sequence[tf.Tensor]
    ) -> tuple[tuple[Distribution, ...], tuple[Distribution, ...]]:
        weights, spreads = [], []
        for variable, own, gradient in zip(
            self._model.trainable_variables, self._replicas[0].variables, gradients, strict=True
        ):
            weights.append(distribution(variable.path, own.numpy()))
            values = gradient.numpy()
            if variable.path in self._tables:
                values = values[values.any(axis=1)]
            spreads.append(distribution(variable.path, values))
        return tuple(weights), tuple(spreads)


def _is_time(epoch: int, every: int) -> bool:
    return every > 0 and (epoch + 1) % every == 0


@tf.function(jit_compile=True, autograph=False)
def _counts(own: Sequence[tf.Tensor], reference: Sequence[tf.Tensor]) -> tf.Tensor:
    """int64 [3]: elements of `own` that are not finite; those that are zero but not in `reference`;
    those that are not zero in `reference`. The latter two are 0 where that is empty."""

    def count(parts: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.add_n([tf.math.count_nonzero(part, dtype=tf.int64) for part in parts])

    non_finite = count([~tf.math.is_finite(gradient) for gradient in own])
    if not reference:
        return tf.stack([non_finite, 0, 0])
    lost = count([(g == 0) & (r != 0) for g, r in zip(own, reference, strict=True)])
    return tf.stack([non_finite, lost, count([r != 0 for r in reference])])
