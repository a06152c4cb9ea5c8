"""A look at the gradients of one batch: whether they are finite, whether 16 bits lose any, and how
they and the weights spread. It changes nothing, neither the weights nor the dropout seeds.

Underflow is counted against float32: the same batch, weights and dropout masks go through a network
whose layers compute in float32. Of the gradient elements that are not zero there, the share that is
zero in the run's own precision, with its loss scale, underflowed (as in Micikevicius et al., "Mixed
Precision Training", 2018, section 3.2, figure 3, for activation gradients). A unit that rounding
moves across zero, where a ReLU cuts it off, counts: its gradient is lost as well.
"""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from harness.feed.batch import BatchesByRows, Share
from harness.feed.plan import Dispatch
from harness.model.network import computes_in_16_bits, float32_twin, is_functional, multi_hot_layers
from harness.program.cut_step import Begun, CutStep, Step
from harness.program.exchange import Gradients, packed
from harness.program.loss_scale import without
from harness.program.normalization import SumOverDevices, needs_all_rows
from harness.program.program import Program
from harness.program.state import State
from harness.program.step import Caller, forward_backward
from harness.run.records import Compilation, Distribution, Inspection
from harness.task.task import SettledTask

NUM_BINS = 30  # The number of bins of a histogram, the same as TensorBoard's


class Looks(NamedTuple):
    """How often to look, in epochs: n looks at the end of every n-th epoch, 0 never."""

    histograms_every: int = 0
    precision_every: int = 0


def look_at_gradients(call: Caller, task: SettledTask, *, reference: keras.Model | None) -> CutStep:
    """Returns a step that returns the gradients that an update of `State.weights` would get, of
    tables by rows only touched rows, and `_counts` of these and those of a float32 `reference`."""

    def begin(state: State, share: Share, all_reduce: SumOverDevices) -> Begun:
        scale = state.loss_scale.scale if state.loss_scale is not None else None
        found = [forward_backward(call, task, state, share, all_reduce, scale=scale)[0]]
        if reference is not None:
            other = replace(call, model=reference)
            found.append(forward_backward(other, task, state, share, all_reduce)[0])
        sent, gathered, unpacks = zip(*(packed(own, share) for own in found), strict=True)

        def finish(summed: Sequence[tf.Tensor], _: Any) -> tuple[list[tf.Tensor], tf.Tensor]:
            size = len(sent[0])
            own, *others = (
                _with_tables(unpack(summed[size * place : size * (place + 1)]), state)
                for place, unpack in enumerate(unpacks)
            )
            if scale is not None:
                own = [without(gradient, scale) for gradient in own]
            return own, _counts(own, others[0] if others else [])

        return Begun([*itertools.chain(*sent)], [*itertools.chain(*gathered)], (), finish)

    return CutStep(begin, needs_all_rows(call.model))


def _with_tables(gradients: Gradients, state: State) -> list[tf.Tensor]:
    by_name = {row.table.name: row.rows() for row in gradients.rows}
    unused = tf.zeros([1, 1])  # a table that the loss does not depend on
    return [*gradients.weights, *(by_name.get(table.name, unused) for table in state.tables.all)]


@dataclass(eq=False)
class Inspector:
    call: Caller
    task: SettledTask
    state: State
    program: Callable[[str, Step], Program]

    def __post_init__(self) -> None:
        # Only a functional model tells how to make another with the same layers.
        model = self.call.model
        self._is_comparable = computes_in_16_bits(model) and is_functional(model)

    @functools.cached_property
    def _program(self) -> Program:
        reference = float32_twin(self.call.model) if self._is_comparable else None
        step = look_at_gradients(self.call, self.task, reference=reference)
        return self.program("look at gradients", step)

    def run(
        self, dispatch: Dispatch, batches: BatchesByRows, looks: Looks
    ) -> tuple[Inspection | None, list[Compilation]]:
        """Looks at the dispatch's last batch, with the weights as they are after it: at an epoch's
        end the same batch however its steps were divided. None if no inspection is due."""
        histograms, precision = (n and (dispatch.epoch + 1) % n == 0 for n in looks)
        if not (histograms or precision):
            return None, []
        step = dispatch.step + dispatch.num_steps
        self.state.tables.settle()
        program = self._program
        last = dispatch.calls[-1]
        call = replace(last, first=last.first + last.num_steps - 1, num_steps=1)
        compilations = program.compile(batches, call, at_step=step)
        start = time.perf_counter()
        gradients, counts = program(call, batches)[0]  # all devices have the same
        non_finite, lost, comparable = counts.numpy().tolist()
        spreads: list[tuple[Distribution, ...]] = [(), ()]
        if histograms:
            weights, slopes = map(self.state.by_name, (self.state.weights, gradients))
            for layer in multi_hot_layers(self.call.model):
                if (name := layer.kernel.path) in slopes:  # without the rows of other ids
                    slopes[name] = slopes[name][slopes[name].any(axis=1)]
            spreads = [tuple(distribution(*e) for e in own.items()) for own in (weights, slopes)]
        inspection = Inspection(
            step=step,
            epoch=dispatch.epoch,
            seconds=time.perf_counter() - start,
            gradient_norm=float(tf.linalg.global_norm(gradients)),
            non_finite_fraction=non_finite / sum(g.shape.num_elements() for g in gradients),
            underflow_fraction=(
                lost / max(comparable, 1) if precision and self._is_comparable else None
            ),
            weights=spreads[0],
            gradients=spreads[1],
        )
        return inspection, compilations


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


def _counts(own: Sequence[tf.Tensor], reference: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns int64 [3]: the elements of `own` that are not finite, those that are zero in `own`
    but not in `reference`, and those that are not zero in `reference`."""

    def count(parts: Sequence[tf.Tensor]) -> tf.Tensor:
        return tf.add_n([tf.math.count_nonzero(part, dtype=tf.int64) for part in parts])

    non_finite = count([~tf.math.is_finite(gradient) for gradient in own])
    if not reference:
        return tf.stack([non_finite, 0, 0])
    lost = count([(g == 0) & (r != 0) for g, r in zip(own, reference, strict=True)])
    return tf.stack([non_finite, lost, count([r != 0 for r in reference])])
