"""A look at the gradients of one batch: whether they are finite, whether 16 bits lose any, and how
they and the weights spread. It changes nothing: not the weights, not the dropout seeds.

Underflow is counted against float32: the same batch, weights and dropout masks once more, in a
network whose layers compute in float32. Of the gradient elements that are not zero there, the share
that is zero in the run's own precision, with its loss scale, is the share that underflowed (the
"values that become zero" of Micikevicius et al., "Mixed Precision Training", 2018, section 3.2,
figure 3, who count activation gradients; these are the weights'). So the rows of a table whose ids
are not in the batch, and units that no row reaches, count neither way. A unit that rounding moves
across zero, where a ReLU cuts it off, is counted: its gradient is lost as well.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from harness.engine.devices import Devices
from harness.engine.distribution import distribution
from harness.engine.normalization import AllReduce
from harness.engine.program import Program, Step
from harness.engine.state import State
from harness.engine.step import Caller, gradients_of
from harness.model.layers import MultiHotDense
from harness.model.network import float32_twin, is_functional
from harness.pipeline.batch import AnyBatches, Share
from harness.pipeline.plan import Call, Dispatch
from harness.records import Compilation, Distribution, Inspection
from harness.task import SettledTask


@dataclass(frozen=True, kw_only=True)
class Looks:
    """At the end of which epochs there is a look: every so many; 0 is never."""

    histograms_every: int = 0
    precision_every: int = 0


NO_LOOKS = Looks()


def look_at_gradients(
    call: Caller, task: SettledTask, *, num_devices: int, reference: keras.Model | None
) -> Step:
    """A step that changes nothing.

    Args:
        call, task: what is trained.
        num_devices: that share a batch.
        reference: computes the same in float32; None where nothing is to be compared.

    Returns:
        What computes the gradients that an update would get, for `State.trainable`, and `_counts`.
    """

    def step(
        state: State, share: Share, all_reduce: AllReduce
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        def gradients(model: keras.Model | None, *, scaled: bool) -> list[tf.Tensor]:
            return all_reduce(
                gradients_of(
                    call,
                    task,
                    state,
                    share,
                    all_reduce,
                    num_devices=num_devices,
                    scaled=scaled,
                    model=model,
                ).gradients
            )

        own = gradients(None, scaled=True)
        exact = [] if reference is None else gradients(reference, scaled=False)
        return own, _counts(own, exact)

    return step


class Inspector:
    """Looks at a network's gradients and weights when it is time to."""

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
        call, task: what is trained.
        states: of each device.
        devices: where it runs.
        implementation: of the multi-hot product.
        """
        self._state = states[0]
        self._programs: dict[bool, Program] = {}
        model = call.model

        def program(compared: bool) -> Program:
            if compared not in self._programs:
                reference = float32_twin(model) if compared else None
                num_devices = len(devices.names)
                self._programs[compared] = Program(
                    "look at gradients",
                    look_at_gradients(call, task, num_devices=num_devices, reference=reference),
                    states,
                    devices,
                    implementation=implementation,
                    row_sums=None,
                    changes_state=False,
                )
            return self._programs[compared]

        self._program = program
        in_16_bits = any(la.compute_dtype in ("float16", "bfloat16") for la in model.layers)
        # Only a functional model says how to make another of the same layers.
        self._comparable = in_16_bits and is_functional(model)
        self._tables = {
            layer.kernel.path for layer in model.layers if isinstance(layer, MultiHotDense)
        }

    def run(
        self, dispatch: Dispatch, batches: Sequence[AnyBatches], looks: Looks
    ) -> tuple[Inspection | None, list[Compilation]]:
        """Looks at the dispatch's last batch, with the weights as they are after it. At the end of
        an epoch that is the same batch however its steps were divided into dispatches.

        Returns:
            What was seen, None where it is not time to look; and what was compiled for it.
        """
        histograms = _is_time(dispatch.epoch, looks.histograms_every)
        precision = _is_time(dispatch.epoch, looks.precision_every)
        if not (histograms or precision):
            return None, []
        step = dispatch.step + dispatch.num_steps
        compared = precision and self._comparable
        program = self._program(compared)
        last = dispatch.calls[-1]
        call = Call(first=last.first + last.num_steps - 1, num_steps=1, capacity=last.capacity)
        compilations = program.compile(batches, num_steps=1, capacity=call.capacity, at_step=step)
        start = time.perf_counter()
        gradients, counts = program(call, batches)[0]  # all devices have the same
        non_finite, lost, comparable = counts.numpy().tolist()
        weights, spreads = self._histograms(gradients) if histograms else ((), ())
        inspection = Inspection(
            step=step,
            epoch=dispatch.epoch,
            seconds=time.perf_counter() - start,
            non_finite_fraction=non_finite / sum(g.shape.num_elements() for g in gradients),
            underflow_fraction=lost / max(comparable, 1) if compared else None,
            weights=weights,
            gradients=spreads,
        )
        return inspection, compilations

    def _histograms(
        self, gradients: Sequence[tf.Tensor]
    ) -> tuple[tuple[Distribution, ...], tuple[Distribution, ...]]:
        return (
            _distributions(self._state.by_name(self._state.trainable)),
            _distributions(
                {
                    path: values[values.any(axis=1)] if path in self._tables else values
                    for path, values in self._state.by_name(gradients).items()
                }
            ),
        )


def _distributions(arrays: Mapping[str, np.ndarray]) -> tuple[Distribution, ...]:
    return tuple(distribution(path, values) for path, values in arrays.items())


def _is_time(epoch: int, every: int) -> bool:
    return every > 0 and (epoch + 1) % every == 0


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
