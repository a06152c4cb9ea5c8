"""A worker's view of its cluster: how the workers start, and how they agree on small values, such
as what the chief has decided. `harness.program.program` exchanges the tensors of training."""

import atexit
import contextlib
import ctypes
import faulthandler
import functools
import importlib.metadata
import itertools
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from harness.base.errors import InputError, LostWorkerError, printable
from harness.base.interrupt import threads_without_signals
from harness.base.quiet import hide_retracing_warnings
from harness.workers.meeting import difference, meet, unreachable
from harness.workers.membership import Membership, membership

T = TypeVar("T")

WAIT_SECONDS = 120.0  # for workers that have not started; HARNESS_CLUSTER_WAIT sets another
_HEARTBEAT_SECONDS = 60  # seconds without a heartbeat after which a worker counts as lost
_START_SECONDS = 60  # the longest start of TensorFlow's runtime, once all workers have met
_SHUTDOWN_SECONDS = 5
_LINGER_SECONDS = 0.3  # before a worker exits, so that the others receive the rest of a sum
_GROUP_KEY = 900_000  # of the workers' CPUs; `harness.program.program` has keys of other groups
_SIGACTION_BYTES = 256  # buffer size for the system's `struct sigaction`, which is smaller
_OPEN_PORTS = (
    "note: TensorFlow's servers of these workers have no password: whoever reaches their ports, "
    "from another machine or as another user of this one, can act as you (SECURITY.md)"
)


class Cluster:
    """One worker's view of its cluster. A lone process is a cluster of one, without exchanges."""

    def __init__(self, member: Membership) -> None:
        self.member = member
        self.num_workers = member.num_workers
        self.index = member.index  # The number of this worker; 0 is the chief
        self.is_chief, self.is_alone = member.is_chief, member.num_workers == 1
        self._has_come = False
        self._has_started = False
        self.strategy: Any = None  # of several workers, once TensorFlow's runtime has started
        # Holds this worker's port from the meeting until TensorFlow's server takes it.
        self._held: socket.socket | None = None
        self._keys: dict[tuple[str, tuple[int, ...]], int] = {}
        self._next_key = itertools.count(1)

    @property
    def on_this_host(self) -> tuple[int, int]:
        """Number of workers before this one on its host, and number of the host's workers."""
        self._meet()
        return self.member.on_this_host

    def from_chief(self, make: Callable[[], T]) -> T:
        """Returns in every worker what `make` returns on the chief, which must fit into JSON, or
        raises the InputError that it raises. The first call waits for all workers."""
        if self.is_alone:
            return make()
        made: dict[str, Any] = {}
        if self.is_chief:
            try:
                made = {"value": make()}
            except InputError as error:
                made = {"refusal": str(error)}
        # The first value travels with the meeting, before TensorFlow's runtime starts: it may say
        # which devices to start it with.
        if self._has_started:
            made = self.told(made)[0]
        else:
            assert self._held is None
            made = self._meet(made)
        if "refusal" in made:
            raise InputError(made["refusal"])
        value: T = made["value"]
        return value

    def start(self, *, num_gpus: int) -> None:
        """Starts TensorFlow's runtime for collectives, unless it is running."""
        if self.is_alone or self._has_started:
            return
        self._meet()
        import tensorflow as tf
        from tensorflow.python.distribute.collective_all_reduce_strategy import (
            coordination_config_pb2,
        )
        from tensorflow.python.eager import context

        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": list(self.member.hosts)}),
            task_type="worker",
            task_id=self.index,
            num_accelerators={"GPU": num_gpus},
            rpc_layer="grpc",
        )
        hide_retracing_warnings()  # which every worker would print
        # TensorFlow's own timeouts are an hour and more.
        context.context().configure_coordination_service(
            "standalone",
            service_leader="/job:worker/replica:0/task:0",
            cluster_register_timeout_in_ms=_START_SECONDS * 1000,
            heartbeat_timeout_in_ms=_HEARTBEAT_SECONDS * 1000,
            shutdown_barrier_timeout_in_ms=_SHUTDOWN_SECONDS * 1000,
            coordinated_jobs=[
                coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=self.num_workers)
            ],
        )
        # The chief's C++ code would wait for a lost worker without end, while no Python runs. That
        # of the other workers gives up before, with an error that names the chief.
        faulthandler.dump_traceback_later(1.25 * _START_SECONDS, exit=True, file=2)
        if self.is_chief and [name for _, name in socket.if_nameindex()] != ["lo"]:
            print(_OPEN_PORTS, file=sys.stderr, flush=True)
        assert self._held is not None
        try:
            with threads_without_signals(), _keeping_sigterm(), self._held:
                self.strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
        except RuntimeError as error:
            raise InputError(
                "TensorFlow has computed in this process before the trainer could join the other "
                f"workers ({error}); give the trainer a function that builds the model, and "
                "metrics and optimizer by name, and call it before anything else"
            ) from error
        except tf.errors.OpError as error:
            raise self._lost(error) from error
        finally:
            faulthandler.cancel_dump_traceback_later()
        self._has_started = True
        atexit.register(time.sleep, _LINGER_SECONDS)  # a script may end after a last evaluation

    def failed(self, error: InputError) -> None:
        """Tells the others why this worker does not come to train, if they still wait for it."""
        if self.is_alone or self._has_come:
            return
        why = printable(str(error))
        told = f"note: waiting for the other workers, to tell them why this one ends: {why}"
        print(told, file=sys.stderr, flush=True)
        self._meet(failure=str(error))

    def _meet(self, told: Mapping[str, Any] | None = None, **hello: str) -> dict[str, Any]:
        """Waits for all workers, unless they have already met; returns the chief's message."""
        if self.is_alone or self._held is not None:
            return {}
        self._has_come, wait_seconds = True, _wait_seconds()
        if not hello:
            import tensorflow as tf

            own = importlib.metadata.version("multi-hot-harness")
            hello = {"version of harness": own, "version of TensorFlow": tf.__version__}
        said, self.member, self._held = meet(
            self.member, hello, told or {}, wait_seconds=wait_seconds
        )
        return said

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Raises an InputError in all workers if one has other facts than the chief. These fit into
        JSON, by the names that messages use for them."""
        found = self.told(facts)
        for index, own in enumerate(found):
            if refusal := difference(self.member, index, own, found[0]):
                self.wait_for_all()  # all find the same, and none ends before the others have
                raise InputError(refusal)

    def any(self, wish: bool) -> bool:
        return bool(self.most([wish])[0])

    def wait_for_all(self) -> None:
        """Waits for all workers, so that none fails because another exits right afterwards. Raises
        a LostWorkerError if one ended before this call."""
        if self.is_alone:
            return
        self.any(False)
        # A worker that has a sum may still owe others a part of it. So all meet once more, when
        # nothing depends on it, and no worker leaves at once.
        with contextlib.suppress(LostWorkerError):
            self.any(False)
        time.sleep(_LINGER_SECONDS)

    def most(self, numbers: Sequence[int]) -> list[int]:
        return [int(n) for n in self._reduce(np.array(numbers, np.int64), merge_op="Max")]

    def total(self, *arrays: np.ndarray) -> list[np.ndarray]:
        """Returns the sums of arrays over all workers; float64 if there are several workers."""
        if self.is_alone or not arrays:
            return list(arrays)
        flat = np.concatenate([np.asarray(a, np.float64).reshape(-1) for a in arrays])
        parts = np.split(self._reduce(flat), np.cumsum([a.size for a in arrays])[:-1])
        return [part.reshape(a.shape) for part, a in zip(parts, arrays, strict=True)]

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Returns the arrays of all workers, which have one shape and dtype, as [workers, ...]."""
        # Sent as bits, so that any type works.
        bits = _bits(array.tobytes())
        together = np.zeros([self.num_workers, len(bits)], np.int32)
        together[self.index] = bits
        rows = [row.tobytes()[: array.nbytes] for row in self._reduce(together)]
        return np.frombuffer(b"".join(rows), array.dtype).reshape(self.num_workers, *array.shape)

    def told(self, value: Any) -> list[Any]:
        """Returns the JSON-serializable values of all workers."""
        data = json.dumps(value).encode()
        texts = self.gather(np.frombuffer(data.ljust(self.most([len(data)])[0]), np.uint8))
        return [json.loads(text.tobytes()) for text in texts]

    def array_of_chief(self, own: np.ndarray) -> np.ndarray:
        """Returns the chief's array, which has the dtype and shape of this worker's array."""
        # A sum to which only the chief adds anything is its broadcast.
        data = self._reduce(_bits(own.tobytes() if self.is_chief else bytes(own.nbytes))).tobytes()
        return np.frombuffer(data[: own.nbytes], own.dtype).reshape(own.shape)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turns TensorFlow's errors about a lost worker into a LostWorkerError that names it."""
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError as error:
            if self._has_started and _is_of_collectives(error):
                raise self._lost(error) from error
            raise

    def _lost(self, error: Exception) -> LostWorkerError:
        # Who does not answer any more is the cause; the others only noticed.
        others = [host for i, host in enumerate(self.member.hosts) if i != self.index]
        lost = unreachable(others)
        named = [f"worker {i} ({h})" for i, h in enumerate(self.member.hosts) if h in lost]
        # A machine that hangs may still accept connections; then TensorFlow's message names it.
        tasks = {int(task) for task in re.findall(r"/job:worker\S*/task:(\d+)", str(error))}
        named = named or [f"worker {i}" for i in sorted(tasks - {self.index})]
        who = ", ".join(named) or "a worker"
        found = re.search(r"Collective ops is aborted by: ([^\n]+)", str(error))
        return LostWorkerError(
            f"{who} ended or cannot be reached any more, so the training cannot go on; its own "
            "output says why. Start all workers again with --resume to go on from the last "
            f"checkpoint. (TensorFlow: {found[1] if found else str(error):.200})"
        )

    def _reduce(self, array: np.ndarray, *, merge_op: str = "Add") -> np.ndarray:
        if self.is_alone:
            return array
        import tensorflow as tf

        assert self._has_started
        # TensorFlow requires one shape and one operation for all uses of a key.
        kind = f"{merge_op} {array.dtype.name}", array.shape
        if kind not in self._keys:
            self._keys[kind] = next(self._next_key)
        with self.watched(), tf.device(f"/job:worker/replica:0/task:{self.index}/device:CPU:0"):
            reduced: np.ndarray = tf.raw_ops.CollectiveReduceV2(
                input=tf.constant(array),
                group_size=self.num_workers,
                group_key=_GROUP_KEY,
                instance_key=self._keys[kind],
                ordering_token=[],
                merge_op=merge_op,
                final_op="Id",
                communication_hint="ring",
            ).numpy()
        return reduced


ALONE = Cluster(Membership())  # the cluster of a process that trains alone


@functools.lru_cache(maxsize=1)
def _joined(member: Membership) -> Cluster:
    return Cluster(member)


def cluster_of(environment: Mapping[str, str]) -> Cluster:
    """Returns the cluster that the environment names, always the same one in a process."""
    member = membership(environment)
    return ALONE if member.num_workers == 1 else _joined(member)


@contextlib.contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Restores the handler of SIGTERM after the block, since TensorFlow's coordination service
    replaces it. Unlike Python's `signal`, this works in any thread."""
    libc, action = ctypes.CDLL(None), ctypes.create_string_buffer(_SIGACTION_BYTES)
    libc.sigaction(signal.SIGTERM, None, action)
    try:
        yield
    finally:
        libc.sigaction(signal.SIGTERM, action, None)


def _wait_seconds() -> float:
    given = os.environ.get("HARNESS_CLUSTER_WAIT", str(WAIT_SECONDS))
    with contextlib.suppress(ValueError):
        if 0 < float(given) < 1e6:
            return float(given)
    raise InputError(f"HARNESS_CLUSTER_WAIT is '{given:.50}'; give a number of seconds above 0")


def _bits(data: bytes) -> np.ndarray:
    return np.frombuffer(data + bytes(-len(data) % 4), np.int32)


def _is_of_collectives(error: Exception) -> bool:
    kind = type(error).__name__
    if kind in ("UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError"):
        return True
    # These have other sources too, such as XLA.
    is_mixed = kind in ("FailedPreconditionError", "InternalError")
    return is_mixed and bool(re.search(r"[Cc]ollective|[Cc]oordination|/job:worker", str(error)))
