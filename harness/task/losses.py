"""Keras's losses and metrics, given by name or as objects."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras.src.losses.losses import LossFunctionWrapper
from keras.src.metrics.reduction_metrics import MeanMetricWrapper

from harness.base.checks import require
from harness.base.errors import InputError
from harness.model.heads import are_cast, are_logits, behind_casts, logits_behind
from harness.task.multinomial import Multinomial

ACCURACY = "accuracy"
_TAKEN = frozenset(
    {"loss", "step", "epoch", "num_steps", "seconds", "examples", "tokens", "telemetry"}
)
"""Names that no metric may have, since records use them for something else."""
_ACC = {
    "binary": "binary_accuracy",
    "multi_class": "sparse_categorical_accuracy",
    "multi_label": "categorical_accuracy",
}
"""What Keras's `compile` takes the metric "acc" for, by the kind of task."""
AnyLoss: TypeAlias = str | keras.losses.Loss | Callable[[Any, Any], Any]
AnyMetric: TypeAlias = str | keras.metrics.Metric | Callable[[Any, Any], Any]


def loss_of(loss: AnyLoss | None, kind: str) -> keras.losses.Loss:
    """Returns the loss that a user asked for; for None, cross-entropy, or for a regression the
    squared error."""
    if loss is None:
        if kind == "multinomial":
            return Multinomial()
        if kind == "regression":
            return keras.losses.MeanSquaredError()
        if kind == "multi_class":
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return keras.losses.BinaryCrossentropy(from_logits=True)
    if isinstance(loss, str | type):
        try:
            loss = keras.losses.get(loss)
        except ValueError as error:
            raise InputError(f"loss is {loss!r}, which Keras does not have by that name") from error
    if callable(loss) and not isinstance(loss, keras.losses.Loss):  # wrap it as Keras does
        loss = LossFunctionWrapper(loss, name=getattr(loss, "__name__", type(loss).__name__))
    if not isinstance(loss, keras.losses.Loss):
        raise InputError(f"loss is {loss!r}; give a keras.losses.Loss, its name, or a function")
    require(
        loss.reduction in ("sum_over_batch_size", "mean"),
        f"the loss {loss.name!r} has the reduction {loss.reduction!r}; a trainer divides the sum "
        "over a batch by its real rows: give reduction='sum_over_batch_size'",
    )
    return loss


def is_sparse(loss_or_metric: Any) -> bool:
    """Whether a loss or metric compares with class numbers, as functions of the user's own do."""
    names = type(loss_or_metric).__name__, name_of(loss_or_metric)
    is_named_so = any(name.lower().startswith("sparse") for name in names)
    return is_named_so or is_own(loss_or_metric)


def name_of(loss_or_metric: Any) -> str:
    """Returns the name of the function that a loss or metric computes, else ""."""
    if isinstance(loss_or_metric, str):
        return loss_or_metric
    return getattr(_function(loss_or_metric) or loss_or_metric, "__name__", "")


def takes_outputs(metric: keras.metrics.Metric) -> bool:
    """Whether a metric gets outputs as they are: a function of the user's own, or one for logits,
    with from_logits=True or a threshold of 0."""
    thresholds: Any = getattr(metric, "thresholds", getattr(metric, "threshold", None))
    from_logits = getattr(metric, "from_logits", getattr(metric, "_from_logits", False))
    return bool(from_logits) or np.array_equal(np.unique(thresholds), [0]) or is_own(metric)


class Given(NamedTuple):
    """A model's outputs [B, K] in float32."""

    logits: tf.Tensor | None  # None if only the probabilities are known
    probabilities: tf.Tensor
    are_probabilities: bool  # Whether the model gave probabilities

    @property
    def outputs(self) -> tf.Tensor:
        return self.probabilities if self.are_probabilities else self.logits


def read(outputs: tf.Tensor, head: str, loss: keras.losses.Loss, *, is_given: bool) -> Given:
    """Returns outputs as logits and as probabilities, which `head` makes of logits. If a sigmoid,
    a softmax or a weight does not tell what they are, a loss that the user gave does, as in
    Keras."""
    require(
        getattr(outputs, "_keras_mask", None) is None,
        "the model's outputs have a mask, by which Keras leaves rows out of the loss; leave out "
        "what masks them, and give such rows the weight 0",
    )
    numbers = tf.cast(outputs, tf.float32)
    if head == "linear":
        return Given(numbers, numbers, False)
    takes_logits = is_given and getattr(loss, "from_logits", False)
    if (logits := logits_behind(outputs, head)) is not None:
        if takes_logits and are_cast(outputs):
            warnings.warn(
                f"the loss {loss.name!r} takes logits, but the model gives probabilities: the loss "
                f"gets the logits behind its {head}, where Keras does not see them behind a "
                "cast and takes the probabilities for logits; make the loss with from_logits=False",
                stacklevel=2,
            )
        return Given(tf.cast(logits, tf.float32), numbers, True)
    if takes_logits or are_logits(outputs):
        if is_given and not takes_logits and not takes_scores(loss):
            warnings.warn(
                f"the loss {loss.name!r} takes probabilities, but the model gives logits: the loss "
                f"gets a {head} of them, where Keras would give it the logits; end the model with "
                f"a {head}, or give a loss with from_logits=True",
                stacklevel=2,
            )
        return Given(numbers, keras.activations.get(head)(numbers), False)
    named = f"keras.losses.{type(loss).__name__}(from_logits=...), False for probabilities, True"
    named = "harness.Multinomial()" if isinstance(loss, Multinomial) else named
    require(
        is_given,
        f"the model ends in {behind_casts(outputs).type}, and the task has no loss that says "
        f"whether that gives probabilities or logits; give harness.Task a loss={named} for logits; "
        f"or end the model with a {head}, or with a Dense layer without activation; or set task: "
        "class numbers [rows] are multi_class, 0 and 1 [rows, classes] multi_label, and a "
        "regression takes outputs as they are",
    )
    return Given(None, numbers, True)


def is_own(loss_or_metric: Any) -> bool:
    """Whether a loss or metric is a function of the user's own."""
    module = getattr(_function(loss_or_metric), "__module__", None) or ""
    kinds = LossFunctionWrapper, MeanMetricWrapper, FunctionMetric
    return type(loss_or_metric) in kinds and not module.startswith("keras.")


def is_users_own(loss: keras.losses.Loss) -> bool:
    """Whether a loss is a function or a class of the user's own."""
    return is_own(loss) or not type(loss).__module__.startswith(("keras.", "harness."))


def takes_scores(loss: keras.losses.Loss) -> bool:
    """Whether a loss gets outputs as they are: a function of the user's own, or a hinge."""
    return is_own(loss) or name_of(loss).endswith("hinge")


class FunctionMetric(MeanMetricWrapper):
    """The mean of a function, which Keras's own copies would have to find by its name."""

    def __reduce__(self) -> Any:
        return type(self), (self._fn, self.name)


def _function(loss_or_metric: Any) -> Any:
    return getattr(loss_or_metric, "fn", getattr(loss_or_metric, "_fn", None))


def applied(loss: keras.losses.Loss, targets: Mapping[bool, Any], given: Given) -> tf.Tensor:
    """Returns the losses of the rows, [B, ...], or one loss of the batch. A function of the user's
    own gets outputs and class numbers as they are, a hinge outputs."""
    wanted, numbers = targets[is_sparse(loss)], given.probabilities
    if takes_scores(loss):
        wanted, numbers = tf.cast(wanted, loss.dtype), given.outputs
    elif getattr(loss, "from_logits", False):
        name, numbers = name_of(loss), given.logits
        # Keras's cross-entropies know the logits behind probabilities, too.
        require(
            not given.are_probabilities or (name.endswith("crossentropy") and "focal" not in name),
            f"the loss {loss.name!r} takes logits, but the model gives probabilities; end it with "
            "a Dense layer without activation, or make the loss with from_logits=False",
        )
    return loss.call(wanted, tf.cast(numbers, loss.dtype))


def metrics_of(
    metrics: Sequence[AnyMetric] | None, kind: str
) -> tuple[str | keras.metrics.Metric, ...]:
    """Returns the metrics that a user asked for, which all have different names; `accuracy` stays a
    name. None asks for the accuracy, for a regression the mean absolute error, and for a
    multinomial nothing."""
    if metrics is None:
        metrics = {"regression": ["mae"], "multinomial": []}.get(kind, [ACCURACY])
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        raise InputError(f"metrics is {metrics!r}; give a list of metrics")
    found: dict[str, str | keras.metrics.Metric] = {}
    for metric in metrics:
        require(
            metric not in (ACCURACY, "acc") or kind not in ("regression", "multinomial"),
            f"a {kind} has no accuracy; give metrics such as 'mae', 'r2_score', or of items "
            "harness.RecallAtK(20)",
        )
        if metric != ACCURACY and not isinstance(metric, keras.metrics.Metric):
            try:
                known = keras.metrics.get(_ACC.get(kind) if metric == "acc" else metric)
            except ValueError as error:
                raise InputError(
                    f"metric {metric!r}: Keras has none by that name; give a keras.metrics.Metric"
                ) from error
            if callable(known) and not isinstance(known, keras.metrics.Metric):  # as Keras does
                known = FunctionMetric(known, getattr(known, "__name__", type(known).__name__))
            if isinstance(metric, str):  # under the name given, as in Keras's logs
                known = type(known).from_config({**known.get_config(), "name": metric})
            metric = known
        if not isinstance(metric, str | keras.metrics.Metric):
            raise InputError(f"metric {metric!r} is no metric; give a keras.metrics.Metric")
        name = metric if isinstance(metric, str) else metric.name
        taken = name in found or name in _TAKEN
        require(not taken, f"a metric is called {name!r}, a name that is taken; give another name")
        found[name] = metric
    return tuple(found.values())
