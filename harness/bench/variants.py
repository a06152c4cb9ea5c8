"""The training step with a part left out, to see what that part costs; and the device's roofs.

Letters: b rows of a replica's share of a batch, H units of the first layer.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from harness.bench.protocol import Variant
from harness.commands.session import Session
from harness.config import OptimizerConfig
from harness.engine.replica import Replica, build_replicas
from harness.engine.step import TrainingStep
from harness.records import Compilation, StepSums

_TRIAD_ELEMENTS = 2**24
"""64 MiB an array in float32: beyond the caches."""
_MATMUL_SIZE = 2048
_ROOF_SECONDS = 0.5


class PartialEngine:
    """Drives a step that is not whole. For the loop it is an engine, without evaluation."""

    def __init__(self, session: Session, optimizer: OptimizerConfig, variant: Variant) -> None:
        """Args:
        session: what is trained; its own engine is not touched.
        optimizer: as the session's.
        variant: what is left out.
        """
        self._variant = variant
        model = session.network.logits
        if variant == "no first layer":
            with session.devices.strategy.scope():
                model = _WithoutFirstLayer(model)
        replicas = build_replicas(model, session.devices, optimizer, scaled=False)
        if variant == "no optimizer":
            replicas = tuple(_Unchanging(**_fields(replica)) for replica in replicas)
        kind = _NotReduced if variant == "no all-reduce" else TrainingStep
        self._step = kind(model, replicas, session.devices)
        self._capacities: set[int] = set()

    def prepare(self, dispatch: Any, batches: Sequence[Any]) -> Compilation | None:
        """Compiles for this dispatch's shapes, if need be."""
        if dispatch.capacity in self._capacities or self._variant == "input only":
            return None
        start = time.perf_counter()
        self._step.compile_for(batches, first=dispatch.first)
        self._capacities.add(dispatch.capacity)
        return Compilation(
            program=self._variant,
            capacity=dispatch.capacity,
            seconds=time.perf_counter() - start,
            step=dispatch.step,
        )

    def train(self, dispatch: Any, batches: Sequence[Any]) -> Any:
        """Starts a dispatch, or only looks at it."""
        if self._variant == "input only":
            return None
        num_steps = 0 if self._variant == "empty dispatch" else dispatch.num_steps
        return self._step(batches, num_steps, first=dispatch.first)

    def fetch(self, sums: Any) -> StepSums:
        """Waits for it; the sums mean nothing."""
        if sums is not None:
            sums.numpy()
        return StepSums(loss=0.0, hits=0.0, skipped_steps=0, loss_scale=None)

    def evaluate(self, *, step: int, epoch: int) -> Any:
        """Never asked for."""
        raise AssertionError("a partial step is not evaluated")

    def inspect(self, dispatch: Any, batches: Any) -> Any:
        """Never asked for."""
        raise AssertionError("a partial step is not inspected")

    def save(self, step: int) -> bool:
        """Never asked for."""
        raise AssertionError("a partial step is not saved")


class _WithoutFirstLayer(keras.Model):
    """The network behind its multi-hot layer, fed with something that costs nothing."""

    def __init__(self, network: keras.Model) -> None:
        super().__init__(name="without_first_layer")
        first = network.get_layer("multi_hot_dense")
        self._units = first.units
        self._rest = keras.Model(first.output, network.output)

    def call(self, inputs: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        # From the input on purpose: XLA would compute what follows a constant at compile time.
        lengths = tf.cast(inputs["row_splits"][1:] - inputs["row_splits"][:-1], tf.float32)
        hidden = 1e-3 * lengths[:, None] * tf.ones([1, self._units])
        return self._rest(tf.cast(hidden, self._rest.inputs[0].dtype), training=training)


class _Unchanging(Replica):
    """Reads the gradients, so that they are computed, and updates nothing."""

    def update(self, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
        total = tf.add_n([tf.reduce_sum(gradient) for gradient in gradients])
        return tf.cast(total > 1e30, tf.int32)


class _NotReduced(TrainingStep):
    """Every replica updates its weights by its own gradients, so they drift apart."""

    def _all_reduce(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        return gradients


def _fields(replica: Replica) -> dict[str, Any]:
    return {field.name: getattr(replica, field.name) for field in dataclasses.fields(replica)}


def repeated(first: tuple[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """One dispatch for ever: nothing has to be prepared."""
    while True:
        yield first


def roofs(device: str, dtype: str) -> dict[str, float]:
    """What the device can do at most, measured.

    The triad `a = b + 3 c` is STREAM's (McCalpin, 1995): two arrays read and one written.

    Returns:
        `bytes_per_second` and, of a product of square matrices in `dtype`, `flops_per_second`.
    """
    with tf.device(device):
        b = tf.random.uniform([_TRIAD_ELEMENTS])
        c = tf.random.uniform([_TRIAD_ELEMENTS])
        left = tf.cast(tf.random.uniform([_MATMUL_SIZE] * 2), dtype)
        triad = tf.function(lambda: b + 3.0 * c, jit_compile=True)
        product = tf.function(lambda: left @ left, jit_compile=True)
        return {
            "bytes_per_second": 3 * 4 * _TRIAD_ELEMENTS / _best_seconds(triad),
            "flops_per_second": 2 * _MATMUL_SIZE**3 / _best_seconds(product),
        }


def _best_seconds(run: Callable[[], tf.Tensor]) -> float:
    """The best of many calls: a roof is what can be had, not what one usually gets."""
    run()[0].numpy()  # compiles
    best, end = float("inf"), time.perf_counter() + _ROOF_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()[0].numpy()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return best
