"""A step compiled by XLA into a loop, and run on every device of a run.

Within a process, only this module tells one device from many. It is given a step as a function. A
loop has a constant length: if the length were known only at run time, a GPU would ask the host in
every iteration whether to go on. Each of several GPUs runs the whole loop, and only the step's sums
cross between them. Where XLA has no sums, `harness.program.worker_loops` runs a training step.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from harness.base.errors import InputError
from harness.feed.batch import AnyBatches, BatchesByRows, Sizes, reader_of, sizes_of
from harness.feed.capacity import Capacity
from harness.feed.plan import Call
from harness.model.compile_errors import naming_failed_layer, require_known_shapes
from harness.program.all_reduce import AllReduce
from harness.program.state import State
from harness.program.step import Step, TrainStep
from harness.program.strategy import Total, copies_of
from harness.program.worker_loops import WorkerLoops, repeated
from harness.run.records import Compilation

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
def _variables_restored(state: State) -> Iterator[None]:
    """Restores at the end the variables that the block changes, from a copy in host memory; not
    after a failure while a program runs. Tables updated by rows are frozen in the block."""
    frozen = [copy for v in state.tables.variables for copy in copies_of(v)]
    variables = [v for v in state.variables if not any(v is own for own in frozen)]
    saved = [variable.numpy() for variable in variables]
    state.tables.freeze(True)
    is_whole = True
    try:
        yield
    except tf.errors.OpError as error:
        # XLA's compiler raises these two. After other errors a program's inputs may be freed.
        is_whole = isinstance(error, tf.errors.InvalidArgumentError | tf.errors.UnimplementedError)
        raise
    finally:
        state.tables.freeze(False)
        if is_whole:
            for variable, value in zip(variables, saved, strict=True):
                variable.assign(value)


@dataclass(eq=False)
class Program:
    """A step's compiled loops: one for each combination of the number of steps, the rows of a
    batch, the capacity and the sizes of the batches' arrays.

    The step runs on a batch on each of the state's devices, in step with other workers. If it
    returns `row_sums` values for each row, float32 [row_sums, rows], they are added up over the
    steps, and at the end over the rows, to float64 [row_sums]; else it may return anything, and
    runs one at a time. Its `row_outputs` further values for each row are kept, float32 [steps,
    rows, row_outputs].
    """

    name: str
    step: Step
    state: State
    implementation: str  # for which batches are read
    on_gpu: bool = False  # whether XLA compiles it for a GPU
    row_sums: int | None = None
    row_outputs: int | None = None

    def __post_init__(self) -> None:
        devices = self.state.devices
        self._device_names = devices.names
        self._sums = AllReduce(devices.names, devices.cluster, devices.all_reduce)
        self.unused: tuple[str, ...] = ()  # weights that the loss does not depend on, once traced
        self._worker_loops: WorkerLoops | None = None
        several_cpus = devices.device_type == "CPU" and len(devices.names) > 1
        self._has_no_sums = several_cpus or not devices.cluster.is_alone  # in what XLA compiles
        if isinstance(self.step, TrainStep) and self._has_no_sums:
            self._worker_loops = WorkerLoops(
                self.step, self.state, self._sums, self.implementation, self.row_sums
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

    def traced_on(self, place: int, call: Call, batches: AnyBatches) -> Any:
        """Returns one device's function of its batches and the first step (int64)."""
        keys = self._sums.keys((call.num_steps, call.capacity, call.rows))
        total: Total = functools.partial(self._sums, place, keys)
        if self._has_no_sums:
            total = _refuse_sums
        loop = functools.partial(self._loop, place, call)
        with (
            tf.device(self._device_names[place]),
            self.state.devices.replica(place, total) as replica,
        ):
            made = tf.function(loop, jit_compile=True, autograph=False)
            traced = made.get_concrete_function(batches, tf.TensorSpec([], tf.int64))
        self.unused = replica.unused
        return traced

    def _build(self, batches: Sequence[AnyBatches], call: Call) -> Callable[..., list[Any]]:
        if self._worker_loops is not None:
            together, self.unused = self._worker_loops.traced(call, batches)
            return lambda batches, firsts: together(batches, firsts[0])
        places = range(len(self._device_names))
        traced = [self.traced_on(place, call, batches[place]) for place in places]
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
            try:
                failed.result()
            except tf.errors.InternalError as error:
                if "a GPU failed before" in str(error):
                    raise InputError(
                        "a GPU failed in another training of this process, which ended the sums "
                        "over the GPUs that this trainer's programs know; make a new trainer of "
                        "the same model, or resume the run"
                    ) from error
                raise
        return [call.result() for call in calls]

    def _loop(self, place: int, call: Call, batches: AnyBatches, first: tf.Tensor) -> Any:
        """Runs steps [first, first + num_steps) of the batches, traced for one device."""
        num_steps, replica = call.num_steps, self.state.devices.first_share + place
        # A profile is divided by these scopes and those that Keras adds for layers.
        with tf.name_scope("input"):
            read = reader_of(
                batches,
                first,
                num_steps,
                capacity=call.capacity,
                implementation=self.implementation,
                for_gpu=self.on_gpu,
            )

        def once(step: tf.Tensor) -> Any:
            with tf.name_scope("input"):
                batch = read(step).within(call.rows, self._sums.size, replica)
            result = self.step(self.state, batch)
            if num_steps > 1:
                require_known_shapes(self.state.model)
            return result

        if self.row_sums is None:
            assert num_steps == 1, num_steps
            return once(tf.constant(0))
        if self.row_outputs is not None:
            return self._kept(num_steps, batches.num_rows, once)

        def body(step: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
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


def _refuse_sums(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    raise InputError(
        "the model calls all_reduce in an evaluation or a prediction, where programs of several "
        "workers or CPU devices have no sums; call it only where the argument training is true, or "
        "use the GPUs of one process"
    )


def _key(call: Call, batches: BatchesByRows) -> _Key:
    return call.num_steps, call.rows, call.capacity, sizes_of(batches[call.rows][0])


def compile_all(
    loops: Sequence[tuple[Program, BatchesByRows, Call]], *, at_step: int, concurrent: bool = False
) -> list[Compilation]:
    """Compiles loops for such batches and calls of programs of one state, if they are not
    compiled yet; changes no state: each loop is run once, since libraries such as oneDNN generate
    code of their own then, and is undone from a copy in host memory. With `concurrent`, two loops
    are compiled at once while others are traced, as XLA leaves cores idle. Returns a record of each
    new loop, whose seconds add up to the time that all took."""
    new = [loop for loop in loops if not loop[0].is_compiled(loop[2], loop[1])]
    if not new:
        return []
    start = time.perf_counter()
    pending: list[Future[float]] = []
    seconds = []
    state = new[0][0].state
    named, restored = naming_failed_layer(state.model), _variables_restored(state)
    with named, restored, ThreadPoolExecutor(2) as others:
        try:
            for program, batches, call in new:
                # Trace in this thread only: the order of sums is that of traces.
                began = time.perf_counter()
                run = program.traced(batches, call)
                seconds.append(time.perf_counter() - began)
                if concurrent:
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
