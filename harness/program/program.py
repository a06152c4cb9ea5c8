"""A step compiled by XLA into a loop, and run on every device of a run.

The only place that knows one device from many, and the only one that compiles. A training step, an
evaluation and a look at gradients are functions handed to it. A loop has a constant length: with
one known at run time alone, a GPU would ask the host in every iteration whether to go on. On
several GPUs each runs the whole loop, and all that crosses between them inside is the function's
all-reduce.

Between processes XLA has no collectives; `harness.program.in_two` says what is done there.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import tensorflow as tf

from harness.feed.batch import AnyBatches, BatchesByRows, Sizes
from harness.feed.capacity import Capacity
from harness.feed.plan import Call
from harness.program.all_reduce import AllReduce as Sums
from harness.program.all_reduce import Kind
from harness.program.culprit import named_culprit
from harness.program.in_two import LoopsInTwo, Step, StepInTwo
from harness.program.state import State
from harness.run.records import Compilation
from harness.workers.cluster import ALONE, Cluster

_Key = tuple[int, int, Capacity, Sizes]
_GRACE_SECONDS = 5
"""For the other devices to fail as one has, as they do where XLA cannot compile their loops; one
that has not waits for it in its sums."""
_ALONE_TIMES = 3
"""That a call without all-reduces is timed; the shortest counts."""


@functools.cache
def _threads(num_devices: int) -> ThreadPoolExecutor:
    """As many as a run has devices. Kept: each that is made starts new ones."""
    return ThreadPoolExecutor(num_devices, thread_name_prefix="device")


@functools.cache
def _number(number: int, device: str) -> tf.Tensor:
    """A tensor on purpose: a Python number would be a new program for each value. Kept, since a GPU
    first ends what it is computing before it gets another."""
    with tf.device(device):
        return tf.constant(number, tf.int64)


@contextlib.contextmanager
def _taken_back(states: Sequence[State]) -> Iterator[None]:
    """What the block changes is taken back at its end, from a copy in host memory; also after a
    failure, but for one while a program runs. Tables that are updated by rows do not change in it:
    a large one would have to be copied."""
    variables = [variable for state in states for variable in state.without_tables]
    saved = [variable.numpy() for variable in variables]
    for state in states:
        state.tables.freeze(True)
    is_whole = True
    try:
        yield
    except tf.errors.OpError as error:
        # XLA's compiler raises these two. After others what a program was given may be freed.
        of_compiler = (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)
        is_whole = isinstance(error, of_compiler)
        raise
    finally:
        for state in states:
            state.tables.freeze(False)
        if is_whole:
            for variable, value in zip(variables, saved, strict=True):
                variable.assign(value)


class Program:
    """A step's compiled loops, one for each number of steps, rows of a batch, each capacity and all
    sizes of what is read."""

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
        self.name = name
        self._step = step
        self.states = tuple(states)
        self._device_names = tuple(state.device for state in states)
        self._implementation = implementation
        self._cluster = cluster
        self._sums = Sums(self._device_names, cluster, all_reduce)
        self._row_sums = row_sums
        self._row_outputs = row_outputs
        self._in_two = (
            LoopsInTwo(step, states, self._sums, implementation=implementation, row_sums=row_sums)
            if isinstance(step, StepInTwo)
            else None
        )
        self._loops: dict[_Key, Callable[..., list[Any]]] = {}

    def compile(self, batches: BatchesByRows, call: Call, *, at_step: int) -> list[Compilation]:
        """Compiles a loop alone; see `Loop` and `compile_all`."""
        return compile_all([Loop(self, batches, call)], at_step=at_step)

    def is_compiled(self, batches: BatchesByRows, call: Call) -> bool:
        """Whether there is a loop for such a call, and batches of these sizes."""
        return _key(call, batches) in self._loops

    def traced(self, batches: BatchesByRows, call: Call) -> Callable[[], None]:
        """Traces the loop for a call. What it returns compiles the loop, by a first run, and waits
        for it."""
        resized = [batch.resized(call.capacity) for batch in batches[call.rows]]
        loop = self._build(resized, call)

        def run() -> None:
            for result in tf.nest.flatten(self._run(loop, resized, first=0)):
                result.numpy()  # waits
            self._loops[_key(call, batches)] = loop

        return run

    def __call__(self, call: Call, batches: BatchesByRows) -> list[Any]:
        """Runs a compiled loop; does not wait for the devices.

        Args:
            call: which of the batches, and which loop.
            batches: of each device, by the rows of a batch.

        Returns:
            For each device the row sums, and the row outputs if there are any; or what the step
            returned.
        """
        return self._run(self._loops[_key(call, batches)], batches[call.rows], first=call.first)

    def _run(
        self, loop: Callable[..., list[Any]], batches: Sequence[AnyBatches], *, first: int
    ) -> list[Any]:
        # On each device: a copy from the first would wait for what it computes, which waits for the
        # others wherever they sum.
        firsts = [_number(first, name) for name in self._device_names]
        with tf.device(self._device_names[0]):
            return loop(batches, firsts)

    def on_device(self, device: int, call: Call) -> Any:
        """The tf.function of one device: from its batches and the first step (int64) to what a call
        returns."""
        loop = functools.partial(self._loop, device, call)
        return tf.function(loop, jit_compile=True, autograph=False)

    def _build(self, batches: Sequence[AnyBatches], call: Call) -> Callable[..., list[Any]]:
        if self._in_two is not None and not self._cluster.is_alone:
            together = tf.function(self._in_two.loop(call), autograph=False)
            return lambda batches, firsts: together(batches, firsts[0])
        loops = [self.on_device(device, call) for device in range(len(self.states))]
        traced = []
        for name, loop, batch in zip(self._device_names, loops, batches, strict=True):
            with tf.device(name):
                traced.append(loop.get_concrete_function(batch, tf.TensorSpec([], tf.int64)))
        return functools.partial(self._on_each, traced)

    def _on_each(
        self,
        loops: Sequence[Callable[..., Any]],
        batches: Sequence[AnyBatches],
        firsts: Sequence[tf.Tensor],
    ) -> list[Any]:
        """Begins each device's loop, of several devices in a thread of its own: what begins one may
        wait for what it computes, which waits in its sums for the others. `Strategy.run` would make
        one function of them, which ends when all have: one that failed would keep the others
        waiting."""

        if len(loops) == 1:
            return [loops[0](batches[0], firsts[0])]

        def begin(place: int) -> Any:
            with tf.device(self._device_names[place]):
                return loops[place](batches[place], firsts[place])

        calls = [_threads(len(loops)).submit(begin, place) for place in range(len(loops))]
        wait(calls, return_when=FIRST_EXCEPTION)
        failed = next((call for call in calls if call.done() and call.exception()), None)
        if failed is not None:
            ended, waiting = wait(calls, timeout=_GRACE_SECONDS)
            if waiting or not all(call.exception() for call in ended):
                self._sums.abort()
            failed.result()
        return [call.result() for call in calls]

    def _loop(self, device: int, call: Call, batches: AnyBatches, first: tf.Tensor) -> Any:
        """Steps [first, first + num_steps) of the batches, traced for one device."""
        state, num_steps = self.states[device], call.num_steps
        # The scopes, and those that Keras adds for layers, are what a profile is divided by.
        with tf.name_scope("input"):
            read = batches.reader(
                first,
                num_steps,
                capacity=call.capacity,
                implementation=self._implementation,
                for_gpu=state.for_gpu,
            )
        keys = self._sums.keys((num_steps, call.capacity, call.rows))
        all_reduce = functools.partial(self._sums, device, keys)

        def once(step: tf.Tensor) -> Any:
            with tf.name_scope("input"):
                share = read(step).within(call.rows, self._sums.size, state.share)
            return self._step(state, share, all_reduce)

        if self._row_sums is None:
            assert num_steps == 1, num_steps
            return once(tf.constant(0))
        if self._row_outputs is not None:
            return self._kept(num_steps, batches.num_rows, once)

        def body(step: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            state.seeds.at(step)
            return step + 1, sums + once(step)

        with state.seeds.in_loop(num_steps) if state.for_gpu else contextlib.nullcontext():
            _, sums = _repeated(num_steps, body, tf.zeros([self._row_sums, batches.num_rows]))
        return tf.reduce_sum(tf.cast(sums, tf.float64), axis=1)

    def alone_seconds(self, call: Call, batches: BatchesByRows) -> float:
        """Seconds of a step on this worker's devices without the all-reduce, once its loop is
        compiled; changes no state."""
        assert self._in_two is not None
        made = self._in_two.loop(call, exchanging=False)
        loop = tf.function(made, autograph=False)
        seconds = []
        with tf.device(self._device_names[0]), _taken_back(self.states):
            first = tf.constant(call.first, tf.int64)
            for _ in range(_ALONE_TIMES):
                start = time.perf_counter()
                for sums in loop(batches[call.rows], first):
                    sums.numpy()
                seconds.append(time.perf_counter() - start)
        return min(seconds) / call.num_steps

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

        _, kept = _repeated(
            num_steps, body, tf.TensorArray(tf.float32, num_steps, element_shape=shape)
        )
        sums, outputs = tf.split(kept.stack(), [self._row_sums, self._row_outputs], axis=1)
        total = tf.reduce_sum(tf.cast(sums, tf.float64), axis=[0, 2])
        return total, tf.transpose(outputs, [0, 2, 1])


def _repeated(num_steps: int, body: Callable[[tf.Tensor, Any], Any], first: Any) -> Any:
    """What so many steps come to. One alone needs no loop, and is compiled sooner without."""
    if num_steps == 1:
        return body(tf.constant(0), first)
    return tf.while_loop(
        lambda step, _: step < num_steps,  # a constant, which XLA finds
        body,
        (tf.constant(0), first),
        parallel_iterations=1,
    )


class Loop(NamedTuple):
    """A loop to compile, and batches to compile it with."""

    program: Program
    batches: BatchesByRows
    """As for a call of the program."""
    call: Call
    """One that the loop is for."""


def _key(call: Call, batches: BatchesByRows) -> _Key:
    """What a loop is known by."""
    return call.num_steps, call.rows, call.capacity, batches[call.rows][0].sizes


def compile_all(loops: Sequence[Loop], *, at_step: int, beside: bool = False) -> list[Compilation]:
    """Compiles loops of the same states, if they were not yet; changes no state.

    Libraries make code of their own when a program first runs, as oneDNN does on a CPU and CUDA's
    do on a GPU, so each is run once. What all have changed is taken back in the end, from a copy
    in host memory.

    Args:
        loops: in order.
        at_step: optimizer steps done so far, for the records.
        beside: whether two at once are compiled while others are traced: XLA leaves cores idle, and
            so does tracing.

    Returns:
        A record of each that was compiled. Their seconds add up to the time that all took: of what
        was compiled side by side each has its share.

    Raises:
        InputError: naming the layer or other object of Keras that cannot be compiled.
    """
    new = [loop for loop in loops if not loop.program.is_compiled(loop.batches, loop.call)]
    if not new:
        return []
    start = time.perf_counter()
    pending: list[Future[float]] = []
    seconds = []
    states = new[0].program.states
    with (
        named_culprit(states[0].layer_names),
        _taken_back(states),
        ThreadPoolExecutor(2) as others,
    ):
        try:
            for loop in new:
                # In this thread alone: a state keeps notes about the loop that is being traced.
                began = time.perf_counter()
                run = loop.program.traced(loop.batches, loop.call)
                seconds.append(time.perf_counter() - began)
                if beside:
                    pending.append(others.submit(_seconds_of, run))
                else:
                    seconds[-1] += _seconds_of(run)
            for place, other in enumerate(pending):
                seconds[place] += other.result()
        except BaseException:  # an interrupt, too: nothing further is begun
            others.shutdown(cancel_futures=True)
            raise
    share = (time.perf_counter() - start) / sum(seconds)
    return [
        Compilation(
            program=loop.program.name,
            capacity=sum(loop.call.capacity),
            seconds=share * own,
            step=at_step,
        )
        for loop, own in zip(new, seconds, strict=True)
    ]


def _seconds_of(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
