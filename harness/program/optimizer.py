"""Keras's optimizers, by name, their learning rate over the steps, and the scale of the loss."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import keras
import tensorflow as tf
from keras.optimizers.schedules import LearningRateSchedule

from harness.base.errors import InputError
from harness.model.budget import num_bytes
from harness.program.exchange import Gradients
from harness.program.strategy import OWN_COPIES

_INITIAL_SCALE = 2.0**15
_GROWTH_STEPS = 2_000
Schedule = Literal["constant", "cosine", "exponential", "linear"]
OptimizerFactory = partial[keras.optimizers.Optimizer]
"""Makes an optimizer once the devices are chosen: before, its variables would start TensorFlow with
all memory of every GPU."""
_BY_NAME: dict[str, Callable[..., keras.optimizers.Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(keras.optimizers).items()
    if inspect.isclass(kind)
    and issubclass(kind, keras.optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer", "OptimizerMap")
}
_MADE_ANEW = {
    *("_iterations", "_learning_rate", "_variables", "_trainable_variables", "_tracker"),
    *("_trainable_variables_indices", "_distribution_strategy", "_lock", "built"),
    "_all_reduce_sum_gradients",
}  # Attributes in which an optimizer keeps its variables


def optimizer_of(
    optimizer: str | OptimizerFactory | keras.optimizers.Optimizer,
) -> OptimizerFactory | keras.optimizers.Optimizer:
    """Returns what was given, or the factory of Keras's optimizer of that name."""
    if isinstance(optimizer, str):
        return optimizer_factory(optimizer)
    if isinstance(optimizer, partial):
        return optimizer
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise InputError(
            f"optimizer is {type(optimizer).__name__}; give a keras.optimizers.Optimizer, or a name"
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer | keras.optimizers.MultiOptimizer):
        raise InputError(
            f"optimizer is a {type(optimizer).__name__}, which a trainer cannot use; give one inner"
            " optimizer: the trainer scales the loss by itself where the precision needs it"
        )
    if optimizer.built:
        raise InputError(
            f"the optimizer {optimizer.name!r} belongs to the variables of another model, where it "
            "was used before; give a new one"
        )
    return optimizer


def attributes_of(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Returns all attributes set on an optimizer, Keras's own collections as plain ones."""
    return {
        name: next((kind(value) for kind in (list, dict, set) if isinstance(value, kind)), value)
        for name, value in vars(optimizer).items()
        if name not in _MADE_ANEW and not name.startswith("_self_")
    }


def copy_of(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns a copy with every attribute, even if the config lacks it, and new variables here, for
    gradients that are summed over all replicas already: `harness.program.strategy` says how."""
    made = object.__new__(type(optimizer))
    rate = optimizer._learning_rate
    rate = float(rate.numpy()) if isinstance(rate, keras.Variable) else rate
    keras.optimizers.Optimizer.__init__(made, rate, name=optimizer.name)
    made._iterations.assign(optimizer._iterations)
    for name, value in attributes_of(optimizer).items():
        if isinstance(value, keras.Variable):  # of a subclass's own
            kind = {"dtype": value.dtype, "trainable": value.trainable, "name": value.name}
            value = keras.Variable(value.numpy(), **kind)
        setattr(made, name, value)
    made.loss_scale_factor = None  # of the loss, which nothing multiplies by it here
    made._distribution_strategy = OWN_COPIES
    made._all_reduce_sum_gradients = list
    return made


def kept_bytes(optimizer: keras.optimizers.Optimizer) -> int:
    """Returns an optimizer's bytes for each byte of a large weight: 2 for Adam, 0 for SGD."""
    with tf.device("/CPU:0"):
        trial = copy_of(optimizer)
        weight = keras.Variable("zeros", shape=(64, 64), name="weight")
        known = len(trial.variables)
        trial.build([weight])
    return sum(map(num_bytes, trial.variables[known:])) // num_bytes(weight)


def config_of(optimizer: OptimizerFactory | keras.optimizers.Optimizer) -> dict[str, Any]:
    if isinstance(optimizer, partial):
        settings = keras.saving.serialize_keras_object(optimizer.keywords)
        return {"optimizer": optimizer.func.__name__, **settings}
    try:
        settings = optimizer.get_config()
    except NotImplementedError:  # a schedule of the user's own, without get_config
        settings = {"learning_rate": type(optimizer._learning_rate).__name__}
    settings.pop("name", None)  # it counts the optimizers that the process has made
    return {"optimizer": type(optimizer).__name__, **settings}


def optimizer_factory(
    optimizer: str,
    *,
    learning_rate: float | None = None,
    clip_norm: float | None = None,
    weight_decay: float | None = None,
    learning_rate_schedule: Schedule = "constant",
    warmup: int = 0,
    num_steps: int = 0,
) -> OptimizerFactory:
    """Returns the factory of Keras's optimizer of a name, in any case, with Keras's defaults for
    all settings that are left out. `clip_norm` limits the gradients' global norm; `weight_decay` is
    the share of itself that a weight loses in a step, divided by the learning rate, which rises
    over `warmup` of the `num_steps` and falls by the schedule after them."""
    kind = _BY_NAME.get(optimizer.lower())
    if kind is None:
        raise InputError(
            f"--optimizer is '{optimizer}', which Keras does not have; "
            f"choose one of {', '.join(sorted(_BY_NAME))}"
        )
    settings: dict[str, Any] = {}
    if learning_rate is not None:
        settings["learning_rate"] = learning_rate
    if learning_rate_schedule != "constant" or warmup:
        if warmup >= num_steps:
            raise InputError(
                f"--warmup is {warmup}, but the training has {num_steps} steps; "
                f"set --warmup to {max(num_steps - 1, 0)} or less"
            )
        default = inspect.signature(kind).parameters["learning_rate"].default
        peak = default if learning_rate is None else learning_rate
        settings["learning_rate"] = Scheduled(
            learning_rate_schedule, peak, warmup=warmup, num_steps=num_steps
        )
    if clip_norm is not None:
        settings["global_clipnorm"] = clip_norm
    if weight_decay is not None:
        settings["weight_decay"] = weight_decay
    return partial(kind, **settings)


@keras.saving.register_keras_serializable("harness")
class Scheduled(LearningRateSchedule):
    """A rate that rises linearly to the peak, then falls to 0, or `exponential` to 1 % of it."""

    def __init__(self, schedule: Schedule, peak: float, *, warmup: int, num_steps: int) -> None:
        self._schedule = schedule
        self._peak = peak
        self._warmup = warmup
        self._num_steps = num_steps

    def __call__(self, step: Any) -> Any:
        step = keras.ops.cast(step, "float32")
        done = (step - self._warmup) / (self._num_steps - self._warmup)
        done = keras.ops.clip(done, 0.0, 1.0)
        share = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": (1 + keras.ops.cos(math.pi * done)) / 2,
            "exponential": keras.ops.power(0.01, done),
        }[self._schedule]
        return self._peak * share * keras.ops.minimum((step + 1) / (self._warmup + 1), 1.0)

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": self._schedule,
            "peak": self._peak,
            "warmup": self._warmup,
            "num_steps": self._num_steps,
        }


class LossScale:
    """The factor on the loss for float16, and its history.

    Keras's LossScaleOptimizer decides from replica 0's own gradients before they are summed, so a
    NaN of another replica passes. The constants and the rule are Keras's: the scale doubles after
    2,000 finite steps in a row, and halves at a step that is not finite, whose update is skipped
    (Micikevicius et al., "Mixed Precision Training", 2018, section 3.2).
    """

    def __init__(self) -> None:
        self.scale = tf.Variable(_INITIAL_SCALE, trainable=False, name="loss_scale")
        self.finite_steps = tf.Variable(0, trainable=False, dtype=tf.int64)  # in a row
        self.skipped_steps = tf.Variable(0, trainable=False, dtype=tf.int64)  # since set to 0

    def named(self) -> dict[str, tf.Variable]:
        return {name: getattr(self, name) for name in ("scale", "finite_steps", "skipped_steps")}

    def update(self, finite: tf.Tensor) -> None:
        """Adapts the scale to a step whose gradients, summed over all replicas, were finite or
        not."""
        scale, steps = tf.convert_to_tensor(self.scale), tf.convert_to_tensor(self.finite_steps)
        steps_after = tf.where(finite & (steps + 1 < _GROWTH_STEPS), steps + 1, 0)
        other = tf.where(finite, scale * 2.0, tf.maximum(scale / 2.0, 1.0))
        self.scale.assign(tf.where(steps_after > 0, scale, other))
        self.finite_steps.assign(steps_after)
        self.skipped_steps.assign_add(tf.cast(~finite, tf.int64))


def unscaled(gradients: Gradients, scale: tf.Tensor) -> Gradients:
    """Returns gradients of any float dtype divided by a scale, float32 []."""

    def divided(gradient: tf.Tensor | tf.IndexedSlices) -> tf.Tensor | tf.IndexedSlices:
        if isinstance(gradient, tf.IndexedSlices):
            return tf.IndexedSlices(
                divided(gradient.values), gradient.indices, gradient.dense_shape
            )
        return tf.cast(tf.cast(gradient, tf.float32) / scale, gradient.dtype)

    weights = {name: divided(gradient) for name, gradient in gradients.weights.items()}
    rows = {name: row._replace(dy=divided(row.dy)) for name, row in gradients.rows.items()}
    return gradients._replace(weights=weights, rows=rows)
