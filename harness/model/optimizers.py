"""Keras's optimizers, by name, and their learning rate over the steps."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import keras
from keras.optimizers.schedules import LearningRateSchedule

from harness.base.errors import InputError

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


def config_of(optimizer: OptimizerFactory | keras.optimizers.Optimizer) -> dict[str, Any]:
    if isinstance(optimizer, partial):
        settings = keras.saving.serialize_keras_object(optimizer.keywords)
        return {"optimizer": optimizer.func.__name__, **settings}
    try:
        settings = optimizer.get_config()
    except NotImplementedError:  # a schedule of the user's own, without get_config
        settings = {"learning_rate": type(optimizer._learning_rate).__name__}
    settings.pop("name", None)  # it counts the optimizers that the process has made
    plain = keras.ops.convert_to_numpy  # of tensors, which users may set
    settings = {n: plain(v).tolist() if keras.ops.is_tensor(v) else v for n, v in settings.items()}
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
