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

from harness.feed.batch import AnyBatches, Share, reader_of
from harness.feed.capacity import Capacity
from harness.feed.plan import Call
from harness.program.all_reduce import AllReduce
from harness.program.normalization import SumOverDevices
from harness.program.state import State

Step = Callable[[State, Share, SumOverDevices], Any]
"""A function that processes a device's share of a batch; returns a tensor, or tensors in lists."""


class Begun(NamedTuple):
    to_send: list[tf.Tensor]
    """The tensors to sum over all devices, or to gather."""
    gathered: list[bool]
    """Whether each of them is a vector to gather, to [devices, numbers]."""
    carried: Any
    """Other tensors that `finish` needs, in lists, tuples or mappings."""
    finish: Callable[[Sequence[Any], Any], Any]
    """Returns the step's result from the sums and `carried`. It may be traced in another program
    than `begin`, of whose tensors it uses only shapes."""


@dataclass(frozen=True)
class CutStep:
    """A `Step` that sums over all devices once, and can be cut there."""

    begin: Callable[[State, Share, SumOverDevices], Begun]
    """Runs the step up to the sum."""
    sums_early: bool
    """Whether `begin` also needs sums over all devices, as BatchNormalization does."""

    def __call__(self, state: State, share: Share, all_reduce: SumOverDevices) -> Any:
        begun = self.begin(state, share, all_reduce)
        # The devices of a process have sums alone: each adds its vector in a row of its own.
        rows = [[state.share, share.num_devices - 1 - state.share], [0, 0]]
        to_sum = [
            tf.pad(tensor[None], rows) if is_gathered else tensor
            for tensor, is_gathered in zip(begun.to_send, begun.gathered, strict=True)
        ]
        return begun.finish(all_reduce(to_sum), begun.carried)


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

    def loop(self, call: Call) -> Callable[[Sequence[AnyBatches], tf.Tensor], list[Any]]:
        """Returns a function that runs a call's steps on all devices of this worker: it takes the
        batches of each device and the first step (int64), and returns the row sums of each device.

        All devices share one loop: TensorFlow also tells sums apart by the loop that they are in,
        so devices with a loop each would wait for one another for ever."""
        num_steps = call.num_steps
        compiled = [
            self._compiled(device, call.capacity, call.rows) for device in range(len(self.states))
        ]

        def once(batches: Sequence[AnyBatches], number: tf.Tensor) -> list[Any]:
            def on_device(device: int, state: State) -> Any:
                begin, finish, begun = compiled[device]
                with tf.device(state.device):
                    to_send, carried = begin(batches[device], number)
                    keys = self.sums.keys((call.capacity, call.rows))
                    exchanged = []
                    # Join outside of the compiled program: XLA would fuse the tensors' computation
                    # into the copy, element by element, which takes a hundred times as long as the
                    # step (measured on a CPU).
                    for (_, is_gathered), vector in _joined(to_send, begun[0].gathered).items():
                        token = self._tokens[device]
                        if is_gathered:
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
        self, device: int, capacity: Capacity, rows: int
    ) -> tuple[Callable[..., Any], Callable[..., Any], list[Begun]]:
        """Returns a device's programs before and after the exchange, and a list that holds what the
        first one begins, once it is traced. If it needs sums, XLA does not compile it."""
        state = self.states[device]
        traced: list[Begun] = []

        @tf.function(jit_compile=not self.step.sums_early, autograph=False)
        def begin(batches: AnyBatches, number: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
            with tf.name_scope("input"):
                read = reader_of(
                    batches, number, 1, capacity=capacity, implementation=self.implementation
                )
                share = read(tf.constant(0)).within(rows, self.sums.size, state.share)
            early = self._early(device, capacity, rows)
            traced[:] = [self.step.begin(state, share, early)]
            return traced[0].to_send, traced[0].carried

        @tf.function(jit_compile=True, autograph=False)
        def finish(exchanged: list[tf.Tensor], carried: Any) -> Any:
            (begun,) = traced
            sent = _parted(exchanged, begun.to_send, begun.gathered, self.sums.size)
            return begun.finish(sent, carried)

        return begin, finish, traced

    def _early(self, device: int, capacity: Capacity, rows: int) -> SumOverDevices:
        """Returns an all-reduce that does its sums one after the other, since all workers must
        begin them in the same order."""
        keys = self.sums.keys((capacity, rows, "early"))
        before: list[tf.Tensor] = []

        def in_order(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            none = [False] * len(tensors)
            with tf.control_dependencies(before):
                joined = _joined([tf.identity(tensor) for tensor in tensors], none)
            before[:] = self.sums(device, keys, [*joined.values()], token=self._tokens[device])
            return _parted(before, tensors, none, self.sums.size)

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


def _places(
    tensors: Sequence[tf.Tensor], gathered: Sequence[bool]
) -> dict[tuple[str, bool], list[int]]:
    """Returns the places of the tensors that travel together, by dtype and by whether they are
    gathered: every exchange between processes costs a round trip."""
    found: dict[tuple[str, bool], list[int]] = {}
    for place, (tensor, own) in enumerate(zip(tensors, gathered, strict=True)):
        found.setdefault((tensor.dtype.name, own), []).append(place)
    return dict(sorted(found.items()))


def _joined(
    tensors: Sequence[tf.Tensor], gathered: Sequence[bool]
) -> dict[tuple[str, bool], tf.Tensor]:
    return {
        kind: tf.concat([tf.reshape(tensors[place], [-1]) for place in places], axis=0)
        for kind, places in _places(tensors, gathered).items()
    }


def _parted(
    vectors: Sequence[tf.Tensor],
    like: Sequence[tf.Tensor],
    gathered: Sequence[bool],
    num_devices: int,
) -> list[tf.Tensor]:
    """Undoes `_joined` after the exchange. A gathered tensor becomes [devices, numbers]."""
    found: dict[int, tf.Tensor] = {}
    for (kind, places), vector in zip(_places(like, gathered).items(), vectors, strict=True):
        rows = tf.reshape(vector, [num_devices if kind[1] else 1, -1])
        sizes = [like[place].shape.num_elements() for place in places]
        for place, part in zip(places, tf.split(rows, sizes, axis=1), strict=True):
            found[place] = part if kind[1] else tf.reshape(part, like[place].shape)
    return [found[place] for place in range(len(like))]
