"""How tensors are summed over the devices of all workers.

On the GPUs of one process a custom call sums, by NCCL (`kernels.all_reduce`). Between processes
the operation is the one behind tf.distribute's own all-reduces, which TensorFlow runs: by NCCL
where its hint says so, else by a ring over gRPC, through the host's memory.
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
"""Beyond those that tf.distribute gives out."""
_KEYS_OF_GROUP = 100_000
"""One of all devices, one of the first of each worker, and one for the devices of each worker."""
_GROUPS: dict[tuple[str, ...], int] = {}
"""TensorFlow tells groups of devices apart by keys, which are the same in all workers."""
_FIRST_KEYS = itertools.count(0, 10_000)
"""By these TensorFlow tells apart the tensors that a group sums, each of which has one shape, of
which one program has fewer than half the step."""


def settled_all_reduce(
    asked: Literal["auto", "nccl", "hierarchical", "ring"],
    *,
    device_type: str,
    num_devices: int,
    num_workers: int,
) -> Kind:
    """How gradients are summed.

    Args:
        asked: what --all-reduce says.
        device_type: `CPU` or `GPU`.
        num_devices: of this worker.
        num_workers: processes that train together.

    Raises:
        InputError: when what was asked for does not apply to these devices.
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
        f"--all-reduce {asked} does not apply to the devices of this run, {where}: {why}; set "
        "--all-reduce auto"
    )


class AllReduce:
    """Sums over the devices of all workers."""

    def __init__(self, names: tuple[str, ...], cluster: Cluster, kind: Kind) -> None:
        """Args:
        names: of the devices of this worker.
        cluster: its workers have as many devices each.
        kind: settled.
        """
        self._names = names
        self._cluster = cluster
        self._kind = kind
        self.size = len(names) * cluster.num_workers
        """Devices of all workers."""
        number = _GROUPS.setdefault(names, len(_GROUPS))
        self._group = _FIRST_GROUP_KEY + number * _KEYS_OF_GROUP
        self._first_keys: dict[Hashable, int] = {}
        self._last: dict[int, tf.Tensor] = {}
        """Of each device: the next sum waits for it, so that all devices sum in one order."""

    def keys(self, program: Hashable) -> Iterator[int]:
        """Keys for the tensors of a program, in order. All workers ask for programs in one order,
        and every device of a worker for each."""
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
        """The sums of tensors, traced on a device.

        Args:
            device: which of this worker's.
            instance_keys: of `keys`.
            tensors: of this device.
            token: of this device, where one graph has the sums of several, each of which
                TensorFlow would otherwise begin when the one before it has ended.
        """
        if self.size == 1 or not tensors:
            return list(tensors)
        group = _connected(self._names) if self._cluster.is_alone else None
        if group is not None:
            with tf.name_scope("all_reduce"):
                last = self._last.get(device)
                after = last if last is not None and last.graph is _graph() else None
                call = next(instance_keys)
                sums = all_reduce(tensors, group=group, rank=device, call=call, after=after)
            self._last[device] = sums[0]
            return sums
        tokens = [] if token is None else [token.handle]
        reduced = functools.partial(
            tf.raw_ops.CollectiveReduceV2, ordering_token=tokens, merge_op="Add", final_op="Id"
        )
        with tf.name_scope("all_reduce"):
            return [self._sum(reduced, device, next(instance_keys), tensor) for tensor in tensors]

    def abort(self) -> None:
        """Ends the sums that GPUs of this process wait in, for one that failed."""
        group = _connected(self._names) if self._cluster.is_alone else None
        if group is not None:
            end_group(group)
            _connected.cache_clear()  # programs that are traced from now on connect anew

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
        else:  # what the first device knows is added to nothing
            tensor = tf.zeros_like(tensor)
        return own(input=tensor, instance_key=key + _SECOND)


def _graph() -> tf.Graph:
    return tf.compat.v1.get_default_graph()


@functools.cache
def _connected(names: tuple[str, ...]) -> int | None:
    """The number of the group of several GPUs that NCCL connects."""
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
"""Between the keys of the sums within a worker before and after the one between workers."""
