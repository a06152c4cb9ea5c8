"""What scripts do between the fits of one model."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np

from benchmarks.differential.draw import Draw
from benchmarks.differential.optimizers import Drawn
from benchmarks.differential.rows import Labelled
from benchmarks.differential.tasks import LOSSES, METRICS, ON_LOGITS, DrawnTask

KINDS = {
    "rate": 2, "schedule": 1, "clipnorm": 1, "attribute": 1.5, "freeze": 2, "freeze and thaw": 1,
    "weights": 1, "compile": 2, "error": 2, "evaluate": 2,
}  # fmt: skip
"""What may happen before another fit, with weights."""
_ATTRIBUTES = ("momentum", "beta_1", "rho", "adam_beta_1", "weight_decay")
_HOOKS = (
    "on_train_begin", "on_epoch_begin", "on_epoch_end", "on_test_begin", "on_test_end",
    "on_train_end",
)  # fmt: skip


class Turn(NamedTuple):
    """What happens between two fits."""

    kind: str  # A key of `KINDS`
    place: int  # The number of the layer or the attribute, modulo how many there are
    factor: float  # Of a rate or of weights
    hook: str  # The hook that raises an error
    on_own: bool  # Whether attributes are set on the optimizer that trains, not on the given one


class Side(Protocol):
    """A model with its optimizer, in the trainer or in Keras."""

    @property
    def model(self) -> keras.Model: ...
    def optimizer(self, *, own: bool) -> keras.optimizers.Optimizer: ...
    def fit(self, epochs: int, callbacks: Sequence[keras.callbacks.Callback] = ()) -> Any:
        """Trains on the rows in their own order; returns the history."""

    def evaluate(self, rows: Labelled) -> dict[str, float]: ...
    def predict(self, rows: Labelled) -> np.ndarray: ...
    def compile(self, task: DrawnTask) -> None:
        """Gives the model another task, and the optimizer as it was at first."""

    def refrozen(self) -> None:
        """Is called after a layer's `trainable` was set."""


class _Breaking(keras.callbacks.Callback):
    """Raises an error at a hook, but not before the first epoch."""

    def __init__(self, hook: str) -> None:
        super().__init__()
        self.hook = hook
        setattr(self, hook, self._break)

    def _break(self, index: Any = None, logs: Any = None) -> None:
        if (self.hook, index) != ("on_epoch_begin", 0):
            raise ZeroDivisionError


def draw_turns(draw: Draw, optimizer: Drawn, callbacks: Sequence[str]) -> tuple[Turn, ...]:
    """Draws up to two turns for an optimizer and the words of callbacks."""
    kinds = dict(KINDS)
    if optimizer.scheduled:
        del kinds["rate"]
    if optimizer.averages:  # Keras takes averages by the places of the weights to train
        kinds = {kind: weight for kind, weight in kinds.items() if "freeze" not in kind}
    if any(word.startswith(("Reduce", "LearningRate", "Decayed")) for word in callbacks):
        del kinds["schedule"]
    number = draw.weighted({0: 6, 1: 3, 2: 1})
    return tuple(
        Turn(
            kind=draw.weighted(kinds),
            place=draw.integer(0, 5),
            factor=draw.one([0.0, 0.3, 2.0]),
            hook=draw.one(_HOOKS),
            on_own=draw.chance(0.4),
        )
        for _ in range(number)
    )


def other_task(task: DrawnTask, place: int) -> DrawnTask:
    """Returns the task with other metrics and, of the same kind, another loss."""
    on_logits = getattr(task.loss(), "from_logits", False)
    losses = (ON_LOGITS if on_logits and task.form in ON_LOGITS else LOSSES)[task.form]
    focal = task.ending is not None and on_logits and task.head is not None
    names = [name for name in losses if not (focal and "focal" in name)]
    metrics = [] if task.soft else list(METRICS[task.form])
    loss = losses[names[place % len(names)]]
    return replace(task, loss=loss, metrics=tuple(metrics[place : place + 2]))


def take_turn(side: Side, turn: Turn, task: DrawnTask, others: Labelled) -> dict[str, Any]:
    """Does what comes before another fit, and that fit; returns what they show."""
    shown = _changed(side, turn, task, others)
    return {**shown, **{f"fit {name}": list(v) for name, v in side.fit(1).history.items()}}


def _changed(side: Side, turn: Turn, task: DrawnTask, others: Labelled) -> dict[str, Any]:
    optimizer = side.optimizer(own=turn.on_own)
    layers = [
        layer
        for layer in side.model.layers
        if layer.trainable_weights and all(part.trainable for part in layer._flatten_layers())
    ]
    layer = layers[turn.place % len(layers)] if layers else None
    if turn.kind == "rate":
        optimizer.learning_rate = turn.factor * float(optimizer.learning_rate)
    elif turn.kind == "schedule":
        optimizer.learning_rate = keras.optimizers.schedules.CosineDecay(0.02, 20)
    elif turn.kind == "clipnorm" and not (optimizer.clipvalue or optimizer.global_clipnorm):
        optimizer.clipnorm = 0.05
    elif turn.kind == "attribute":
        known = [name for name in _ATTRIBUTES if getattr(optimizer, name, None)]
        for name in known[turn.place % len(known) :][:1] if known else ():
            setattr(optimizer, name, 0.5 * getattr(optimizer, name))
    elif turn.kind.startswith("freeze") and len(layers) > 1 and layer is not None:
        layer.trainable = False
        side.refrozen()
        if turn.kind == "freeze and thaw":
            side.fit(1)
            layer.trainable = True
            side.refrozen()
    elif turn.kind == "weights" and layer is not None:
        layer.set_weights([(0.5 + turn.factor) * weights for weights in layer.get_weights()])
    elif turn.kind == "compile":
        side.compile(other_task(task, turn.place))
    elif turn.kind == "error":
        with contextlib.suppress(ZeroDivisionError):
            side.fit(2, [_Breaking(turn.hook)])
    elif turn.kind == "evaluate":
        return {"predicted": side.predict(others), **side.evaluate(others)}
    return {}
