"""A step compiled by XLA into a loop, and run on every device of a run.

Within a process, only this module tells one device from many. It is given a training step, an
evaluation or a look at gradients as a function. A loop has a constant length: if the length were
known only at run time, a GPU would ask the host in every iteration whether to go on. Each of
several GPUs runs the whole loop, and only the function's all-reduce crosses between them.

XLA has no collectives between processes; `harness.program.cut_step` describes the way around that.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from harness.feed.batch import AnyBatches, BatchesByRows, Sizes, reader_of, sizes_of
from harness.feed.capacity import Capacity
from harness.feed.plan import Call
from harness.program.all_reduce import AllReduce, Kind
from harness.program.compile_errors import named_culprit
from harness.program.cut_step import CutLoops, CutStep, Step, repeated
from harness.program.state import State
from harness.run.records import Compilation
from harness.workers.cluster import ALONE, Cluster

_Key = tuple[int, int, Capacity, Sizes]
# Seconds to wait after one device has failed until the others fail alike, as they do if XLA cannot
# compile their loops. A device that does not fail waits for the failed one in its sums.
_GRACE_SECONDS = 5


@functools.cache
def _threads(num_devices: int) -> ThreadPoolExecutor:
    """Returns a pool of threads, one for each device; cached, as each new pool starts threads."""
    return ThreadPoolExecutor(num_devices, thread_name_prefix="device")


@functools.cache
def _number(number: int, device: str) -> tf.Tensor:
    """Returns a number as a tensor on a device: a Python number would need a new program for each
    value. It is cached, since a GPU gets a new tensor only after its current computation."""
    with tf.device(device):
        return tf.constant(number, tf.int64)


@contextlib.contextmanager
def _taken_back(states: Sequence[State]) -> Iterator[None]:
    """Restores at the end the variables that the block changes, from a copy in host memory; not
    after a failure while a program runs. Tables updated by rows are frozen in the block."""
    of_tables = {id(variable) for state in states for variable in state.tables.variables}
    variables = [v for state in states for v in state.variables if id(v) not in of_tables]
    saved = [variable.numpy() for variable in variables]
    for state in states:
        state.tables.freeze(True)
    is_whole = True
    try:
        yield
    except tf.errors.OpError as error:
        # XLA's compiler raises these two. After other errors a program's inputs may be freed.
        is_whole = isinstance(error, tf.errors.InvalidArgumentError | tf.errors.UnimplementedError)
        raise
    finally:
        for state in states:
            state.tables.freeze(False)
        if is_whole:
            for variable, value in zip(variables, saved, strict=True):
                variable.assign(value)


@dataclass(eq=False)
class Program:
    """A step's compiled loops: one for each combination of the number of steps, the rows of a
    batch, the capacity and the sizes of the batches' arrays.

    The step runs on a batch of each device's state, in step with the workers of `cluster`. If it
    returns `row_sums` values for each row, float32 [row_sums, rows], they are added up over the
    steps, and at the end over the rows, to float64 [row_sums]; else it may return anything, and
    runs one at a time. Its `row_outputs` further values for each row are kept, float32 [steps,
    rows, row_outputs].
    """

    name: str
    step: Step
    states: Sequence[State]
    implementation: str  # for which batches are read
    cluster: Cluster = ALONE
    all_reduce: Kind = "nccl"
    row_sums: int | None = None
    row_outputs: int | None = None

    def __post_init__(self) -> None:
        self._device_names = tuple(state.device for state in self.states)
        self._sums = AllReduce(self._device_names, self.cluster, self.all_reduce)
        self._cut: CutLoops | None = None
        if isinstance(self.step, CutStep) and not self.cluster.is_alone:
            self._cut = CutLoops(
                self.step, self.states, self._sums, self.implementation, self.row_sums
            )
        self._loops: dict[_Key, Callable[..., list[Any]]] = {}

    def compile(self, batches: BatchesByRows, call: Call, *, at_step: int) -> list[Compilation]:
        return compile_all([(self, batches, call)], at_step=at_step)

    def is_compiled(self, call: Call, batches: BatchesByRows) -> bool:
        return _key(call, batches) in self._loops

    def traced(self, batches: BatchesByRows, call: Call) -> Callable[[], float]:
        """Traces a call's loop; returns a function that compiles it by a run, and its seconds."""
        resized = [batch.resized(call.capacity) for batch in batches[call.rows]]
        loop = self._build(resized, call)

        def run() -> float:
            start = time.perf_counter()
            for result in tf.nest.flatten(self._run(loop, resized, first=0)):
                result.numpy()  # waits
            self._loops[_key(call, batches)] = loop
            return time.perf_counter() - start

        return run

    def __call__(self, call: Call, batches: BatchesByRows) -> list[Any]:
        """Runs the compiled loop of a call; does not wait for the devices. Returns for each device
        the row sums, and the row outputs if there are any; or the step's own result."""
        return self._run(self._loops[_key(call, batches)], batches[call.rows], first=call.first)

    def _run(
        self, loop: Callable[..., list[Any]], batches: Sequence[AnyBatches], *, first: int
    ) -> list[Any]:
        # Each device has its own number: a copy from the first device would wait for that one's
        # computation, which waits for the others in every sum.
        firsts = [_number(first, name) for name in self._device_names]
        with tf.device(self._device_names[0]):
            return loop(batches, firsts)

    def on_device(self, device: int, call: Call) -> Any:
        """Returns one device's tf.function of its batches and the first step (int64)."""
        loop = functools.partial(self._loop, device, call)
        return tf.function(loop, jit_compile=True, autograph=False)

    def _build(self, batches: Sequence[AnyBatches], call: Call) -> Callable[..., list[Any]]:
        if self._cut is not None:
            together = tf.function(self._cut.loop(call), autograph=False)
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
        """Begins each device's loop; of several devices each in a thread of its own, since the
        thread that begins a loop may have to wait for it, and the loop waits in its sums for the
        others. `Strategy.run` would make one function of all loops, which ends when all have ended:
        a device that failed would keep the others waiting."""
        if len(loops) == 1:
            return [loops[0](batches[0], firsts[0])]

        def begin(place: int) -> Any:
            with tf.device(self._device_names[place]):
                return loops[place](batches[place], firsts[place])

        threads = _threads(len(loops))
        calls = [threads.submit(begin, place) for place in range(len(loops))]
        wait(calls, return_when=FIRST_EXCEPTION)
        failed = next((call for call in calls if call.done() and call.exception()), None)
        if failed is not None:
            ended, waiting = wait(calls, timeout=_GRACE_SECONDS)
            if waiting or not all(call.exception() for call in ended):
                self._sums.abort()
                wait(calls, timeout=_GRACE_SECONDS)
            failed.result()
        return [call.result() for call in calls]

    def _loop(self, device: int, call: Call, batches: AnyBatches, first: tf.Tensor) -> Any:
        """Runs steps [first, first + num_steps) of the batches, traced for one device."""
        state, num_steps = self.states[device], call.num_steps
        # A profile is divided by these scopes and those that Keras adds for layers.
        with tf.name_scope("input"):
            read = reader_of(
                batches,
                first,
                num_steps,
                capacity=call.capacity,
                implementation=self.implementation,
                for_gpu=state.for_gpu,
            )
        keys = self._sums.keys((num_steps, call.capacity, call.rows))
        all_reduce = functools.partial(self._sums, device, keys)

        def once(step: tf.Tensor) -> Any:
            with tf.name_scope("input"):
                share = read(step).within(call.rows, self._sums.size, state.share)
            return self.step(state, share, all_reduce)

        if self.row_sums is None:
            assert num_steps == 1, num_steps
            return once(tf.constant(0))
        if self.row_outputs is not None:
            return self._kept(num_steps, batches.num_rows, once)

        # An evaluation does not count steps.
        without = contextlib.nullcontext(lambda step: None)
        trains = isinstance(self.step, CutStep)
        with state.in_loop(num_steps) if trains else without as begin:

            def body(step: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                begin(step)
                return step + 1, sums + once(step)

            _, sums = repeated(num_steps, body, tf.zeros([self.row_sums, batches.num_rows]))
        return tf.reduce_sum(tf.cast(sums, tf.float64), axis=1)

    def _kept(
        self, num_steps: int, num_rows: int, once: Callable[[tf.Tensor], Any]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the row sums and the row outputs of all steps. One kernel stores both for each
        step; adding up the sums on the way would take another."""
        assert self.row_sums is not None
        assert self.row_outputs is not None
        shape = [self.row_sums + self.row_outputs, num_rows]

        def body(step: tf.Tensor, kept: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            sums, outputs = once(step)
            return step + 1, kept.write(step, tf.concat([sums, tf.transpose(outputs)], axis=0))

        _, kept = repeated(
            num_steps, body, tf.TensorArray(tf.float32, num_steps, element_shape=shape)
        )
        sums, outputs = tf.split(kept.stack(), [self.row_sums, self.row_outputs], axis=1)
        total = tf.reduce_sum(tf.cast(sums, tf.float64), axis=[0, 2])
        return total, tf.transpose(outputs, [0, 2, 1])


def _key(call: Call, batches: BatchesByRows) -> _Key:
    return call.num_steps, call.rows, call.capacity, sizes_of(batches[call.rows][0])


def compile_all(
    loops: Sequence[tuple[Program, BatchesByRows, Call]], *, at_step: int, beside: bool = False
) -> list[Compilation]:
    """Compiles loops for such batches and calls of programs of the same states, if they are not
    compiled yet; changes no state: each loop is run once, since libraries such as oneDNN generate
    code of their own then, and is undone from a copy in host memory. With `beside`, two loops are
    compiled at once while others are traced, as XLA leaves cores idle. Returns a record of each new
    loop, whose seconds add up to the time that all took."""
    new = [loop for loop in loops if not loop[0].is_compiled(loop[2], loop[1])]
    if not new:
        return []
    start = time.perf_counter()
    pending: list[Future[float]] = []
    seconds = []
    states = new[0][0].states
    with named_culprit(states[0].model), _taken_back(states), ThreadPoolExecutor(2) as others:
        try:
            for program, batches, call in new:
                # Trace in this thread only: a state keeps notes about the loop being traced.
                began = time.perf_counter()
                run = program.traced(batches, call)
                seconds.append(time.perf_counter() - began)
                if beside:
                    pending.append(others.submit(run))
                else:
                    seconds[-1] += run()
            for place, other in enumerate(pending):
                seconds[place] += other.result()
        except BaseException:  # an interrupt, too: begin nothing further
            others.shutdown(cancel_futures=True)
            raise
    share = (time.perf_counter() - start) / sum(seconds)
    return [
        Compilation(
            program=program.name, capacity=sum(call.capacity), seconds=share * own, step=at_step
        )
        for (program, _, call), own in zip(new, seconds, strict=True)
    ]
