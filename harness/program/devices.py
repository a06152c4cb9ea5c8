"""The devices of a run, and how many replicas each of them trains.

On GPUs each replica has a device of its own. On a CPU one program trains whole batches, whatever
the number of replicas: a second CPU device would share the processor and its memory, and only cost
time. A strategy of several logical CPU devices is used as it is given.
"""

import functools
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import tensorflow as tf
from tensorflow.python.client import device_lib
from tensorflow.python.eager import context

from harness.base.errors import InputError
from harness.base.interrupt import threads_without_signals
from harness.base.memory import free_bytes
from harness.program.all_reduce import Kind, resolved_all_reduce
from harness.program.strategy import Replica, Total, devices_of, strategy_of
from harness.workers.cluster import ALONE, Cluster

# Rows of one replica's batch below which a step spends most of its time on kernel launches and the
# all-reduce: an estimate from the launches in docs/gpu_evidence.md, since no GPU was at hand.
_ROWS_THAT_PAY = 8_192
# Seconds that a GPU waits for the others in TensorFlow's own all-reduce before XLA ends the
# process. In the sums of `kernels.all_reduce`, which have no such limit, `ModelPrograms` ends it.
PATIENCE_SECONDS = 300
_NCCL_FLAGS = (
    f"--xla_gpu_nccl_termination_timeout_seconds={PATIENCE_SECONDS}",
    f"--xla_gpu_executable_terminate_timeout={PATIENCE_SECONDS}",
    f"--xla_gpu_first_collective_call_terminate_timeout_seconds={PATIENCE_SECONDS}",
    "--xla_gpu_nccl_terminate_on_error=true",
)


@dataclass(frozen=True, kw_only=True)
class Devices:
    names: tuple[str, ...]  # TensorFlow's names, such as `/GPU:0`
    num_replicas: int  # The number of replicas of this process, spread evenly over its devices
    device_type: Literal["CPU", "GPU"]
    descriptions: tuple[str, ...]  # Name and, for a GPU, model of each device
    compute_capability: tuple[int, int] | None = None  # of the weakest GPU, if known
    pci_bus_ids: tuple[str, ...] = ()  # of each GPU, as NVML has them, or `unknown`
    memory_bytes: int  # Bytes of memory of one device
    why: str = "asked for"  # The reason for the number of replicas
    all_reduce: Kind = "nccl"
    cluster: Cluster = ALONE  # workers that train together, with as many devices each
    given: tf.distribute.Strategy | None = None  # The user's own strategy

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """The strategy of this run: the user's own, that of several workers, or one of TensorFlow's
        for the devices."""
        return self.given or self.cluster.strategy or strategy_of(self.names)

    def replica(self, place: int, total: Total) -> Replica:
        """Returns the context in which a device's program is traced; `total` sums over replicas."""
        return Replica(self.strategy, self.first_share + place, total)

    @property
    def num_shares(self) -> int:
        return len(self.names) * self.cluster.num_workers

    @property
    def first_share(self) -> int:
        """The number of the share that the first device of this process trains."""
        return len(self.names) * self.cluster.index

    def free_bytes(self) -> int:
        if self.device_type == "CPU":
            return free_bytes()
        name = self.names[-1].removeprefix("/")
        return self.memory_bytes - int(tf.config.experimental.get_memory_info(name)["current"])


def set_up_devices(
    replicas: Literal["auto"] | int,
    *,
    batch_size: int | None = None,
    before: int | None = None,
    all_reduce: Literal["auto"] | Kind = "auto",
    cluster: Cluster = ALONE,
    strategy: tf.distribute.Strategy | None = None,
) -> Devices:
    """Chooses the devices, lets GPU memory grow on demand, and starts the cluster's runtime. Call
    it before anything else touches TensorFlow: GPUs that are not chosen are then left alone.

    A number of `replicas` takes the first GPUs; on a CPU it only changes the reason. `auto` takes
    as many as the run that is resumed had `before`, if there are so many, else `choose_replicas`.
    `batch_size` is None if nothing is trained. A user's `strategy` decides instead of `replicas`.
    """
    if strategy is not None:
        return _of_strategy(strategy, replicas, all_reduce, cluster)
    gpus = tf.config.get_visible_devices("GPU")  # without those that `smoke` hides
    earlier, here = cluster.on_this_host
    why = "asked for"
    if replicas == "auto":
        # This worker's part of the GPUs that the host's workers share, or all if it has its own.
        own = len(gpus) // here or len(gpus)
        replicas, why = choose_replicas(own, batch_size, workers=cluster.num_workers)
        if before is not None and (not gpus or before <= len(gpus)):
            replicas, why = before, "as in the run resumed"
    kind = resolved_all_reduce(
        all_reduce,
        device_type="GPU" if gpus else "CPU",
        num_devices=replicas if gpus else 1,
        num_workers=cluster.num_workers,
    )
    if gpus:
        if len(gpus) >= here * replicas:  # otherwise each worker must see GPUs of its own
            gpus = gpus[earlier * replicas :]
        devices = replace(_on_gpus(gpus, replicas, why, cluster), all_reduce=kind)
        _require_own_gpus(devices)
        return devices
    cluster.start(num_gpus=0)
    if replicas > 1:
        why += "; on a CPU one program trains whole batches, as with 1"
    devices = _on_cpus(("/CPU:0",), replicas, why)
    return replace(devices, all_reduce=kind, cluster=cluster)


def _of_strategy(
    strategy: tf.distribute.Strategy,
    replicas: Literal["auto"] | int,
    all_reduce: Literal["auto"] | Kind,
    cluster: Cluster,
) -> Devices:
    if replicas != "auto":
        raise InputError(
            f"--replicas is {replicas} beside a strategy, whose devices are the replicas; leave "
            "one of them out"
        )
    if not cluster.is_alone:
        raise InputError(
            "strategy is given to one of several workers, for which the trainer makes a "
            "MultiWorkerMirroredStrategy; leave it out"
        )
    names, why = devices_of(strategy), "the strategy's devices"
    if names[0].startswith("/GPU"):
        listed = tf.config.get_visible_devices("GPU")
        gpus = [listed[int(name.rpartition(":")[2])] for name in names]
        devices = replace(_on_gpus(gpus, len(gpus), why, cluster), names=names)
    else:
        devices = _on_cpus(names, len(names), why)
    kind = resolved_all_reduce(
        all_reduce, device_type=devices.device_type, num_devices=len(names), num_workers=1
    )
    return replace(devices, all_reduce=kind, given=strategy)


def _on_cpus(names: tuple[str, ...], replicas: int, why: str) -> Devices:
    start_threads(names[0])
    return Devices(
        names=names,
        num_replicas=replicas,
        device_type="CPU",
        descriptions=names,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        why=why,
    )


@functools.cache
def start_threads(device: str) -> None:
    """Makes TensorFlow start its pools of threads here, where signals are blocked for them."""
    with threads_without_signals(), tf.device(device):
        tf.function(tf.identity, jit_compile=True)(tf.constant(0.0))


def be_deterministic() -> None:
    """Makes sums run in a fixed order; call it before TensorFlow starts and reads XLA's flags."""
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    _set_xla_flag("--xla_gpu_deterministic_ops=true")
    # Without it a scatter, of which `gather` has two, becomes a loop with an iteration for each id.
    flag = "--xla_gpu_enable_scatter_determinism_expander=true"
    has_begun = context.context()._context_handle is not None
    is_late = has_begun and flag not in os.environ.get("XLA_FLAGS", "")
    if is_late and tf.config.get_visible_devices("GPU"):
        print(
            "note: TensorFlow began to compute before this trainer, so a GPU may add gradients id "
            f"by id, which is slow: set XLA_FLAGS={flag} before the program starts, or give the "
            "trainer a function that makes the model, and the optimizer by name",
            file=sys.stderr,
        )
    _set_xla_flag(flag)


def _set_xla_flag(flag: str) -> None:
    """Adds a flag that XLA reads when it first compiles; the user's own comes last and wins."""
    known = os.environ.get("XLA_FLAGS", "")
    if flag not in known:
        os.environ["XLA_FLAGS"] = f"{flag} {known}".strip()


def choose_replicas(num_gpus: int, batch_size: int | None, *, workers: int = 1) -> tuple[int, str]:
    """Returns the number of replicas that `auto` takes in each of the workers, and the reason: one
    GPU, unless each of several would have enough rows to be worth the all-reduce; then the largest
    number of GPUs that divides the batch evenly."""
    if num_gpus < 2:
        return 1, "the only GPU" if num_gpus else "no GPU"
    if batch_size is None:
        return 1, "nothing is trained"
    rows = batch_size // workers
    most = min(num_gpus, rows // _ROWS_THAT_PAY)
    taken = next((n for n in range(most, 1, -1) if rows % n == 0), 1)
    if taken == num_gpus:
        return taken, f"all GPUs: each gets at least {_ROWS_THAT_PAY:,} rows of a batch"
    shares = (
        "unequal shares" if most == num_gpus else f"shares of fewer than {_ROWS_THAT_PAY:,} rows"
    )
    return taken, (
        f"of {num_gpus} GPUs: all would get {shares} of a batch; to use them: --replicas "
        f"{num_gpus} --batch-size {num_gpus * workers * _ROWS_THAT_PAY}"
    )


def _on_gpus(
    gpus: list[tf.config.PhysicalDevice], replicas: int, why: str, cluster: Cluster
) -> Devices:
    if replicas > len(gpus):
        raise InputError(
            f"--replicas is {replicas} but TensorFlow shows {len(gpus)} GPUs to this process; set "
            f"--replicas to {len(gpus)} or less, or hide them with CUDA_VISIBLE_DEVICES= to use CPU"
        )
    used = gpus[:replicas]
    try:
        # Keep this order: a look at a device makes TensorFlow take nearly all memory of every GPU.
        tf.config.set_visible_devices(used, "GPU")
        for gpu in used:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError as error:  # TensorFlow runs already, perhaps with as many GPUs
        if len(tf.config.list_logical_devices("GPU")) < replicas:
            raise InputError(
                f"--replicas is {replicas} but this process uses "
                f"{len(tf.config.list_logical_devices('GPU'))} GPUs already, which cannot change "
                "afterwards; start another process"
            ) from error
        if replicas > 1 and not all(map(tf.config.experimental.get_memory_growth, used)):
            print(
                "note: TensorFlow began with the GPUs before this trainer, as a strategy makes it, "
                "and took nearly all of their memory; where NCCL or a kernel lacks some, call "
                "tf.config.experimental.set_memory_growth(gpu, True) for each GPU before",
                file=sys.stderr,
            )
    if replicas > 1:
        # Loading a kernel waits for a GPU that waits for another one in a sum.
        os.environ.setdefault("CUDA_MODULE_LOADING", "EAGER")
    for flag in _NCCL_FLAGS:
        _set_xla_flag(flag)
    cluster.start(num_gpus=replicas)
    start_threads("/GPU:0")  # also initializes the GPUs, with these settings
    details = [tf.config.experimental.get_device_details(gpu) for gpu in used]
    capabilities = [d["compute_capability"] for d in details if "compute_capability" in d]
    names = tuple(f"/GPU:{index}" for index in range(replicas))
    # Without this configuration the call would make a device of every GPU of the machine.
    listed = device_lib.list_local_devices(context.context().config)
    local = [device for device in listed if device.device_type == "GPU"][:replicas]
    # The bus ids stand in TensorFlow's descriptions.
    found = [re.search(r"pci bus id: ([^,\s]+)", own.physical_device_desc) for own in local]
    return Devices(
        names=names,
        num_replicas=replicas,
        device_type="GPU",
        descriptions=tuple(
            f"{name} {d.get('device_name', 'of unknown model')}"
            for name, d in zip(names, details, strict=True)
        ),
        compute_capability=min(capabilities) if len(capabilities) == replicas else None,
        pci_bus_ids=tuple("unknown" if match is None else match[1] for match in found),
        memory_bytes=min(device.memory_limit for device in local),
        why=why,
        cluster=cluster,
    )


def _require_own_gpus(devices: Devices) -> None:
    cluster = devices.cluster
    if cluster.is_alone:
        return
    host = cluster.member.hosts[cluster.index].rpartition(":")[0]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    # Slices of a GPU have its bus id in common.
    own = [visible] if "MIG-" in visible else devices.pci_bus_ids
    every = cluster.told([f"{gpu} of {host}" for gpu in own])
    shared = [gpu for gpu, n in Counter(chain(*every)).items() if n > 1]
    if shared:
        raise InputError(
            f"several workers would train on the GPU {shared[0]}; start no more workers on a host "
            "than it has GPUs for, or let each see GPUs of its own by CUDA_VISIBLE_DEVICES"
        )
