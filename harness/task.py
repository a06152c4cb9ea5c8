"""What labels mean: their type and shape, the loss, what a model's outputs say, and the metrics.

Letters: B rows, K classes.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import keras
import numpy as np
import tensorflow as tf

from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.errors import InputError
from harness.losses import ACCURACY, loss_of, metrics_of
from harness.model.network import is_functional
from kernels.multi_hot import multi_hot

Kind = Literal["binary", "multi_class", "multi_label"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Task:
    """What is asked of a model: how its labels are read, its loss and its metrics."""

    kind: Literal["auto"] | Kind = "auto"
    """`binary`: one of two classes; `multi_class`: one of K; `multi_label`: any of K. `auto`: as
    the labels look."""
    loss: str | keras.losses.Loss | None = None
    """By Keras's name, or one of Keras's objects. It gets probabilities, or logits if it was made
    with `from_logits`; class numbers if its name begins with Sparse, else one number for each
    class. None: cross-entropy."""
    metrics: Sequence[str | keras.metrics.Metric] = (ACCURACY,)
    """By Keras's names, or Keras's objects; they get what a loss gets."""
    class_weight: Literal["balanced"] | Mapping[int, float] | None = None
    """Of each class, on its rows' losses in training; 1 where it is left out. `balanced`: rows /
    (classes * rows of the class), by the rows that are trained on first."""

    def __post_init__(self) -> None:
        if self.kind not in ("auto", *KINDS):
            raise InputError(f"task is {self.kind!r}; choose auto or one of {', '.join(KINDS)}")
        weights = self.class_weight
        if weights not in (None, "balanced") and not isinstance(weights, Mapping):
            raise InputError(
                f"class_weight is {weights!r}; give 'balanced', or a weight by class number"
            )

    def config(self) -> dict[str, Any]:
        """What decides the losses, as config.json holds it."""
        loss = self.loss
        if isinstance(loss, keras.losses.Loss):
            loss = json.dumps(keras.saving.serialize_keras_object(loss), default=str)
        weights: Any = self.class_weight
        if isinstance(weights, Mapping):
            weights = sorted(weights.items())
        return {"task": self.kind, "loss": loss, "class_weight": str(weights)}

    def settled(self, examples: Examples) -> "SettledTask":
        """The task for rows with labels like those of `examples`.

        Raises:
            InputError: when the labels are none of this task's, or Keras has no such loss or
                metric.
        """
        kind, why = _look(examples)
        if self.kind != "auto":
            kind, why = self.kind, "asked for"
        num_classes = _num_classes(examples, kind)
        if kind == "binary" and num_classes > 2:
            raise InputError(
                f"the labels of {examples.name} show {num_classes} classes, but the task is binary "
                f"({why}); give labels from 0 to 1, or class numbers and task='multi_class'"
            )
        task = SettledTask(
            kind=kind,
            num_classes=num_classes,
            why=why,
            loss=loss_of(self.loss, kind),
            metrics=metrics_of(self.metrics),
            class_weight=None,
        )
        task.check_labels(examples)
        task = replace(task, class_weight=_class_weight(self.class_weight, task, examples))
        if self.loss is not None:
            _check_loss(task)
        for metric in task.stateful:
            _build_metric(metric, task)
        return task


def task_of_outputs(shape: Sequence[int | None]) -> "SettledTask":
    """A task for a model that is only asked for its outputs."""
    num_outputs = (shape[-1] if shape else None) or 1
    kind: Kind = "binary" if num_outputs == 1 else "multi_label"
    return SettledTask(
        kind=kind,
        num_classes=max(2, num_outputs),
        why="by the outputs",
        loss=loss_of(None, kind),
        metrics=(),
        class_weight=None,
        is_known=False,
    )


class Judgement(NamedTuple):
    """What rows come to, by a task."""

    losses: tf.Tensor
    """float32 [B], times the class weights."""
    hits: tf.Tensor | None
    """float32 [B]: the share of a row's answers that are right; None where nobody asks."""
    targets: dict[bool, Any]
    """What sparse metrics compare with, and others."""
    probabilities: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class SettledTask:
    """A task for certain labels."""

    kind: Kind
    num_classes: int
    """K."""
    why: str
    loss: keras.losses.Loss
    metrics: tuple[str | keras.metrics.Metric, ...]
    """`accuracy` is computed row by row; others keep sums of their own."""
    class_weight: np.ndarray | None
    """float32 [K]."""
    is_known: bool = True
    """False where no labels were seen."""

    @property
    def num_outputs(self) -> int:
        """Of a model: K, or 1 where there are two classes."""
        return 1 if self.kind == "binary" else self.num_classes

    @property
    def head(self) -> str:
        """The activation that makes probabilities of logits."""
        return "softmax" if self.kind == "multi_class" else "sigmoid"

    @property
    def with_accuracy(self) -> bool:
        """Whether `accuracy` is among the metrics."""
        return ACCURACY in self.metrics

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Of all metrics, in order."""
        return tuple(m if isinstance(m, str) else m.name for m in self.metrics)

    @property
    def stateful(self) -> tuple[keras.metrics.Metric, ...]:
        """The metrics that keep sums of their own."""
        return tuple(m for m in self.metrics if isinstance(m, keras.metrics.Metric))

    def check_outputs(self, model: keras.Model, shape: Sequence[int | None]) -> None:
        """Raises InputError unless outputs of this shape fit the task."""
        if len(shape) != 2 or shape[-1] != self.num_outputs:
            raise InputError(
                f"the model {model.name!r} gives outputs of shape {list(shape)}, but the task "
                f"{self.kind} with {self.num_classes} classes ({self.why}) wants [rows, "
                f"{self.num_outputs}]: end the model with Dense({self.num_outputs}), set task, or "
                "give num_classes where the rows lack a class"
            )
        other = "sigmoid" if self.head == "softmax" else "softmax"
        # Of a functional model the last layer gives the output; of another it may be any.
        last = model.layers[-1] if is_functional(model) else None
        if getattr(last, "activation", None) is keras.activations.get(other):
            raise InputError(
                f"the model {model.name!r} ends in a {other}, but the task {self.kind} "
                f"({self.why}) goes with a {self.head}; change the activation, or the labels: "
                "class numbers [rows] are multi_class, 0 and 1 [rows, classes] are multi_label"
            )

    def check_labels(self, examples: Examples) -> None:
        """Raises InputError unless the labels of `examples` are this task's."""
        labels = _labels(examples)
        if isinstance(labels, RaggedSets):
            kind, shape, whole = "ragged", [labels.num_rows, labels.num_tokens], True
        else:
            kind, shape = str(labels.dtype), list(labels.shape)
            whole = labels.dtype.kind != "f"
        is_flat = len(shape) == 1 or shape[1:] == [1]
        wide = self.kind == "multi_label"
        known = shape[-1] if not is_flat else _num_classes(examples, self.kind)
        if (
            wide == is_flat
            or known > self.num_classes
            or (wide and known != self.num_classes and not isinstance(labels, RaggedSets))
            or (self.kind == "multi_class" and not whole)
        ):
            raise InputError(
                f"the labels of {examples.name} are {kind} {shape} of {known} classes, but the "
                f"task is {self.kind} with {self.num_classes} classes ({self.why}); give labels "
                + ("[rows, classes]" if wide else "[rows], a class below that")
                + ", or set task"
            )

    def probabilities(self, outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """A model's outputs as logits and as probabilities, both float32. Keras notes on what its
        sigmoid or softmax returned what went in; outputs without such a note are logits."""
        logits = tf.cast(getattr(outputs, "_keras_logits", outputs), tf.float32)
        return logits, keras.activations.get(self.head)(logits)

    def judge(
        self, labels: Any, outputs: tf.Tensor, *, with_class_weight: bool = True
    ) -> Judgement:
        """The loss of each row, and what metrics need.

        Args:
            labels: [B], [B, K], or the `values` and `row_splits` of ragged sets.
            outputs: of the model, [B, `num_outputs`].
            with_class_weight: whether losses are weighed by class.
        """
        targets = self._targets(labels)
        logits, probabilities = self.probabilities(outputs)
        given = logits if getattr(self.loss, "from_logits", False) else probabilities
        losses = self.loss.call(targets[_is_sparse(self.loss)], given)
        if losses.shape.rank == 0:
            raise ValueError("it is one number for all rows")
        if losses.shape.rank > 1:
            losses = tf.reduce_mean(losses, axis=range(1, losses.shape.rank))
        losses = tf.cast(losses, tf.float32)
        if self.class_weight is not None and with_class_weight:
            numbers = tf.cast(tf.reshape(labels, [-1]), tf.float32)
            classes = tf.cast(tf.round(numbers), tf.int32)
            losses *= tf.gather(tf.constant(self.class_weight), classes)
        hits = self._hits(targets, logits) if self.with_accuracy else None
        return Judgement(losses, hits, targets, probabilities)

    def _targets(self, labels: Any) -> dict[bool, Any]:
        """What a sparse loss or metric compares with, and what another does."""
        if isinstance(labels, Mapping):
            many = multi_hot(**labels, num_tokens=self.num_classes, dtype=tf.float32)
            return {False: many, True: many}
        if self.kind == "multi_class":
            classes = tf.cast(tf.reshape(labels, [-1]), tf.int32)
            return {True: classes, False: tf.one_hot(classes, self.num_classes)}
        numbers = tf.reshape(tf.cast(labels, tf.float32), [-1, self.num_outputs])
        return {False: numbers, True: numbers}

    def _hits(self, targets: Mapping[bool, Any], logits: tf.Tensor) -> tf.Tensor:
        """As Keras's accuracies: a probability above 0.5, the likeliest class, or the share of the
        K answers."""
        if self.kind == "multi_class":
            taken = tf.argmax(logits, axis=1, output_type=tf.int32)
            return tf.cast(taken == targets[True], tf.float32)
        right = tf.cast(tf.cast(logits > 0, tf.float32) == targets[False], tf.float32)
        return tf.reduce_mean(right, axis=1)

    def updated(
        self, metric: keras.metrics.Metric, values: Sequence[Any], rows: Judgement, real: tf.Tensor
    ) -> Sequence[tf.Tensor]:
        """The next values of a metric's variables."""
        after: Sequence[tf.Tensor] = metric.stateless_update_state(
            values, rows.targets[_is_sparse(metric)], rows.probabilities, sample_weight=real
        )
        return after


def _is_sparse(loss_or_metric: Any) -> bool:
    return type(loss_or_metric).__name__.startswith("Sparse")


def _labels(examples: Examples) -> np.ndarray | RaggedSets:
    if examples.labels is None:
        raise InputError(f"{examples.name} has no labels; give them to train or evaluate")
    return examples.labels


def _look(examples: Examples) -> tuple[Kind, str]:
    """The task that labels look like, and why."""
    labels = _labels(examples)
    if isinstance(labels, RaggedSets):
        return "multi_label", "sets of class numbers as labels"
    if labels.ndim == 2 and labels.shape[1] > 1:
        return "multi_label", f"labels [rows, {labels.shape[1]}]"
    if labels.dtype.kind == "f" and (labels != np.floor(labels)).any():
        return "binary", "labels between 0 and 1"
    num_classes = _num_classes(examples, "multi_class")
    return ("binary" if num_classes == 2 else "multi_class"), f"{num_classes} classes"


def _num_classes(examples: Examples, kind: Kind) -> int:
    labels = _labels(examples)
    if isinstance(labels, RaggedSets):
        return labels.num_tokens
    if kind == "multi_label" and labels.ndim == 2:
        return int(labels.shape[1])
    return max(2, examples.num_classes or int(np.ceil(labels.max(initial=0))) + 1)


def _check_loss(task: SettledTask) -> None:
    """Raises InputError unless the loss is a number for each row."""
    labels = np.zeros([2, task.num_outputs] if task.kind == "multi_label" else [2], np.int32)
    with _computing(f"loss {task.loss.name!r}", task):
        task.judge(tf.constant(labels), tf.zeros([2, task.num_outputs]))


@contextlib.contextmanager
def _computing(what: str, task: SettledTask) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise InputError(
            f"the {what} cannot be computed for the task {task.kind} with {task.num_classes} "
            f"classes: {error}"
        ) from error


def _class_weight(
    asked: Literal["balanced"] | Mapping[int, float] | None, task: "SettledTask", examples: Examples
) -> np.ndarray | None:
    """float32 [K]."""
    if asked is None:
        return None
    if task.kind == "multi_label":
        raise InputError(
            "class_weight is for rows of one class each, not for multi_label; leave it out"
        )
    if isinstance(asked, Mapping):
        wrong = [c for c in asked if not 0 <= c < task.num_classes]
        if wrong or not np.isfinite(list(asked.values())).all():
            raise InputError(
                f"class_weight is {dict(asked)}; give a finite weight for classes below "
                f"{task.num_classes}"
            )
        return np.array([asked.get(c, 1.0) for c in range(task.num_classes)], np.float32)
    labels = _labels(examples)
    assert not isinstance(labels, RaggedSets)
    classes = np.rint(labels).astype(np.int64).reshape(-1)
    counts = np.bincount(classes, minlength=task.num_classes)
    # As scikit-learn, for which a class without rows is none.
    shares = np.count_nonzero(counts) * np.maximum(counts, 1)
    return np.where(counts > 0, len(classes) / shares, 1).astype(np.float32)


def _build_metric(metric: keras.metrics.Metric, task: SettledTask) -> None:
    """Lets a metric make its variables, some of which depend on the number of classes."""
    rows = np.zeros([1, task.num_outputs], np.float32)
    targets = np.zeros([1], np.int32) if _is_sparse(metric) and task.num_outputs > 1 else rows
    with _computing(f"metric {metric.name!r}", task):
        metric.update_state(targets, rows)
        result = metric.result()
        metric.reset_state()
    if isinstance(result, Mapping) or np.ndim(result):
        raise InputError(
            f"the metric {metric.name!r} is not one number but {np.shape(result)}; average it over "
            "the classes"
        )
