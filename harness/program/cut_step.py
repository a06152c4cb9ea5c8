"""A step in two halves, before and after its one all-reduce.

Within a process both halves and the sum are one compiled program. Between processes XLA has no
collectives: none for CPUs, and on GPUs TensorFlow gives XLA no way to tell other processes NCCL's
id. So there each half is a compiled program of its own, and TensorFlow's collective runs between
them, in a loop that is a graph.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from harness.feed.batch import AnyBatches, Share
from harness.feed.capacity import Capacity
from harness.feed.plan import Call
from harness.program.all_reduce import AllReduce
from harness.program.normalization import SumOverDevices
from harness.program.state import State

Step = Callable[[State, Share, SumOverDevices], Any]
"""A function that processes a device's share of a batch; returns a tensor, or tensors in lists."""


class _Part(NamedTuple):
    """A tensor's part of a vector that is exchanged. There is a vector for each dtype, one to sum
    and one to gather, since every exchange between processes costs a round trip."""

    dtype: str
    is_gathered: bool
    shape: tf.TensorShape


class Begun(NamedTuple):
    to_send: list[tf.Tensor]
    """The tensors to sum over all devices, or to gather."""
    gathered: list[bool]
    """Whether each of them is a vector to gather, to [devices, numbers]."""
    carried: Any
    """Other tensors that `finish` needs, in lists, tuples or mappings."""
    facts: Any
    """Python values that `finish` needs when it is traced. It uses no tensor in them but for its
    shape."""


@dataclass(frozen=True)
class CutStep:
    """A `Step` that sums over all devices once, and can be cut there."""

    begin: Callable[[State, Share, SumOverDevices], Begun]
    """Runs the step up to the sum."""
    finish: Callable[[State, Sequence[Any], Any, Any], Any]
    """Returns the step's result from the state, the sums, and what `begin` carried: `carried` and
    `facts`."""
    sums_early: bool
    """Whether `begin` also needs sums over all devices, as BatchNormalization does."""

    def __call__(self, state: State, share: Share, all_reduce: SumOverDevices) -> Any:
        to_send, gathered, carried, facts = self.begin(state, share, all_reduce)
        # The devices of a process have sums alone: each adds its vector in a row of its own.
        rows = [[state.share, share.num_devices - 1 - state.share], [0, 0]]
        to_sum = [
            tf.pad(tensor[None], rows) if is_gathered else tensor
            for tensor, is_gathered in zip(to_send, gathered, strict=True)
        ]
        return self.finish(state, all_reduce(to_sum), carried, facts)


@dataclass(eq=False)
class CutLoops:
    """The loops of a `CutStep`, one for each kind of call; `Program` describes the fields."""

    step: CutStep
    states: Sequence[State]
    sums: AllReduce
    implementation: str
    row_sums: int | None

    def __post_init__(self) -> None:
        # A device's sums are ordered by its token.
        self._tokens = []
        for state in self.states:
            with tf.device(state.device):
                self._tokens.append(tf.Variable(0.0, trainable=False))
        self._compiled = functools.cache(self._programs)

    def loop(
        self, call: Call, *, exchanging: bool = True
    ) -> Callable[[Sequence[AnyBatches], tf.Tensor], list[Any]]:
        """Returns a function that runs a call's steps on all devices of this worker, with or
        without the all-reduces: it takes the batches of each device and the first step (int64), and
        returns the row sums of each device.

        All devices share one loop: TensorFlow also tells sums apart by the loop that they are in,
        so devices with a loop each would wait for one another for ever."""
        num_steps = call.num_steps
        summing = exchanging or not self.step.sums_early
        compiled = [
            self._compiled(device, call.capacity, call.rows, summing)
            for device in range(len(self.states))
        ]

        def once(batches: Sequence[AnyBatches], number: tf.Tensor) -> list[Any]:
            def on_device(device: int, state: State) -> Any:
                begin, finish, parts = compiled[device]
                with tf.device(state.device):
                    to_send, carried = begin(batches[device], number)
                    keys = self.sums.keys((call.capacity, call.rows))
                    exchanged = []
                    # Join outside of the compiled program: XLA would fuse the tensors' computation
                    # into the copy, element by element, which takes a hundred times as long as the
                    # step (measured on a CPU).
                    for (_, is_gathered), vector in _joined(to_send, parts).items():
                        token = self._tokens[device]
                        if not exchanging:
                            vector = tf.tile(vector, [self.sums.size if is_gathered else 1])
                        elif is_gathered:
                            vector = self.sums.gather(next(keys), vector, token=token)
                        else:
                            (vector,) = self.sums(device, keys, [vector], token=token)
                        exchanged.append(vector)
                    return finish(exchanged, carried)

            return [on_device(*own) for own in enumerate(self.states)]

        def loop(batches: Sequence[AnyBatches], first: tf.Tensor) -> list[Any]:
            if self.row_sums is None:
                assert num_steps == 1, num_steps
                return once(batches, first)
            sums = []
            for state, own in zip(self.states, batches, strict=True):
                with tf.device(state.device):
                    sums.append(tf.zeros([self.row_sums, own.num_rows]))

            def body(done: tf.Tensor, sums: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
                found = once(batches, first + tf.cast(done, tf.int64))
                return done + 1, [a + b for a, b in zip(sums, found, strict=True)]

            _, sums = repeated(num_steps, body, sums)
            return [tf.reduce_sum(tf.cast(own, tf.float64), axis=1) for own in sums]

        return loop

    def _programs(
        self, device: int, capacity: Capacity, rows: int, summing: bool
    ) -> tuple[Callable[..., Any], Callable[..., Any], list[_Part]]:
        """Returns a device's programs before and after the exchange, and the parts to exchange,
        which are known once the first is traced. The first program is not compiled by XLA if it
        needs sums as well, and does them if `summing`."""
        state = self.states[device]
        parts: list[_Part] = []
        facts: list[Any] = []  # of the first part, which is traced before the second

        @tf.function(jit_compile=not self.step.sums_early, autograph=False)
        def begin(batches: AnyBatches, number: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
            with tf.name_scope("input"):
                read = batches.reader(
                    number, 1, capacity=capacity, implementation=self.implementation
                )
                share = read(tf.constant(0)).within(rows, self.sums.size, state.share)
            early = self._early(device, capacity, rows) if summing else list
            begun = self.step.begin(state, share, early)
            facts[:] = [begun.facts]
            parts[:] = _parts(begun.to_send, begun.gathered)
            return list(begun.to_send), begun.carried

        @tf.function(jit_compile=True, autograph=False)
        def finish(exchanged: list[tf.Tensor], carried: Any) -> Any:
            sent = _parted(exchanged, parts, self.sums.size)
            return self.step.finish(state, sent, carried, facts[0])

        return begin, finish, parts

    def _early(self, device: int, capacity: Capacity, rows: int) -> SumOverDevices:
        """Returns an all-reduce that does its sums one after the other, since all workers must
        begin them in the same order."""
        keys = self.sums.keys((capacity, rows, "early"))
        before: list[tf.Tensor] = []

        def in_order(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            parts = _parts(tensors, [False] * len(tensors))
            with tf.control_dependencies(before):
                joined = _joined([tf.identity(tensor) for tensor in tensors], parts)
            summed = self.sums(device, keys, [*joined.values()], token=self._tokens[device])
            before[:] = summed
            return _parted(summed, parts, self.sums.size)

        return in_order


def repeated(num_steps: int, body: Callable[[tf.Tensor, Any], Any], first: Any) -> Any:
    """Returns the body repeated for so many steps; one step compiles faster without a loop."""
    if num_steps == 1:
        return body(tf.constant(0), first)
    # XLA recognizes the constant. TensorFlow compares int32 on the host; int64 would be compared on
    # a GPU, and each step would wait for the answer.
    return tf.while_loop(
        lambda step, _: step < num_steps, body, (tf.constant(0), first), parallel_iterations=1
    )


def _parts(tensors: Sequence[tf.Tensor], gathered: Sequence[bool]) -> list[_Part]:
    return [_Part(t.dtype.name, own, t.shape) for t, own in zip(tensors, gathered, strict=True)]


def _joined(
    tensors: Sequence[tf.Tensor], parts: Sequence[_Part]
) -> dict[tuple[str, bool], tf.Tensor]:
    """Concatenates the tensors; returns the vectors by dtype and by whether they are gathered."""
    return {
        kind: tf.concat(
            [tf.reshape(t, [-1]) for t, own in zip(tensors, parts, strict=True) if own[:2] == kind],
            axis=0,
        )
        for kind in sorted({part[:2] for part in parts})
    }


def _parted(
    vectors: Sequence[tf.Tensor], parts: Sequence[_Part], num_devices: int
) -> list[tf.Tensor]:
    """Splits exchanged vectors into tensors: undoes `_joined`. A gathered tensor becomes [devices,
    numbers]."""
    found = {}
    for kind, vector in zip(sorted({part[:2] for part in parts}), vectors, strict=True):
        rows = tf.reshape(vector, [num_devices if kind[1] else 1, -1])
        sizes = [part.shape.num_elements() for part in parts if part[:2] == kind]
        found[kind] = iter(tf.split(rows, sizes, axis=1))
    return [
        next(found[part[:2]]) if part.is_gathered else tf.reshape(next(found[part[:2]]), part.shape)
        for part in parts
    ]
