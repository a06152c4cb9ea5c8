"""A step compiled by XLA into a loop, and run on every device of a run.

The only place that knows one device from many, and the only one that compiles. A training step, an
evaluation and a look at gradients are functions handed to it. A loop has a constant length: with
one known at run time alone, a GPU would ask the host in every iteration whether to go on. On
several GPUs each runs the whole loop, and all that crosses between them inside is the function's
all-reduce.

Between processes XLA has no collectives: none for CPUs, and on GPUs TensorFlow gives XLA no way to
tell other processes NCCL's id. So with several workers what comes before a step's all-reduce and
what comes after it are programs of their own, and TensorFlow's collective runs between them, in a
loop that is a graph.
"""

import abc
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from harness.cluster.cluster import ALONE, Cluster
from harness.engine.all_reduce import AllReduce as Sums
from harness.engine.all_reduce import Kind
from harness.engine.culprit import named_culprit
from harness.engine.normalization import AllReduce
from harness.engine.state import State
from harness.errors import InputError
from harness.pipeline.batch import AnyBatches, Share
from harness.pipeline.capacity import Capacity
from harness.pipeline.plan import Call
from harness.records import Compilation

_INSTANCE_KEYS = itertools.count(0, 10_000)
"""By these TensorFlow tells apart the tensors that a group sums, of which one program has fewer
than the step."""

_ALONE_TIMES = 3
"""That a call without all-reduces is timed; the shortest counts."""

Step = Callable[[State, Share, AllReduce], Any]
"""What is done with a device's share of a batch; returns a tensor, or tensors in lists."""


class StepInTwo(abc.ABC):
    """A step that sums over all devices once, so that it can be cut there."""

    @abc.abstractmethod
    def begin(self, state: State, share: Share, all_reduce: AllReduce) -> tuple[Any, Any]:
        """What is summed over all devices, a list of tensors; and what goes on to `finish`."""

    @abc.abstractmethod
    def finish(self, state: State, summed: Sequence[tf.Tensor], carried: Any) -> Any:
        """What the step returns."""

    def __call__(self, state: State, share: Share, all_reduce: AllReduce) -> Any:
        to_sum, carried = self.begin(state, share, all_reduce)
        return self.finish(state, all_reduce(to_sum), carried)


@functools.lru_cache
def _strategy(names: tuple[str, ...]) -> tf.distribute.Strategy:
    """One for each set of devices: each that is made starts threads of its own."""
    return tf.distribute.MirroredStrategy(list(names))


class Program:
    """A step's compiled loops, one for each number of steps and each capacity."""

    def __init__(
        self,
        name: str,
        step: Step,
        *,
        states: Sequence[State],
        implementation: str,
        cluster: Cluster = ALONE,
        all_reduce: Kind = "nccl",
        row_sums: int | None = None,
        row_outputs: int | None = None,
    ) -> None:
        """Args:
        name: for people.
        step: what is done with a batch.
        states: of each device.
        implementation: of the multi-hot product, and so of reading batches.
        cluster: whose workers run the same program, in step.
        all_reduce: how tensors are summed over all devices.
        row_sums: how many numbers for each row the step returns, float32 [row_sums, rows]. They
            are added up over the steps, and at the end over the rows, to float64 [row_sums]. None:
            it returns anything, and is run one step at a time.
        row_outputs: how many more numbers for each row it returns beside the sums, float32 [rows,
            row_outputs]. They are kept, float32 [steps, rows, row_outputs]. None: none.
        """
        self._name = name
        self._step = step
        self._states = tuple(states)
        self._device_names = tuple(state.device for state in states)
        self._implementation = implementation
        self._cluster = cluster
        self._sums = Sums(self._device_names, cluster, all_reduce)
        self._row_sums = row_sums
        self._row_outputs = row_outputs
        self._instance_key = next(_INSTANCE_KEYS)
        self._parts: dict[tuple[int, Capacity], tuple[Callable[..., Any], Callable[..., Any]]] = {}
        self._loops: dict[tuple[int, Capacity], Callable[..., list[Any]]] = {}

    def compile(
        self, batches: Sequence[AnyBatches], *, num_steps: int, capacity: Capacity, at_step: int
    ) -> list[Compilation]:
        """Compiles a loop, if it was not yet; changes no state.

        Libraries make code of their own when a program first runs, as oneDNN does on a CPU and
        CUDA's do on a GPU, so it is run once and taken back, from a copy in host memory.

        Args:
            batches: of each device, at least `num_steps`.
            num_steps, capacity: constants of the loop.
            at_step: optimizer steps done so far, for the record.

        Returns:
            A record of what was compiled, or nothing.

        Raises:
            InputError: naming the layer or other object of Keras that cannot be compiled.
        """
        if (num_steps, capacity) in self._loops:
            return []
        start = time.perf_counter()
        resized = [batch.resized(capacity) for batch in batches]
        variables = [variable for state in self._states for variable in state.without_tables]
        saved = [variable.numpy() for variable in variables]
        for state in self._states:
            state.tables.freeze(True)
        with named_culprit(self._states[0].layer_names):
            self._loops[num_steps, capacity] = self._build(resized, num_steps, capacity)
            call = Call(first=0, num_steps=num_steps, capacity=capacity)
            for result in tf.nest.flatten(self(call, resized)):
                result.numpy()  # waits
        for variable, value in zip(variables, saved, strict=True):
            variable.assign(value)
        for state in self._states:
            state.tables.freeze(False)
        seconds = time.perf_counter() - start
        return [
            Compilation(program=self._name, capacity=sum(capacity), seconds=seconds, step=at_step)
        ]

    def __call__(self, call: Call, batches: Sequence[AnyBatches]) -> list[Any]:
        """Runs a compiled loop; does not wait for the devices.

        Args:
            call: which of the batches, and which loop.
            batches: of each device.

        Returns:
            For each device the row sums, and the row outputs if there are any; or what the step
            returned.
        """
        loop = self._loops[call.num_steps, call.capacity]
        with tf.device(self._device_names[0]):
            # A tensor on purpose: a Python number would be a new program for each value.
            return loop(batches, tf.constant(call.first, tf.int64))

    def on_device(self, device: int, *, num_steps: int, capacity: Capacity) -> Any:
        """The tf.function of one device: from its batches and the first step (int64) to what a call
        returns."""
        if isinstance(self._step, StepInTwo) and not self._cluster.is_alone:
            return tf.function(
                self._loop_in_two(self._step, device, num_steps, capacity), autograph=False
            )
        loop = functools.partial(self._loop, device, num_steps, capacity)
        return tf.function(loop, jit_compile=True, autograph=False)

    def _build(
        self, batches: Sequence[AnyBatches], num_steps: int, capacity: Capacity
    ) -> Callable[..., list[Any]]:
        loops = [
            self.on_device(device, num_steps=num_steps, capacity=capacity)
            for device in range(len(self._states))
        ]
        if len(loops) == 1:
            return lambda batches, first: [loops[0](batches[0], first)]
        # Traced here and not under the strategy: there Keras would sum gradients by itself, after
        # clipping them and without regard to the loss scale.
        traced = []
        for name, loop, batch in zip(self._device_names, loops, batches, strict=True):
            with tf.device(name):
                traced.append(loop.get_concrete_function(batch, tf.TensorSpec([], tf.int64)))
        strategy = _strategy(self._device_names)
        distribute = strategy.experimental_distribute_values_from_function
        places = distribute(lambda context: context.replica_id_in_sync_group)

        @tf.function(autograph=False)
        def everywhere(batches: Any, first: tf.Tensor) -> list[Any]:
            results = strategy.run(
                lambda place, own: traced[place](own, first), args=(places, batches)
            )
            leaves = map(strategy.experimental_local_results, tf.nest.flatten(results))
            return [tf.nest.pack_sequence_as(results, own) for own in zip(*leaves, strict=True)]

        return lambda batches, first: everywhere(
            tf.nest.map_structure(
                lambda *parts: distribute(lambda c: parts[c.replica_id_in_sync_group]), *batches
            ),
            first,
        )

    def _loop(
        self,
        device: int,
        num_steps: int,
        capacity: Capacity,
        batches: AnyBatches,
        first: tf.Tensor,
    ) -> Any:
        """Steps [first, first + num_steps) of the batches, traced for one device."""
        # The scopes, and those that Keras adds for layers, are what a profile is divided by.
        with tf.name_scope("input"):
            read = batches.reader(
                first, num_steps, capacity=capacity, implementation=self._implementation
            )
        keys = itertools.count(self._instance_key)
        all_reduce = functools.partial(self._sums, device, keys)

        def once(step: tf.Tensor) -> Any:
            with tf.name_scope("input"):
                share = read(step)
            return self._step(self._states[device], share, all_reduce)

        if self._row_sums is None:
            assert num_steps == 1, num_steps
            return once(tf.constant(0))
        if self._row_outputs is not None:
            return self._kept(num_steps, batches.num_rows, once)
        _, sums = tf.while_loop(
            lambda step, _: step < num_steps,  # a constant, which XLA finds
            lambda step, sums: (step + 1, sums + once(step)),
            (tf.constant(0), tf.zeros([self._row_sums, batches.num_rows])),
            parallel_iterations=1,
        )
        return tf.reduce_sum(tf.cast(sums, tf.float64), axis=1)

    def alone_seconds(self, call: Call, batches: Sequence[AnyBatches]) -> float:
        """Seconds of a step on the first device without the all-reduce, once its loop is compiled;
        changes no state. Tables that are updated by rows are not updated: a large one would have
        to be copied."""
        assert isinstance(self._step, StepInTwo)
        made = self._loop_in_two(self._step, 0, call.num_steps, call.capacity, exchanging=False)
        loop = tf.function(made, autograph=False)
        variables = self._states[0].without_tables
        saved = [variable.numpy() for variable in variables]
        self._states[0].tables.freeze(True)
        seconds = []
        with tf.device(self._device_names[0]):
            first = tf.constant(call.first, tf.int64)
            for _ in range(_ALONE_TIMES):
                start = time.perf_counter()
                loop(batches[0], first).numpy()
                seconds.append(time.perf_counter() - start)
        for variable, value in zip(variables, saved, strict=True):
            variable.assign(value)
        self._states[0].tables.freeze(False)
        return min(seconds) / call.num_steps

    def _in_two(
        self, step: StepInTwo, device: int, capacity: Capacity
    ) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """What is compiled of a step on a device: what comes before the all-reduce, and after."""
        if (device, capacity) in self._parts:
            return self._parts[device, capacity]
        state = self._states[device]
        shapes: list[tuple[tf.DType, tf.TensorShape]] = []

        @tf.function(jit_compile=True, autograph=False)
        def begin(batches: AnyBatches, number: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
            with tf.name_scope("input"):
                read = batches.reader(
                    number, 1, capacity=capacity, implementation=self._implementation
                )
                share = read(tf.constant(0))
            to_sum, carried = step.begin(state, share, _refused)
            shapes[:] = [(tensor.dtype, tensor.shape) for tensor in to_sum]
            return list(to_sum), carried

        @tf.function(jit_compile=True, autograph=False)
        def finish(joined: list[tf.Tensor], carried: Any) -> Any:
            return step.finish(state, _parted(joined, shapes), carried)

        self._parts[device, capacity] = begin, finish
        return begin, finish

    def _loop_in_two(
        self,
        step: StepInTwo,
        device: int,
        num_steps: int,
        capacity: Capacity,
        *,
        exchanging: bool = True,
    ) -> Callable[[AnyBatches, tf.Tensor], Any]:
        """As `_loop`, but for the all-reduce, which is in no compiled program, or is left out."""
        begin, finish = self._in_two(step, device, capacity)

        def once(batches: AnyBatches, number: tf.Tensor) -> Any:
            to_sum, carried = begin(batches, number)
            keys = itertools.count(self._instance_key)
            # Joined out here: XLA would fuse what computes the tensors into the copy, element by
            # element, which takes a hundred times as long as the step (measured on a CPU).
            joined = _joined(to_sum)
            return finish(self._sums(device, keys, joined) if exchanging else joined, carried)

        def loop(batches: AnyBatches, first: tf.Tensor) -> Any:
            if self._row_sums is None:
                assert num_steps == 1, num_steps
                return once(batches, first)
            _, sums = tf.while_loop(
                lambda done, _: done < num_steps,
                lambda done, sums: (done + 1, sums + once(batches, first + done)),
                (tf.constant(0, tf.int64), tf.zeros([self._row_sums, batches.num_rows])),
                parallel_iterations=1,
            )
            return tf.reduce_sum(tf.cast(sums, tf.float64), axis=1)

        return loop

    def _kept(
        self, num_steps: int, num_rows: int, once: Callable[[tf.Tensor], Any]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The row sums and the row outputs of all steps. Both are kept for each step, which takes
        one kernel; adding up the sums on the way would take another."""
        assert self._row_sums is not None
        assert self._row_outputs is not None
        shape = [self._row_sums + self._row_outputs, num_rows]

        def body(step: tf.Tensor, kept: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            sums, outputs = once(step)
            return step + 1, kept.write(step, tf.concat([sums, tf.transpose(outputs)], axis=0))

        _, kept = tf.while_loop(
            lambda step, _: step < num_steps,
            body,
            (tf.constant(0), tf.TensorArray(tf.float32, num_steps, element_shape=shape)),
            parallel_iterations=1,
        )
        sums, outputs = tf.split(kept.stack(), [self._row_sums, self._row_outputs], axis=1)
        total = tf.reduce_sum(tf.cast(sums, tf.float64), axis=[0, 2])
        return total, tf.transpose(outputs, [0, 2, 1])


def _joined(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """One vector for each type: between processes every all-reduce costs a round trip."""
    types = sorted({tensor.dtype for tensor in tensors}, key=str)
    return [
        tf.concat([tf.reshape(t, [-1]) for t in tensors if t.dtype == kind], axis=0)
        for kind in types
    ]


def _parted(
    joined: Sequence[tf.Tensor], shapes: Sequence[tuple[tf.DType, tf.TensorShape]]
) -> list[tf.Tensor]:
    """The inverse."""
    types = sorted({dtype for dtype, _ in shapes}, key=str)
    parts = {
        kind: iter(tf.split(vector, [s.num_elements() for d, s in shapes if d == kind]))
        for kind, vector in zip(types, joined, strict=True)
    }
    return [tf.reshape(next(parts[kind]), shape) for kind, shape in shapes]


def _refused(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    raise InputError(
        "the model has BatchNormalization layers, which need all rows of a batch at once, and "
        "these lie on several workers; use LayerNormalization, or train with one worker"
    )
