"""Loops of a training step between processes, and over several CPU devices.

XLA has no sums there: none for CPUs, and on GPUs TensorFlow gives XLA no way to tell other
processes NCCL's id. So `compute` and `update` are compiled apart, and TensorFlow's collectives run
between them, in a loop that is a graph.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from harness.base.errors import InputError
from harness.feed.batch import AnyBatches, reader_of
from harness.feed.plan import Call
from harness.program.all_reduce import AllReduce
from harness.program.exchange import Packed, pack, unpack
from harness.program.state import State
from harness.program.step import Carry, TrainStep
from harness.program.strategy import Total


@dataclass(eq=False)
class WorkerLoops:
    """The loops of a `TrainStep`, one for each kind of call; `Program` describes the fields. All
    devices of this worker share a loop: TensorFlow also tells sums apart by the loop that they are
    in, so devices with a loop each would wait for one another forever."""

    step: TrainStep
    state: State
    sums: AllReduce
    implementation: str
    row_sums: int | None

    def __post_init__(self) -> None:
        # A device's sums are ordered by its token.
        self._tokens = []
        for device in self.state.devices.names:
            with tf.device(device):
                self._tokens.append(tf.Variable(0.0, trainable=False))

    def traced(self, call: Call, batches: Sequence[AnyBatches]) -> tuple[Any, tuple[str, ...]]:
        """Returns a function that runs a call's steps on all devices of this worker, from the
        batches of each device and the first step (int64), to the row sums of each device; and the
        names of the weights that the loss does not depend on."""
        phases: list[Any] = []
        unused: tuple[str, ...] = ()
        for place, own in enumerate(batches):
            with tf.device(self.state.devices.names[place]):
                compute, unused = self._computing(place, call, own)
                phases.append((compute, self._updating(place, call)))
        loop = functools.partial(self._loop, call, phases)
        return tf.function(loop, autograph=False), unused

    def _loop(
        self, call: Call, phases: Sequence[Any], batches: Sequence[AnyBatches], first: tf.Tensor
    ) -> list[Any]:
        if self.row_sums is None:
            assert call.num_steps == 1, call.num_steps
            return self._once(call, phases, batches, first)
        sums = []
        for device, own in zip(self.state.devices.names, batches, strict=True):
            with tf.device(device):
                sums.append(tf.zeros([self.row_sums, own.num_rows]))

        def body(done: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            found = self._once(call, phases, batches, first + tf.cast(done, tf.int64))
            return done + 1, [a + b for a, b in zip(sums, found, strict=True)]

        _, sums = repeated(call.num_steps, body, sums)
        return [tf.reduce_sum(tf.cast(own, tf.float64), axis=1) for own in sums]

    def _once(
        self, call: Call, phases: Sequence[Any], batches: Sequence[AnyBatches], number: tf.Tensor
    ) -> list[Any]:
        found = []
        for place, (compute, update_) in enumerate(phases):
            with tf.device(self.state.devices.names[place]):
                packed, carry = compute(batches[place], number)
                keys = self.sums.keys((call.capacity, call.rows))
                sums = self._by_dtype(packed.tensors, place, keys)
                gathered = []
                if packed.vectors:
                    joined = tf.concat(packed.vectors, axis=0)
                    token = self._tokens[place]
                    every = self.sums.gather(next(keys), joined, token=token)
                    every = tf.reshape(every, [self.sums.size, -1])
                    sizes = [vector.shape[0] for vector in packed.vectors]
                    gathered = tf.split(every, sizes, axis=1)
                found.append(update_(packed.of_all(sums, gathered), carry))
        return found

    def _computing(
        self, place: int, call: Call, batches: AnyBatches
    ) -> tuple[Callable[..., tuple[Packed, Carry]], tuple[str, ...]]:
        """Returns a device's program up to the exchange, and the unused weights. XLA compiles it
        unless the model sums over replicas by itself, as BatchNormalization does."""
        step = self.step
        # What sums by itself is traced again, without operations that only XLA has.
        plain = replace(step, forward=replace(step.forward, on_gpu=False))
        for compiled, own in ((True, step), (False, plain)):
            compute = functools.partial(self._compute, own, place, call)
            with self.state.devices.replica(place, self._early(place, call)) as replica:
                made = tf.function(compute, jit_compile=compiled, autograph=False)
                traced = made.get_concrete_function(batches, tf.TensorSpec([], tf.int64))
            if not replica.has_summed:
                break
        return traced, replica.unused

    def _compute(
        self, step: TrainStep, place: int, call: Call, batches: AnyBatches, number: tf.Tensor
    ) -> tuple[Packed, Carry]:
        with tf.name_scope("input"):
            read = reader_of(
                batches, number, 1, capacity=call.capacity, implementation=self.implementation
            )
            replica = self.state.devices.first_share + place
            batch = read(tf.constant(0)).within(call.rows, self.sums.size, replica)
        gradients, carry = step.compute(self.state, batch)
        return pack(gradients, carry.changes, batch.most_rows), carry

    def _updating(self, place: int, call: Call) -> Callable[[Packed, Carry], Any]:
        most_rows = -(-call.rows // self.sums.size)

        def after(packed: Packed, carry: Carry) -> Any:
            with self.state.devices.replica(place, _refuse_sums):
                changes = {**carry.changes, **packed.changes}
                gradients = unpack(packed, most_rows)
                return self.step.update(self.state, gradients, carry._replace(changes=changes))

        return tf.function(after, jit_compile=True, autograph=False)

    def _early(self, place: int, call: Call) -> Total:
        """Returns the sums of a model that sums by itself: one after the other, since all workers
        must begin them in the same order."""
        keys = self.sums.keys((call.capacity, call.rows, "early"))
        before: list[tf.Tensor] = []

        def in_order(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            with tf.control_dependencies(before):
                found = self._by_dtype([tf.identity(tensor) for tensor in tensors], place, keys)
            before[:] = found
            return found

        return in_order

    def _by_dtype(self, tensors: Sequence[tf.Tensor], place: int, keys: Any) -> list[tf.Tensor]:
        """Returns sums of tensors, of which those of a dtype travel together: every exchange
        between processes costs a round trip. They are joined outside of a compiled program: XLA
        would fuse the tensors' computation into the copy, element by element, which takes a hundred
        times as long as the step (measured on a CPU)."""
        found: dict[int, tf.Tensor] = {}
        for dtype in sorted({tensor.dtype.name for tensor in tensors}):
            own = {n: t for n, t in enumerate(tensors) if t.dtype.name == dtype}
            flat = tf.concat([tf.reshape(tensor, [-1]) for tensor in own.values()], axis=0)
            (total,) = self.sums(place, keys, [flat], token=self._tokens[place])
            parts = tf.split(total, [tensor.shape.num_elements() for tensor in own.values()])
            for (number, tensor), part in zip(own.items(), parts, strict=True):
                found[number] = tf.reshape(part, tensor.shape)
        return [found[number] for number in range(len(tensors))]


def _refuse_sums(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    raise InputError(
        "the optimizer calls all_reduce, which programs of several workers or CPU devices lack; "
        "its gradients are sums over all replicas already"
    )


def repeated(num_steps: int, body: Callable[[tf.Tensor, Any], Any], first: Any) -> Any:
    """Returns the body repeated for so many steps; one step compiles faster without a loop."""
    if num_steps == 1:
        return body(tf.constant(0), first)
    # XLA recognizes the constant. TensorFlow compares int32 on the host; int64 would be compared on
    # a GPU, and each step would wait for the answer.
    return tf.while_loop(
        lambda step, _: step < num_steps, body, (tf.constant(0), first), parallel_iterations=1
    )
