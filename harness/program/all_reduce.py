"""All-reduces: sums of tensors over the devices of all workers.

On the GPUs of one process a custom call sums, by NCCL (`kernels.all_reduce`). Between processes
TensorFlow runs the collective operation that tf.distribute also uses: by NCCL where its hint says
so, else by a ring over gRPC, through the host's memory.
"""

import functools
import itertools
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Literal

import tensorflow as tf

from harness.base.errors import InputError
from harness.workers.cluster import Cluster
from kernels.all_reduce import all_reduce, end_group, group_of
from kernels.multi_hot.native.build import REMEDY
from kernels.multi_hot.registry import UnavailableError

Kind = Literal["nccl", "hierarchical", "ring"]

_FIRST_GROUP_KEY = 1_000_000
"""The lowest group key: above the keys that tf.distribute gives out."""
_KEYS_OF_GROUP = 100_000
"""The number of keys reserved for each tuple of device names: one key for the group of all devices,
one for the first devices of the workers, and one for each worker's own devices."""
_GROUPS: dict[tuple[str, ...], int] = {}
"""A number for each tuple of device names, from which its group keys follow. TensorFlow tells
groups apart by these keys, which are the same in all workers."""
_CALLS = itertools.count()
"""Numbers of the traced sums over the GPUs of this process."""
_FIRST_KEYS = itertools.count(0, 10_000)
"""The first instance key of each program. TensorFlow tells the tensors that a group sums, each of
one shape, apart by instance keys; a program has fewer than 5,000 of them, half the distance."""


def settled_all_reduce(
    asked: Literal["auto", "nccl", "hierarchical", "ring"],
    *,
    device_type: str,
    num_devices: int,
    num_workers: int,
) -> Kind:
    """Returns the kind of all-reduce that sums the gradients.

    Args:
        asked: the value of --all-reduce.
        device_type: `CPU` or `GPU`.
        num_devices: the number of this worker's devices.
        num_workers: the number of processes that train together.

    Raises:
        InputError: when the kind asked for does not apply to these devices.
    """
    usual: Kind = "nccl" if device_type == "GPU" else "ring"
    if asked == "auto" or asked == usual:  # which config.json says of a run on one device, too
        return usual
    where = f"{num_workers} x {num_devices} {device_type}"
    if asked == "nccl":
        why = "NCCL is for GPUs"
    elif num_devices * num_workers == 1:
        why = "one device has nothing to sum"
    elif asked == "ring" and num_workers == 1:
        why = "in one process NCCL sums"
    elif asked == "hierarchical" and (num_workers == 1 or num_devices == 1):
        why = "it needs several workers with several GPUs each"
    else:
        return asked
    raise InputError(
        f"--all-reduce={asked} does not apply to the devices of this run, {where}: {why}; set "
        "--all-reduce=auto"
    )


class AllReduce:
    """Sums over the devices of all workers."""

    def __init__(self, names: tuple[str, ...], cluster: Cluster, kind: Kind) -> None:
        """Args:
        names: the names of this worker's devices.
        cluster: the workers, each with the same number of devices.
        kind: the kind that `settled_all_reduce` returned.
        """
        self._names = names
        self._cluster = cluster
        self._kind = kind
        self.size = len(names) * cluster.num_workers
        """The number of devices of all workers."""
        number = _GROUPS.setdefault(names, len(_GROUPS))
        self._group = _FIRST_GROUP_KEY + number * _KEYS_OF_GROUP
        self._first_keys: dict[Hashable, int] = {}
        self._connection: int | None = None
        """The group of the sums that were traced by `kernels.all_reduce`."""
        self._last: dict[int, tf.Tensor] = {}
        """Each device's last sum. Its next sum waits for it, so that all devices sum in the same
        order."""

    def keys(self, program: Hashable) -> Iterator[int]:
        """Returns instance keys for the tensors of a program, in order. All workers must ask for
        their programs in the same order, and every device of a worker for each program."""
        if program not in self._first_keys:
            self._first_keys[program] = next(_FIRST_KEYS)
        return itertools.count(self._first_keys[program])

    def __call__(
        self,
        device: int,
        instance_keys: Iterator[int],
        tensors: Sequence[tf.Tensor],
        *,
        token: tf.Variable | None = None,
    ) -> list[tf.Tensor]:
        """Returns the sums of the tensors, traced on a device.

        Args:
            device: the device's place among this worker's.
            instance_keys: the iterator that `keys` returned.
            tensors: this device's summands.
            token: this device's ordering token, where one graph has the sums of several devices:
                without it TensorFlow would begin each sum only when the one before has ended.
        """
        if self.size == 1 or not tensors:
            return list(tensors)
        group = _connected(self._names) if self._cluster.is_alone else None
        if group is not None:
            self._connection = group
            with tf.name_scope("all_reduce"):
                last = self._last.get(device)
                after = last if last is not None and last.graph is _graph() else None
                sums = all_reduce(tensors, group=group, rank=device, call=next(_CALLS), after=after)
            self._last[device] = sums[0]
            return sums
        tokens = [] if token is None else [token.handle]
        reduced = functools.partial(
            tf.raw_ops.CollectiveReduceV2, ordering_token=tokens, merge_op="Add", final_op="Id"
        )
        with tf.name_scope("all_reduce"):
            return [self._sum(reduced, device, next(instance_keys), tensor) for tensor in tensors]

    def abort(self) -> None:
        """Ends the sums in which GPUs of this process wait for one that failed. Programs that were
        traced before cannot sum any more; those of a new trainer connect the GPUs anew."""
        if self._connection is not None:
            end_group(self._connection)
            _connected.cache_clear()

    def _sum(
        self, reduced: Callable[..., tf.Tensor], device: int, key: int, tensor: tf.Tensor
    ) -> tf.Tensor:
        if self._kind != "hierarchical":
            # XLA does not look at the hint.
            hint = "auto" if self._cluster.is_alone else self._kind
            return reduced(
                input=tensor,
                group_size=self.size,
                group_key=self._group,
                instance_key=key,
                communication_hint=hint,
            )
        own = functools.partial(
            reduced,
            group_size=len(self._names),
            group_key=self._group + 2 + self._cluster.index,
            communication_hint="nccl",
        )
        tensor = own(input=tensor, instance_key=key)
        if device == 0:
            tensor = reduced(
                input=tensor,
                group_size=self._cluster.num_workers,
                group_key=self._group + 1,
                instance_key=key,
                communication_hint="ring",
            )
        else:  # only the first device holds the total: the others add zeros
            tensor = tf.zeros_like(tensor)
        return own(input=tensor, instance_key=key + _SECOND)


def _graph() -> tf.Graph:
    return tf.compat.v1.get_default_graph()


@functools.cache
def _connected(names: tuple[str, ...]) -> int | None:
    """Returns the number of the group of GPUs that NCCL connects, or None where NCCL connects none:
    on one device, on CPUs, and where the custom call is not available."""
    if len(names) == 1 or "GPU" not in names[0]:
        return None
    visible = tf.config.get_visible_devices("GPU")
    # The numbers of TensorFlow's physical devices are CUDA's.
    physical = [visible[int(name.rpartition(":")[2])].name for name in names]
    try:
        return group_of(tuple(int(name.rpartition(":")[2]) for name in physical))
    except UnavailableError as error:
        print(
            "note: TensorFlow's own all-reduce sums over the GPUs, which keeps a thread for 1,000 "
            f"seconds for each dispatch and GPU: {str(error).replace(f', {REMEDY}', '')}",
            file=sys.stderr,
        )
        return None


_SECOND = 5_000
"""The distance between the instance keys of the two sums within a worker: the one before the sum
between workers, and the one after it."""
