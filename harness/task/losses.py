"""Keras's losses and metrics, given by name or as objects."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf
from keras.src.losses.losses import LossFunctionWrapper

from harness.base.checks import require
from harness.base.errors import InputError
from harness.task.multinomial import Multinomial, behind_casts

ACCURACY = "accuracy"
_TAKEN = frozenset(
    {"loss", "step", "epoch", "num_steps", "seconds", "examples", "tokens", "telemetry"}
)
"""Names that no metric may have, since records use them for something else."""
_NO_LOGITS = re.compile(
    "Sigmoid|(Log)?Softmax|Tanh|Relu6?|LeakyRelu|Elu|Selu|Softplus|Softsign|Exp|.*PartitionedCall"
)
"""TensorFlow's operations that return no logits, and function calls, which may end in one."""
AnyLoss: TypeAlias = str | keras.losses.Loss | Callable[[Any, Any], Any]


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
    """Whether a loss or metric compares with class numbers."""
    function = getattr(loss_or_metric, "fn", None)
    names = type(loss_or_metric).__name__, getattr(function, "__name__", "")
    return any(name.lower().startswith("sparse") for name in names)


class Given(NamedTuple):
    """A model's outputs [B, K] in float32."""

    logits: tf.Tensor
    probabilities: tf.Tensor
    ends_in_head: bool  # Whether the model gave probabilities


def read(outputs: tf.Tensor, head: str) -> Given:
    """Returns outputs as logits and as probabilities, which `head` makes of logits. Keras stores
    the input of its sigmoid or softmax as an attribute of the result; that of TensorFlow's own
    operations is known while a step is traced."""
    require(
        getattr(outputs, "_keras_mask", None) is None,
        "the model's outputs have a mask, by which Keras leaves rows out of the loss; leave out "
        "what masks them, and give such rows the weight 0",
    )
    numbers = tf.cast(outputs, tf.float32)
    if head == "linear":
        return Given(numbers, numbers, False)
    operation = behind_casts(outputs) if hasattr(outputs, "op") else None
    logits = getattr(outputs, "_keras_logits", None)
    if operation is not None and operation.type.lower() == head:
        logits = operation.inputs[0] if logits is None else logits
    elif operation is not None and _NO_LOGITS.fullmatch(operation.type):
        raise InputError(
            f"the model ends in a {operation.type.lower()}, but its task wants logits, or a {head} "
            "of them that no tf.function hides; end it with a Dense layer without activation, or "
            "set task: class numbers [rows] are multi_class, 0 and 1 [rows, classes] multi_label, "
            "and a regression takes outputs as they are"
        )
    if logits is None:
        return Given(numbers, keras.activations.get(head)(numbers), False)
    return Given(tf.cast(logits, tf.float32), numbers, True)


def applied(loss: keras.losses.Loss, targets: Mapping[bool, Any], given: Given) -> tf.Tensor:
    """Returns the losses of the rows, [B, ...], or one loss of the batch. A function of the user's
    own gets outputs and class numbers as they are; another loss gets `targets[is_sparse(loss)]`."""
    function = getattr(loss, "fn", None)
    name, module = (getattr(function, key, None) or "" for key in ("__name__", "__module__"))
    wanted, numbers = targets[is_sparse(loss)], given.probabilities
    if type(loss) is LossFunctionWrapper and not module.startswith("keras."):
        numbers = given.probabilities if given.ends_in_head else given.logits
        wanted = tf.cast(targets[True], loss.dtype)
    elif getattr(loss, "from_logits", False):
        numbers = given.logits
        # Keras's cross-entropies know the logits behind probabilities, too.
        require(
            not given.ends_in_head or (name.endswith("crossentropy") and "focal" not in name),
            f"the loss {loss.name!r} takes logits, but the model gives probabilities; end it with "
            "a Dense layer without activation, or make the loss with from_logits=False",
        )
    return loss.call(wanted, tf.cast(numbers, loss.dtype))


def metrics_of(
    metrics: Sequence[str | keras.metrics.Metric] | None, kind: str
) -> tuple[str | keras.metrics.Metric, ...]:
    """Returns the metrics that a user asked for, which all have different names; `accuracy` stays a
    name. None asks for the accuracy, for a regression the mean absolute error, and for a
    multinomial nothing."""
    if metrics is None:
        metrics = {"regression": ["mae"], "multinomial": []}.get(kind, [ACCURACY])
    found: dict[str, str | keras.metrics.Metric] = {}
    for metric in metrics:
        require(
            metric != ACCURACY or kind not in ("regression", "multinomial"),
            f"a {kind} has no accuracy; give metrics such as 'mae', 'r2_score', or of items "
            "harness.RecallAtK(20)",
        )
        if isinstance(metric, str) and metric != ACCURACY:
            try:
                known = keras.metrics.get(metric)
            except ValueError as error:
                raise InputError(
                    f"metric {metric!r}: Keras has none by that name; give a keras.metrics.Metric"
                ) from error
            if isinstance(known, keras.metrics.Metric):  # under the name given, as in Keras's logs
                metric = type(known).from_config({**known.get_config(), "name": metric})
        if not isinstance(metric, str | keras.metrics.Metric):
            raise InputError(f"metric {metric!r} is no metric; give a keras.metrics.Metric")
        name = metric if isinstance(metric, str) else metric.name
        taken = name in found or name in _TAKEN
        require(not taken, f"a metric is called {name!r}, a name that is taken; give another name")
        found[name] = metric
    return tuple(found.values())
