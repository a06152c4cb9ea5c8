"""A trainer's own copy of an optimizer, and the scale of the loss."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from harness.base.checks import require
from harness.model.budget import num_bytes
from harness.program.exchange import Gradients
from harness.program.strategy import OWN_COPIES

_INITIAL_SCALE = 2.0**15
_GROWTH_STEPS = 2_000
# The number of parts that one kernel tests separately for finite numbers; XLA combines so few
# answers in the kernel that reads them. The longest part, and the most rows of it, that it leaves
# whole.
_PARTS, _LONGEST, _DEEPEST = 31, 2**14, 8
_MADE_ANEW = {
    *("_iterations", "_learning_rate", "_variables", "_trainable_variables", "_tracker"),
    *("_trainable_variables_indices", "_distribution_strategy", "_lock", "built"),
    *("_all_reduce_sum_gradients", "_exclude_from_weight_decay_cache"),
}  # Attributes in which an optimizer keeps its variables


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


_EMA = "the averages have to begin with the training: set it when you make the optimizer"


class OptimizerPair:
    """The optimizer that a user holds, and its copy that trains: what is set on one of them is set
    on the other. `is_outdated` once that is something that programs hold as a constant."""

    def __init__(self, *both: keras.optimizers.Optimizer) -> None:
        self.given, self._both, self.is_outdated = both[0], both, False
        self._seen = [*map(_settings_of, both)]

    def agree(self) -> bool:
        """Sets on each what was set on the other since the last call; if on both, what was set on
        the given one. Returns whether anything was."""
        now, is_set = [*map(_settings_of, self._both)], False
        for name in now[0]:
            changed = [a.get(name) != b.get(name) for a, b in zip(now, self._seen, strict=True)]
            if not any(changed):
                continue
            require(name != "use_ema", "use_ema was set on the optimizer between fits; " + _EMA)
            source, target = self._both if changed[0] else self._both[::-1]
            value, held = getattr(source, name), getattr(target, name, None)
            if isinstance(value, keras.Variable) and isinstance(held, keras.Variable):
                held.assign(value.numpy())
            else:
                # Keras's setter drops the variable of a rate that becomes a schedule.
                setattr(target, "learning_rate" if name == "_learning_rate" else name, value)
                self.is_outdated = True
            is_set = True
        self._seen = [*map(_settings_of, self._both)] if is_set else now
        return is_set


def _settings_of(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Returns what can be compared: the numbers of variables, and no tensors left by a trace."""
    every = {**attributes_of(optimizer), "_learning_rate": optimizer._learning_rate}
    every = {name: value for name, value in every.items() if not tf.is_symbolic_tensor(value)}
    arrays = (keras.Variable, np.ndarray, tf.Tensor, tf.Variable)
    numbers = {n: np.asarray(v).tolist() for n, v in every.items() if isinstance(v, arrays)}
    return every | numbers


def kept_bytes(optimizer: keras.optimizers.Optimizer) -> int:
    """Returns an optimizer's bytes for each byte of a large weight: 2 for Adam, 0 for SGD."""
    with tf.device("/CPU:0"):
        trial = copy_of(optimizer)
        weight = keras.Variable("zeros", shape=(64, 64), name="weight")
        known = len(trial.variables)
        trial.build([weight])
    return sum(map(num_bytes, trial.variables[known:])) // num_bytes(weight)


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


def all_finite(tensors: Sequence[tf.Tensor], *, by_one_kernel: bool) -> tf.Tensor:
    """Returns whether all numbers are finite; on a GPU, one kernel tests all of them. To test each
    gradient by itself takes a kernel or two for each. Besides, XLA then computes a gradient
    beforehand, for the test and the update, instead of within the update's kernel."""
    if not by_one_kernel:
        return tf.reduce_all([tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors])
    finite = tf.concat(
        [tf.ones([0], tf.bool), *(tf.reshape(tf.math.is_finite(t), [-1]) for t in tensors)], axis=0
    )
    if finite.shape[0] == 0:
        return tf.constant(True)
    columns = math.ceil(finite.shape[0] / _PARTS)
    deep = math.ceil(columns / _LONGEST)
    if deep > _DEEPEST:
        return tf.reduce_all(finite)
    shape = [deep, _PARTS, math.ceil(columns / deep)]
    padded = tf.pad(finite, [[0, math.prod(shape) - finite.shape[0]]], constant_values=True)
    parts = tf.reduce_all(tf.reshape(padded, shape), axis=[0, 2])
    # Not `reduce_all` again: XLA would merge the two and split the result in its own way.
    return tf.reduce_min(tf.cast(parts, tf.float32)) > 0
