"""Random optimizers of Keras, with options of every kind."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from benchmarks.differential.draw import Draw

K: Any = keras.optimizers
S: Any = keras.optimizers.schedules
RATES = {
    "SGD": (0.05, 0.5),
    **dict.fromkeys(("Adam", "AdamW", "Adamax", "Nadam"), (2e-3, 3e-2)),
    "Adagrad": (1e-2, 1e-1),
    "Adadelta": (0.2, 1.0),
    "RMSprop": (1e-3, 1e-2),
    "Lion": (1e-3, 5e-3),
    "Ftrl": (1e-2, 1e-1),
    **dict.fromkeys(("Lamb", "Adafactor"), (2e-3, 3e-2)),
    "Muon": (5e-3, 5e-2),
    "ScheduleFreeAdamW": (2e-3, 3e-2),
}
"""The range of learning rates of each optimizer."""


class Scaled(K.SGD):
    """An optimizer of the user's own whose `get_config` leaves an argument out."""

    def __init__(self, learning_rate: float = 0.01, scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.scale = scale

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(self.scale * tf.convert_to_tensor(gradient), variable, learning_rate)


class ByName(K.Optimizer):
    """An optimizer of the user's own that looks at names and shapes, and keeps a slot."""

    def build(self, variables: Any) -> None:
        if self.built:
            return
        super().build(variables)
        self.sums = [self.add_variable_from_reference(v, name="sum") for v in variables]

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        rate = tf.cast(learning_rate, variable.dtype)
        if "bias" in variable.name or len(variable.shape) == 1:
            rate *= 3
        total = self.sums[self._get_variable_index(variable)]
        gradient = tf.convert_to_tensor(gradient)  # an embedding's gradient has only its rows
        self.assign_add(total, 0.1 * gradient)
        self.assign_sub(variable, rate * (gradient + total))


class Waves(S.LearningRateSchedule):
    """A schedule of the user's own, without `get_config`."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, step: Any) -> Any:
        return self.rate * (1.2 + tf.sin(tf.cast(step, tf.float32)))


class Drawn(NamedTuple):
    """A drawn optimizer, still to be made."""

    words: str
    make: Callable[[keras.Model | None], keras.optimizers.Optimizer]
    """Makes the optimizer for a model, or for None if the trainer is given a function."""
    scheduled: bool  # Whether callbacks must leave the learning rate alone
    averages: bool  # Whether the optimizer keeps a moving average, which `SwapEMAWeights` needs


def draw_optimizer(draw: Draw, *, has_model: bool, large: bool) -> Drawn:
    """Draws a random optimizer, which can name variables if it `has_model` while it is made; with
    `large`, most that are drawn update tables by touched rows."""
    kinds = dict.fromkeys(RATES, 1.0) | {"SGD": 2, "Adam": 2, "AdamW": 2, "Muon": 1.5}
    kinds |= {"Scaled": 0.6, "ByName": 0.4}
    if large:
        kinds = {"SGD": 1, "Adam": 1.5, "AdamW": 0.2}
    kind = draw.weighted(kinds)
    low, high = RATES.get(kind, (0.02, 0.2))
    rate = draw.log_between(low, high)
    plain = large and draw.chance(0.7)
    options = {} if plain else _own_options(draw, kind)
    options |= {} if plain else _shared_options(draw, kind)
    schedule = None if plain or kind == "ByName" else _schedule(draw, rate)
    exclusion = draw.one(["names", "list", "one layer"]) if draw.chance(0.5) else None
    if kind not in ("AdamW", "Lion", "SGD", "ScheduleFreeAdamW") or not options.get("weight_decay"):
        exclusion = None
    if exclusion == "list" and not has_model:
        exclusion = "names"
    later = {} if plain or schedule else _set_afterwards(draw, kind, rate)
    if any(name.startswith(("clip", "global_clip")) for name in options):
        later.pop("clipvalue", None)
    scaled = draw.chance(0.005) and kind != "Lamb"
    words = [f"{kind}({', '.join(f'{k}={v}' for k, v in options.items())}) at {rate}"]
    words += [f"schedule {schedule[0]}"] if schedule else []
    words += [f"excluded by {exclusion}"] if exclusion else []
    words += [f"set afterwards {later}"] if later else []
    words += ["in a LossScaleOptimizer"] if scaled else []

    def make(model: keras.Model | None) -> keras.optimizers.Optimizer:
        maker: Any = {"Scaled": Scaled, "ByName": ByName}.get(kind) or getattr(K, kind)
        given = schedule[1]() if schedule else rate
        optimizer = maker(learning_rate=given, **options)
        if exclusion == "list":
            assert model is not None
            listed = [v for v in model.trainable_variables if len(v.shape) == 2][:1]
            optimizer.exclude_from_weight_decay(var_list=listed)
        elif exclusion is not None:
            names = ["out/"] if exclusion == "one layer" else ["bias", "table"]
            optimizer.exclude_from_weight_decay(var_names=names)
        for name, value in later.items():
            setattr(optimizer, name, value)
        return K.LossScaleOptimizer(optimizer, initial_scale=1024.0) if scaled else optimizer

    averages = bool(options.get("use_ema"))
    return Drawn(", ".join(words), make, schedule is not None, averages)


def _own_options(draw: Draw, kind: str) -> dict[str, Any]:
    """Draws options of one kind of optimizer."""
    beta_1, beta_2 = draw.one([0.9, 0.8, 0.5]), draw.one([0.999, 0.99, 0.9])
    if kind in ("SGD", "Scaled"):
        momentum = draw.one([0.0, 0.0, 0.9, 0.5])
        options = {"momentum": momentum, "nesterov": draw.chance(0.4) and momentum > 0}
        return options | ({"scale": 3.0} if kind == "Scaled" else {})
    if kind in ("Adam", "AdamW"):
        return {"beta_1": beta_1, "beta_2": beta_2, "amsgrad": draw.chance(0.3)}
    if kind in ("Adamax", "Nadam", "Lamb", "Lion", "ScheduleFreeAdamW"):
        return {"beta_1": beta_1, "beta_2": beta_2}
    if kind == "Adagrad":
        return {"initial_accumulator_value": draw.one([0.1, 0.01])}
    if kind == "Adadelta":
        return {"rho": draw.one([0.95, 0.8])}
    if kind == "RMSprop":
        return {
            "rho": draw.one([0.9, 0.8]),
            "momentum": draw.one([0.0, 0.9]),
            "centered": draw.chance(0.4),
            "epsilon": 1e-4,
        }
    if kind == "Ftrl":
        return {"l2_regularization_strength": draw.one([0.0, 0.01]), "beta": draw.one([0.0, 0.1])}
    if kind == "Adafactor":
        return {"relative_step": draw.chance(0.5), "clip_threshold": draw.one([1.0, 0.5])}
    if kind == "Muon":
        exclude = draw.one([None, ["out"], ["hidden_0", "table"], ["out", "encode"]])
        return {
            "exclude_layers": exclude,
            "exclude_embeddings": draw.chance(0.5),
            "adam_weight_decay": draw.one([0.0, 0.5]),
            "adam_lr_ratio": draw.one([1, 0.3]),
            "nesterov": draw.chance(0.5),
        }
    return {}


def _shared_options(draw: Draw, kind: str) -> dict[str, Any]:
    """Draws options that all optimizers have."""
    options: dict[str, Any] = {}
    decay = draw.one([0.5, 2.0, 5.0])
    takes_decay = kind not in ("Adagrad", "Ftrl", "ByName", "Scaled")
    if takes_decay and draw.chance(0.75 if kind in ("AdamW", "Lion", "Muon") else 0.2):
        options["weight_decay"] = decay
    clip = draw.weighted({None: 6, "clipnorm": 1, "global_clipnorm": 1, "clipvalue": 1})
    value = draw.log_between(0.01, 1)
    if clip is not None:
        options[clip] = value
    frequency = draw.one([None, None, 2, 3])
    momentum = draw.one([0.5, 0.8, 0.95])
    if draw.chance(0.15) and kind != "ScheduleFreeAdamW":
        options |= {"use_ema": True, "ema_momentum": momentum, "ema_overwrite_frequency": frequency}
    steps = draw.integer(2, 3)
    if draw.chance(0.12):
        options["gradient_accumulation_steps"] = steps
    return options | ({"name": "by_name"} if kind == "ByName" else {})


def _schedule(draw: Draw, rate: float) -> tuple[str, Callable[[], S.LearningRateSchedule]] | None:
    steps = draw.integer(3, 12)
    made: dict[str, Callable[[], S.LearningRateSchedule]] = {
        "ExponentialDecay": lambda: S.ExponentialDecay(rate, steps, 0.3),
        "stairs": lambda: S.ExponentialDecay(rate, 2, 0.5, staircase=True),
        "CosineDecay": lambda: S.CosineDecay(rate / 3, steps, warmup_target=rate, warmup_steps=3),
        "PiecewiseConstantDecay": lambda: S.PiecewiseConstantDecay(
            [2, 5], [rate, rate / 2, rate / 5]
        ),
        "PolynomialDecay": lambda: S.PolynomialDecay(rate, steps, rate / 10, power=2.0),
        "InverseTimeDecay": lambda: S.InverseTimeDecay(rate, 2, 0.5),
        "Waves": lambda: Waves(rate),
    }
    name = draw.one(list(made))
    return (name, made[name]) if draw.chance(0.25) else None


def _set_afterwards(draw: Draw, kind: str, rate: float) -> dict[str, Any]:
    """Draws attributes that a user sets on an existing optimizer."""
    options: dict[str, Any] = {
        "learning_rate": rate / 2,
        "clipvalue": 0.05,
        "beta_1": 0.6,
        "momentum": 0.7,
        "nesterov": True,
        "epsilon": 1e-3,
    }
    has = {
        "beta_1": kind in ("Adam", "AdamW", "Nadam", "Adamax", "Lion", "Lamb"),
        "momentum": kind == "RMSprop",
        "nesterov": kind == "Muon",
        "epsilon": kind in ("Adam", "AdamW", "RMSprop", "Adagrad"),
    }
    known = [name for name in options if has.get(name, True)]
    name = draw.one(known)
    return {name: options[name]} if draw.chance(0.1) else {}
