"""Keras's losses and metrics, by their names or as its objects."""

import re
from collections.abc import Sequence
from typing import Any

import keras

from harness.errors import InputError

ACCURACY = "accuracy"
_TAKEN = frozenset(
    {"loss", "step", "epoch", "num_steps", "seconds", "examples", "tokens", "telemetry"}
)
"""Names that records have for something else."""


def loss_of(loss: str | keras.losses.Loss | None, kind: str) -> keras.losses.Loss:
    """The loss that a user asked for; None: cross-entropy for the kind of task.

    Raises:
        InputError: when Keras has none by that name, or it is no loss of rows.
    """
    if loss is None:
        if kind == "multi_class":
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return keras.losses.BinaryCrossentropy(from_logits=True)
    if isinstance(loss, str):
        try:
            found = keras.losses.get(loss)
        except ValueError as error:
            raise InputError(f"loss is {loss!r}, which Keras does not have by that name") from error
        loss = found if isinstance(found, keras.losses.Loss) else _made_by(found)
    if not isinstance(loss, keras.losses.Loss):
        raise InputError(f"loss is {loss!r}; give a keras.losses.Loss, or its name")
    if loss.reduction not in ("sum_over_batch_size", "mean"):
        raise InputError(
            f"the loss {loss.name!r} has the reduction {loss.reduction!r}; a trainer divides the "
            "sum over a batch by its real rows: give reduction='sum_over_batch_size'"
        )
    return loss


def _made_by(function: Any) -> keras.losses.Loss | None:
    """Keras's object for a function of Keras's, such as `BinaryCrossentropy()`."""
    wanted = function.__name__.replace("_", "")
    return next((k() for name, k in vars(keras.losses).items() if name.lower() == wanted), None)


def metrics_of(
    metrics: Sequence[str | keras.metrics.Metric],
) -> tuple[str | keras.metrics.Metric, ...]:
    """The metrics that a user asked for, each by a name of its own; `accuracy` stays a name.

    Raises:
        InputError: when Keras has none by that name, or a name is taken.
    """
    found: dict[str, str | keras.metrics.Metric] = {}
    for metric in metrics:
        if isinstance(metric, str) and metric != ACCURACY:
            try:
                metric = _numbered_no_more(keras.metrics.get(metric))
            except ValueError as error:
                raise InputError(
                    f"metric {metric!r}: Keras has none by that name; give a keras.metrics.Metric"
                ) from error
        if not isinstance(metric, str | keras.metrics.Metric):
            raise InputError(f"metric {metric!r} is no keras.metrics.Metric")
        name = metric if isinstance(metric, str) else metric.name
        if name in (*found, *_TAKEN):
            raise InputError(
                f"a metric is called {name!r}, a name that is taken; give it another name"
            )
        found[name] = metric
    return tuple(found.values())


def _numbered_no_more(metric: Any) -> Any:
    """Keras numbers the metrics that a process makes of a kind: `auc_1` is to be `auc`."""
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    name = re.sub(r"_\d+$", "", metric.name)
    return type(metric).from_config({**metric.get_config(), "name": name})
