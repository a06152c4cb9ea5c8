"""The tf.distribute strategy of a run: its variables, and the replica that a program is traced for.

Each device's program is traced in a `Replica` of the strategy, and begun from a thread of its own.
`Strategy.run` cannot begin it. Eagerly it calls one replica after the other (mirrored_run.py:169 in
TensorFlow 2.21), and a loop that waits in its sum for the next replica would wait forever. Within a
tf.function it makes one function of all replicas, which ends when all have ended: a device that
failed would keep the others waiting.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras.src.losses import loss as keras_loss
from tensorflow.python.distribute import distribute_lib
from tensorflow.python.distribute import values as distributed
from tensorflow.python.framework import ops

from harness.base.errors import InputError

Total = Callable[[Sequence[tf.Tensor]], list[tf.Tensor]]
"""Returns the sums of tensors over all replicas."""
_NONE = tf.VariableAggregation.NONE
_KINDS = (
    tf.distribute.OneDeviceStrategy,
    tf.distribute.MirroredStrategy,
    tf.distribute.MultiWorkerMirroredStrategy,
)


class Replica(tf.distribute.ReplicaContext):
    """The context in which one replica's program is traced; it holds what the trace has learned."""

    def __init__(self, strategy: tf.distribute.Strategy, replica_id: int, total: Total) -> None:
        super().__init__(strategy, replica_id)
        self.replica_id = replica_id
        self._total = total
        self.has_summed = False
        self.unused: tuple[str, ...] = ()  # names of weights that the loss does not depend on
        self._updates = False

    def __enter__(self) -> "Replica":
        super().__enter__()
        return self

    def total(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the sums of tensors over all replicas."""
        self.has_summed = True
        return self._total(tensors)

    def all_reduce(self, reduce_op: Any, value: Any, options: Any = None) -> Any:
        """Returns the SUM or MEAN of tensors over all replicas, with gradients."""
        kind = getattr(reduce_op, "value", reduce_op).upper()
        parts = [*map(_as_tensor, tf.nest.flatten(value))]
        if kind not in ("SUM", "MEAN"):
            raise InputError(f"all_reduce is called with {reduce_op!r}; it has SUM and MEAN")
        size = self.num_replicas_in_sync if kind == "MEAN" else 1

        @tf.custom_gradient
        def reduced(*own: tf.Tensor) -> Any:
            sums = [total / tf.cast(size, total.dtype) for total in self.total(own)]
            # The gradient of a sum over replicas is the sum of their gradients.
            return sums, lambda *above: self.all_reduce(kind, [*above])

        return tf.nest.pack_sequence_as(value, tf.nest.flatten(reduced(*parts)))

    def all_gather(self, value: Any, axis: int, options: Any = None) -> Any:
        raise InputError(
            "the model calls all_gather, which a trainer's programs lack; use all_reduce, of a "
            "tensor in which each replica fills its own part"
        )

    def merge_call(self, merge_fn: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function of Keras's optimizers, which update each variable in a merge call."""
        if not self._updates:
            raise InputError(
                "the model calls merge_call, or assigns a variable of the strategy that is none of "
                "its own; each replica's program is traced by itself: use all_reduce"
            )
        return merge_fn(OWN_COPIES, *args, **(kwargs or {}))

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """Surrounds an optimizer's update."""
        self._updates = True
        try:
            yield
        finally:
            self._updates = False


def _as_tensor(part: Any) -> tf.Tensor:
    if isinstance(part, tf.IndexedSlices):
        raise InputError("all_reduce is called with tf.IndexedSlices; give tensors")
    return tf.convert_to_tensor(part)


def this_replica() -> Replica:
    """Returns the replica whose program is being traced."""
    replica = tf.distribute.get_replica_context()
    assert isinstance(replica, Replica)
    return replica


class _OwnCopies:
    """What an optimizer of a trainer has for a strategy: each replica updates its own copies, by
    gradients that are summed over all replicas before."""

    @property
    def extended(self) -> "_OwnCopies":
        return self

    def update(self, variable: Any, fn: Any, args: Any = (), kwargs: Any = None, **_: Any) -> Any:
        return fn(variable, *args, **(kwargs or {}))

    def colocate_vars_with(self, variable: Any) -> contextlib.AbstractContextManager[None]:
        del variable
        return contextlib.nullcontext()


OWN_COPIES = _OwnCopies()


def _scale_loss_outside_of_replicas(scale: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(scale)
    def scaled(value: Any) -> Any:
        is_ours = isinstance(tf.distribute.get_replica_context(), Replica)
        return value if is_ours else scale(value)

    return scaled


# Under a strategy Keras divides the value of a loss object by the number of replicas, as for its
# own `fit`, which adds up theirs. A trainer weighs each replica's losses by its rows instead.
keras_loss.scale_loss_for_distribution = _scale_loss_outside_of_replicas(
    keras_loss.scale_loss_for_distribution
)


@functools.cache
def strategy_of(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """Returns the strategy of one process's devices, by TensorFlow's names."""
    if len(devices) == 1:
        return tf.distribute.OneDeviceStrategy(devices[0])
    return tf.distribute.MirroredStrategy(devices)


def name_of(strategy: tf.distribute.Strategy) -> str:
    """Returns the public name of a strategy's class."""
    names = ("OneDeviceStrategy", "MirroredStrategy", "MultiWorkerMirroredStrategy")
    return next(name for name in names if isinstance(strategy, getattr(tf.distribute, name)))


def devices_of(strategy: tf.distribute.Strategy) -> tuple[str, ...]:
    """Returns the short names of a strategy's devices, such as `/GPU:0`. Raises InputError unless
    they are GPUs, or CPUs, of this process."""
    if not isinstance(strategy, _KINDS) or strategy.extended._in_multi_worker_mode():
        shown = f"a {type(strategy).__name__}"
        if isinstance(strategy, _KINDS):
            shown += " of several workers, which a trainer makes by itself from TF_CONFIG or SLURM"
        raise InputError(
            f"strategy is {shown}; give a OneDeviceStrategy or a MirroredStrategy, or leave it out"
        )
    found = [tf.DeviceSpec.from_string(device) for device in strategy.extended.worker_devices]
    if len({device.device_type for device in found}) != 1:
        names = ", ".join(strategy.extended.worker_devices)
        raise InputError(f"strategy has the devices {names}; give one of GPUs alone, or CPUs")
    return tuple(f"/{device.device_type}:{device.device_index}" for device in found)


def own_strategy(
    strategy: tf.distribute.Strategy | None, model: Any
) -> tf.distribute.Strategy | None:
    """Returns the strategy that a user has given, or in whose scope a given model was made; not one
    that another trainer chose for its model's devices."""
    own = getattr(model, "_distribute_strategy", None) if isinstance(model, keras.Model) else None
    if own is not None and own is strategy_of(devices_of(own)):
        own = None
    if None not in (own, strategy) and own is not strategy:
        raise InputError(
            f"the model {model.name!r} was made in the scope of another {type(own).__name__} than "
            "the trainer's; make both with one strategy"
        )
    return own if strategy is None else strategy


@contextlib.contextmanager
def building(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Surrounds the making of a model: its variables are the strategy's, and its layers, which
    Keras calls to learn their shapes, find a replica that is alone in its sums. Workers make plain
    variables, for in a scope of several workers each would wait for the chief's value: those of
    different models would wait forever."""
    alone = not strategy.extended._in_multi_worker_mode()
    scope = strategy.scope() if alone else contextlib.nullcontext()
    with scope, Replica(strategy, 0, list):
        yield


@contextlib.contextmanager
def outside_scope() -> Iterator[tf.distribute.Strategy | None]:
    """Leaves a strategy's scope that the caller may be in, and yields the strategy: a trainer's own
    variables have copies on its devices, and its programs have replicas, without the scope."""
    if not tf.distribute.has_strategy():
        yield None
        return
    strategy = tf.distribute.get_strategy()
    local = ops.get_default_graph()._thread_local
    creators = local._variable_creator_stack
    distribute_lib._push_per_thread_mode(distribute_lib._get_default_replica_mode())
    local._variable_creator_stack = []
    try:
        yield strategy
    finally:
        local._variable_creator_stack = creators
        distribute_lib._pop_per_thread_mode()


class _Mirrored(distributed.MirroredVariable):
    """A variable of a strategy that callbacks can read as a number, like a plain variable."""

    def __int__(self) -> int:
        return int(self.numpy())

    def __float__(self) -> float:
        return float(self.numpy())


def copies_of(variable: tf.Variable) -> list[tf.Variable]:
    """Returns a variable's copies on the devices of this process; of a plain one, itself."""
    is_mirrored = isinstance(variable, tf.distribute.DistributedValues)
    return list(variable.values) if is_mirrored else [variable]


def with_copies(
    variable: tf.Variable,
    strategy: tf.distribute.Strategy,
    devices: Sequence[str],
    *,
    make: Callable[..., tf.Variable] = tf.Variable,
) -> tf.Variable:
    """Returns a variable of the strategy with a copy on each device, of which the given one, or
    its own copies, come first; for one device, its only copy."""
    copies = copies_of(variable)
    if len(devices) == 1:
        return copies[0]
    if len(copies) == len(devices) and variable.aggregation == _NONE:
        return variable
    for device in devices[len(copies) :]:
        with tf.device(device):
            name = variable.name.partition(":")[0]
            copies.append(make(copies[0].read_value(), trainable=variable.trainable, name=name))
    return _Mirrored(strategy, copies, _NONE)


@contextlib.contextmanager
def mirrored(strategy: tf.distribute.Strategy, devices: Sequence[str]) -> Iterator[None]:
    """Gives each variable that is made in the block a copy on each device."""

    def create(make: Callable[..., tf.Variable], **options: Any) -> tf.Variable:
        def another(value: tf.Tensor, **own: Any) -> tf.Variable:
            return make(**{**options, "initial_value": value, **own})

        return with_copies(make(**options), strategy, devices, make=another)

    with tf.device(devices[0]), tf.variable_creator_scope(create):
        yield
