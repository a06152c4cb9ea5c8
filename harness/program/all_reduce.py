"""All-reduces: sums of tensors over the devices of all workers, and what layers sum by them.

On the GPUs of one process a custom call sums, by NCCL (`kernels.all_reduce`). Between processes
TensorFlow runs the collective operation that tf.distribute also uses: by NCCL where its hint says
so, else by a ring over gRPC, through the host's memory.
"""

import contextlib
import functools
import itertools
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Literal

import keras
import tensorflow as tf

from harness.base.errors import InputError
from harness.feed.batch import ReplicaBatch
from harness.program.strategy import this_replica
from harness.workers.cluster import Cluster
from kernels.all_reduce import all_reduce, end_group, group_of
from kernels.multi_hot.native.build import REMEDY
from kernels.multi_hot.registry import UnavailableError

Kind = Literal["nccl", "ring"]

# The lowest group key: above the keys that tf.distribute gives out.
_FIRST_GROUP_KEY = 1_000_000
# A group's key for each tuple of device names, by which TensorFlow knows it in all workers.
_GROUPS: dict[tuple[str, ...], int] = {}
# Numbers of the traced sums over the GPUs of this process.
_CALLS = itertools.count()
# The first instance key of each program. TensorFlow tells the tensors that a group sums, each of
# one shape, apart by instance keys; a program has fewer than 10,000 of them.
_FIRST_KEYS = itertools.count(0, 10_000)


def resolved_all_reduce(
    asked: Literal["auto", "nccl", "ring"], *, device_type: str, num_devices: int, num_workers: int
) -> Kind:
    """Returns the kind of all-reduce, from the value of --all-reduce and this worker's devices."""
    usual: Kind = "nccl" if device_type == "GPU" else "ring"
    if asked in ("auto", usual):  # which config.json says of a run on one device, too
        return usual
    if asked == "ring" and num_workers > 1:
        return asked
    raise InputError(
        f"--all-reduce={asked} does not apply to the devices of this run, {num_workers} x "
        f"{num_devices} {device_type}: nccl is for GPUs, and ring for CPUs and between processes; "
        "set --all-reduce=auto"
    )


class AllReduce:
    """Sums over the devices of all workers, each of which has as many."""

    def __init__(self, names: tuple[str, ...], cluster: Cluster, kind: Kind) -> None:
        """`names` are those of this worker's devices."""
        self._names = names
        self._cluster = cluster
        self._kind = kind
        # The number of devices of all workers.
        self.size = len(names) * cluster.num_workers
        self._group = _GROUPS.setdefault(names, _FIRST_GROUP_KEY + len(_GROUPS))
        self._first_keys: dict[Hashable, int] = {}
        # The group of the sums that were traced by `kernels.all_reduce`.
        self._connection: int | None = None
        # Each device's last sum in the graph being traced, for which the next waits: all devices
        # sum in one order.
        self._last: dict[int, tf.Tensor] = {}

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
        """Returns the sums of the tensors, traced on a device of this worker, with the keys of its
        program. Where one graph has the sums of several devices, each needs an ordering token:
        without it TensorFlow would begin a sum only when the one before has ended."""
        if self.size == 1 or not tensors:
            return list(tensors)
        group = _connected(self._names) if self._cluster.is_alone else None
        if group is not None:
            self._connection = group
            with tf.name_scope("all_reduce"):
                last = self._last.get(device)
                is_here = last is not None and last.graph is tf.compat.v1.get_default_graph()
                after = last if is_here else None
                sums = all_reduce(tensors, group=group, rank=device, call=next(_CALLS), after=after)
            self._last[device] = sums[0]
            return sums
        with tf.name_scope("all_reduce"):
            return [
                tf.raw_ops.CollectiveReduceV2(
                    input=tensor,
                    group_size=self.size,
                    group_key=self._group,
                    instance_key=next(instance_keys),
                    ordering_token=[] if token is None else [token.handle],
                    merge_op="Add",
                    final_op="Id",
                    # XLA does not look at the hint.
                    communication_hint="auto" if self._cluster.is_alone else self._kind,
                )
                for tensor in tensors
            ]

    def gather(self, instance_key: int, vector: tf.Tensor, *, token: tf.Variable) -> tf.Tensor:
        """Returns all workers' and devices' vectors, of one length, joined; ordered by a token."""
        with tf.name_scope("all_gather"):
            return tf.raw_ops.CollectiveGatherV2(
                input=vector,
                group_size=self.size,
                group_key=self._group,
                instance_key=instance_key,
                ordering_token=[token.handle],
                communication_hint=self._kind,
            )

    def abort(self) -> None:
        """Ends the sums in which GPUs of this process wait for one that failed. Programs that were
        traced before cannot sum any more; those of a new trainer connect the GPUs anew."""
        if self._connection is not None:
            end_group(self._connection)
            _connected.cache_clear()


@functools.cache
def _connected(names: tuple[str, ...]) -> int | None:
    """Returns the number of the group of GPUs that NCCL connects, or None if it connects none."""
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


def needs_all_rows(model: keras.Model) -> bool:
    """Whether a model normalizes over the rows of a whole batch, so that replicas sum within it."""
    return any(layer.trainable for layer in _normalizations(model))


@contextlib.contextmanager
def over_all_rows(model: keras.Model, batch: ReplicaBatch) -> Iterator[None]:
    """Makes the model's BatchNormalization layers normalize over all replicas' rows in the block,
    as one device does: one batch, one mean and variance."""
    layers = [la for la in _normalizations(model) if la.synchronized or batch.num_replicas > 1]
    for layer in layers:
        layer._moments = functools.partial(_moments, layer, batch)
    try:
        yield
    finally:
        for layer in layers:
            del layer._moments


def _normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    layers = model._flatten_layers()
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def _moments(
    layer: keras.layers.BatchNormalization,
    batch: ReplicaBatch,
    inputs: tf.Tensor,
    mask: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the mean and variance [features] of `inputs` [rows, ..., features] in the mask."""
    axes = [axis for axis in range(inputs.shape.rank) if axis != layer.axis % inputs.shape.rank]
    total = this_replica().total

    @tf.custom_gradient
    def over_replicas(own: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        # The gradients that flow back are summed as well.
        return total([own])[0], lambda gradient: total([gradient])[0]

    def sums(values: tf.Tensor) -> tf.Tensor:
        if mask is not None:
            values = tf.where(tf.cast(mask, tf.bool)[..., None], values, 0.0)
        # Multiply, even by 0: every replica must take part in the sums of the backward pass.
        return over_replicas(tf.reduce_sum(values, axis=axes, keepdims=True) * (batch.num_rows > 0))

    count = batch.batch_rows * inputs.shape[1:].num_elements() / inputs.shape[layer.axis]
    if mask is not None:
        count = sums(tf.ones_like(inputs)) + keras.backend.epsilon()
    means = sums(inputs) / count
    variances = sums(tf.square(inputs - means)) / count
    return tf.reshape(means, [-1]), tf.reshape(variances, [-1])
