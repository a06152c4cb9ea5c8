"""Tasks: the type and shape of labels, the loss, the meaning of a model's outputs, and the metrics.

Letters: B rows, K classes.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args

import keras
import numpy as np
import tensorflow as tf

from harness.base.checks import require
from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.task.losses import (
    ACCURACY,
    AnyLoss,
    AnyMetric,
    applied,
    is_own,
    is_sparse,
    is_users_own,
    loss_of,
    metrics_of,
    name_of,
    read,
    takes_outputs,
)
from harness.task.multinomial import Multinomial
from harness.task.ranking import NDCGAtK, RecallAtK, check_seen, without_seen
from kernels.multi_hot import multi_hot

Kind = Literal["binary", "multi_class", "multi_label", "multinomial", "regression"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_TWO_CLASSES = "2 classes"
_OF_SETS = ("multi_label", "multinomial")  # The kinds of which a row may have any number of classes


@dataclass(frozen=True)
class Task:
    """The task of a model: how to read its labels, its loss and its metrics."""

    kind: Literal["auto"] | Kind = "auto"
    """`binary`: one of two classes; `multi_class`: one of K; `multi_label`: any of K, each by
    itself; `multinomial`: any of K items by one softmax, as in recommenders; `regression`: numbers,
    one a row or K. `auto`: as the labels look, and multinomial by its loss."""
    loss: AnyLoss | None = None
    """The loss, by Keras's name or as a Keras object. It gets probabilities, or logits if its
    attribute `from_logits` is true; class numbers if its name begins with Sparse, else one number
    for each class. A function of your own gets labels and outputs as they are, as from Keras's
    `compile`, and so does any loss of a regression. None: cross-entropy, the mean squared error
    of a regression, or `harness.Multinomial()`, for a model that ends in a sigmoid or softmax, or
    in a layer without activation; for other models, the loss has to say what the outputs are."""
    metrics: Sequence[AnyMetric] | None = None
    """The metrics, by Keras's names, as Keras objects or as functions. They get probabilities, or
    outputs as they are with `from_logits=True`, a threshold of 0, or as functions of your own.
    `accuracy` counts probabilities above 0.5, of logits those above 0. None: `accuracy`; `mae` for
    a regression; none for a multinomial."""
    evaluation_metrics: Sequence[AnyMetric] | None = None
    """Further metrics, which are computed in evaluations only. Those of a multinomial get logits
    without the items that a row has seen. None: for a multinomial `harness.RecallAtK(20)`,
    `RecallAtK(50)` and `NDCGAtK(100)`, otherwise none."""
    seen: str | None = ""
    """Multinomial only: the name of the ragged input with the items that a row has seen, which
    evaluation metrics and `Trainer.recommend` leave out. "" is a model's only input; None ranks all
    items."""
    class_weight: Literal["balanced"] | Mapping[Any, float] | None = None
    """The weight of each class, by its number or name, on its rows' losses in training; a class
    left out has 1. `balanced`: rows / (classes * rows of the class), from the rows of the first
    training."""
    thresholds: Sequence[float] | None = None
    """Multi-label only: the probability above which each class is given, [K], for precision, recall
    and F1. None: 0.5. `harness.task.measures.best_thresholds` chooses them on held-out rows."""
    label_smoothing: float = 0.0
    """Multi-class only, and only in training: the share of each row's label that goes to all
    classes alike, in the cross-entropy (Szegedy et al., 2016, section 7)."""
    loss_weight: float = 1.0
    """One of several outputs only: the factor of its loss in the model's loss."""

    def __post_init__(self) -> None:
        if self.kind not in ("auto", *KINDS):
            raise InputError(f"task is {self.kind!r}; choose auto or one of {', '.join(KINDS)}")
        smoothing, weights = self.label_smoothing, self.class_weight
        require(
            isinstance(smoothing, Real) and 0 <= smoothing < 1,
            f"label_smoothing is {smoothing!r}; give a share from 0 to less than 1",
        )
        require(
            isinstance(self.loss_weight, Real) and math.isfinite(self.loss_weight),
            f"loss_weight is {self.loss_weight!r}; give a finite number",
        )
        is_named = isinstance(weights, str) and weights == "balanced"
        require(
            is_named or isinstance(weights, Mapping | None),
            f"class_weight is {weights!r}; give 'balanced', or a weight by class number or name",
        )

    @property
    def from_logits(self) -> bool | None:
        """Whether the loss takes logits; None if that is not known, and the model has to tell."""
        if self.loss is None:
            return None
        loss = loss_of(self.loss, "binary")
        return getattr(loss, "from_logits", None if is_users_own(loss) else False)

    def config(self) -> dict[str, Any]:
        """Returns the settings that decide the losses, as config.json holds them."""
        loss = self.loss
        if isinstance(loss, keras.losses.Loss):
            loss = json.dumps(keras.saving.serialize_keras_object(loss), default=str)
        elif loss is not None and not isinstance(loss, str):
            loss = getattr(loss, "__qualname__", type(loss).__qualname__)
        weights: Any = self.class_weight
        if isinstance(weights, Mapping):
            weights = sorted(weights.items(), key=lambda pair: (type(pair[0]).__name__, pair[0]))
        others = {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}
        others |= {"loss_weight": self.loss_weight} if self.loss_weight != 1 else {}
        return {"task": self.kind, "loss": loss, "class_weight": str(weights), **others}

    def class_numbers(self, examples: Examples, output: str = "") -> np.ndarray | None:
        """Returns the class numbers of labels that are one-hot vectors, for a task of one of many
        classes: if that was asked for, or by a categorical loss. None where functions of the user's
        own get the labels, which are to be as they were given."""
        if self.kind not in ("auto", "multi_class") or (self.loss is None and self.kind == "auto"):
            return None
        loss = loss_of(self.loss, "multi_class")
        metrics = metrics_of(
            [*(self.metrics or ()), *(self.evaluation_metrics or ())], "multi_class"
        )
        is_categorical = name_of(loss).startswith("categorical")
        own = is_users_own(loss) or any(map(is_own, metrics))
        if own or not (is_categorical or self.kind == "multi_class"):
            return None
        return examples.class_numbers[output]

    def settled(self, examples: Examples, *, width: int | None = None) -> "ResolvedTask":
        """Returns the task for rows with labels like those of `examples`, and for a model of
        `width` outputs if that is known."""
        kind, why = _look(examples)
        if self.kind != "auto":
            kind, why = self.kind, "asked for"
        elif isinstance(self.loss, Multinomial) and kind == "multi_label":
            kind, why = "multinomial", "by the loss"
        elif kind == "multi_class" and width == 1 and self.loss is not None:
            kind, why = "regression", "whole numbers, a loss and one output"
        elif kind == "binary" and width == 2 and why == _TWO_CLASSES:
            kind, why = "multi_class", "two outputs"
        require(
            not self.seen or kind == "multinomial",
            f"seen is {self.seen!r}, which only a multinomial leaves out, not {kind}",
        )
        num_classes = _num_classes(examples, kind)
        if kind == "multi_class" and width is not None:
            num_classes = max(num_classes, width)
        require(
            kind != "binary" or num_classes <= 2,
            f"the labels of {examples.name} show {num_classes} classes, but the task is binary "
            f"({why}); give labels from 0 to 1, or class numbers and task='multi_class'",
        )
        of_classes = kind == "multi_class"
        what = f"the loss is {self.loss!r}" if of_classes else f"the task is {kind} ({why})"
        require(
            not self.label_smoothing or (of_classes and self.loss is None),
            f"label_smoothing is {self.label_smoothing}, which is for the cross-entropy of rows of "
            f"one of several classes, but {what}; leave it out",
        )
        in_training = metrics_of(self.metrics, kind)
        further = self.evaluation_metrics or []
        if self.evaluation_metrics is None and kind == "multinomial":
            further = [RecallAtK(20), RecallAtK(50), NDCGAtK(100)]
        every = metrics_of([*in_training, *further], kind)
        if ACCURACY in every and not of_classes and getattr(self.loss, "from_logits", False):
            why += "; accuracy counts logits above 0, unlike Keras's, which counts those above 0.5"
        if kind == "multi_label" and ACCURACY in every:
            why += "; accuracy is of all answers, Keras's of each row's likeliest class"
        task = ResolvedTask(
            kind=kind,
            num_classes=num_classes,
            why=why,
            loss=(loss := loss_of(self.loss, kind)),
            width=width if kind == "regression" and is_users_own(loss) else None,
            loss_is_given=self.loss is not None,
            metrics=every,
            evaluation_only=frozenset(getattr(m, "name", m) for m in every[len(in_training) :]),
            seen=self.seen if kind == "multinomial" else None,
            class_weight=None,
            label_smoothing=self.label_smoothing,
            loss_weight=self.loss_weight,
            thresholds=self.thresholds if kind == "multi_label" else None,
        )
        if task.thresholds is not None:
            known = np.asarray(task.thresholds, object)
            ok = [isinstance(share, Real) and 0 <= float(share) <= 1 for share in known.flat]
            require(
                known.shape == (num_classes,) and all(ok),
                f"thresholds are {task.thresholds!r:.100} for {num_classes} classes; give a "
                "number from 0 to 1 for each",
            )
        task.check_labels(examples)
        check_seen(task.seen, examples, num_classes)
        task = replace(task, class_weight=_class_weight(self.class_weight, task, examples))
        if self.loss is not None:
            task = replace(task, loss_is_of_batch=_is_of_batch(task))
        for metric in task.stateful:
            _build_metric(metric, task)
        return task


def task_of_outputs(shape: Sequence[int | None]) -> "ResolvedTask":
    num_outputs = (shape[-1] if shape else None) or 1
    kind: Kind = "binary" if num_outputs == 1 else "multi_label"
    return ResolvedTask(
        kind=kind,
        num_classes=max(2, num_outputs),
        why="by the outputs",
        loss=loss_of(None, kind),
        metrics=(),
        class_weight=None,
        is_known=False,
    )


class LossResult(NamedTuple):
    of_rows: tf.Tensor  # The rows' losses times the class weights, float32 [B]
    hits: Sequence[tf.Tensor]  # `accuracy` if wanted: share of each row's answers that are right
    compared: Sequence[tuple[Any, Any]]  # Labels and predictions for each of the task's `stateful`
    probabilities: Any = None  # float32 [B, K]; of a multinomial in an evaluation, logits
    of_outputs: Sequence[tf.Tensor] = ()  # Of several outputs the losses of each, [B]


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedTask:
    kind: Kind
    num_classes: int  # The number of classes, K; for a regression the number of targets of a row
    why: str
    loss: keras.losses.Loss
    metrics: tuple[str | keras.metrics.Metric, ...]  # `accuracy`, and those with sums
    class_weight: np.ndarray | None  # The weight of each class, float32 [K]
    evaluation_only: frozenset[str] = frozenset()  # metrics that training leaves out
    seen: str | None = None  # The input with the items that rankings leave out
    label_smoothing: float = 0.0  # in training
    thresholds: Sequence[float] | None = None  # for each class, [K]; None: 0.5
    loss_is_given: bool = False  # by the user, so that it says what the outputs are
    is_known: bool = True  # Whether the task follows from labels, not only from a model's outputs
    loss_is_of_batch: bool = False  # not one number for each row
    loss_weight: float = 1.0  # of one of several outputs
    width: int | None = None  # The number of outputs, if a loss of the user's own takes any number

    def settled(self, examples: Examples, *, width: int | None = None) -> "ResolvedTask":
        """Returns itself: a copy of a trainer has this in place of a `Task`."""
        return self

    @property
    def num_outputs(self) -> int:
        """The number of a model's outputs for a row: K, or 1 if there are two classes."""
        return self.width or (1 if self.kind == "binary" else self.num_classes)

    @property
    def num_labels(self) -> int:
        """The number of a row's labels: K, or 1 if each row has one class."""
        return 1 if self.kind in ("binary", "multi_class") else self.num_classes

    @property
    def head(self) -> str:
        """The activation that turns logits into probabilities; `linear` for a regression."""
        if self.kind == "regression":
            return "linear"
        return "softmax" if self.kind in ("multi_class", "multinomial") else "sigmoid"

    @property
    def described(self) -> str:
        what = "targets" if self.kind == "regression" else "classes"
        return f"{self.kind} with {self.num_classes} {what} ({self.why})"

    @property
    def is_measured(self) -> bool:
        return self.kind not in ("regression", "multinomial")

    @property
    def with_accuracy(self) -> bool:
        return ACCURACY in self.metrics

    @property
    def row_metrics(self) -> tuple[str, ...]:
        """The names of the metrics that are means over rows."""
        return (ACCURACY,) if self.with_accuracy else ()

    @property
    def metric_names(self) -> tuple[str, ...]:
        return tuple(m if isinstance(m, str) else m.name for m in self.metrics)

    @property
    def stateful(self) -> tuple[keras.metrics.Metric, ...]:
        """The metrics that keep sums of their own."""
        return tuple(m for m in self.metrics if isinstance(m, keras.metrics.Metric))

    def check_outputs(self, outputs: keras.KerasTensor, of: str) -> None:
        shape = outputs.shape
        require(
            len(shape) == 2 and shape[-1] == self.num_outputs,
            f"{of} gives outputs of shape {list(shape)}, but the task "
            f"{self.described} wants [rows, {self.num_outputs}]: end the model with "
            f"Dense({self.num_outputs}), set task ('regression' if labels are no classes), or "
            "give num_classes (num_tokens of RaggedSets) where the rows lack a class",
        )

    def check_labels(self, examples: Examples) -> None:
        labels = _labels(examples)
        known, wide = _num_classes(examples, self.kind), self.kind in _OF_SETS
        if isinstance(labels, RaggedSets):
            shown, fits = f"sets of {known} classes", wide and known <= self.num_classes
        else:
            low, high = labels.min(), labels.max()
            shown = f"{labels.dtype} {list(labels.shape)} from {low} to {high}"
            is_flat = labels.ndim == 1 or labels.shape[1] == 1
            fits = known == self.num_classes if wide else known <= self.num_classes
            fits = fits and wide != is_flat and low >= 0
            if self.kind == "regression":
                fits = known == self.num_classes
            elif self.kind == "multi_class":
                fits = fits and bool((labels == np.floor(labels)).all())
            else:
                fits = fits and high <= 1
        if not fits:
            several = wide or self.kind == "regression"
            shape = f"[rows, {self.num_classes}]" if several else "[rows]"
            limits = {"multi_class": ", a class below that", "regression": ""}
            raise InputError(
                f"the labels of {examples.name} are {shown}, but the task is {self.described}; "
                f"give labels {shape}{limits.get(self.kind, ' from 0 to 1')}, or set task"
            )

    def check_gradient(self, examples: Examples) -> None:
        """Raises an InputError if TensorFlow's gradient of the softmax cross-entropy is wrong for
        these labels: it assumes that each row's sum to 1."""
        labels = _labels(examples)
        fused = getattr(self.loss, "fn", None) is keras.losses.categorical_crossentropy
        if not fused or self.kind not in (*_OF_SETS, "regression"):
            return
        if isinstance(labels, RaggedSets):
            sums = labels.unique().lengths
        else:
            sums = labels.reshape(len(labels), -1).sum(axis=1)
        row = int(np.abs(sums - 1).argmax())
        require(
            abs(sums[row] - 1) <= 1e-3,
            f"row {row} of {examples.name} has labels with the sum {sums[row]}, but TensorFlow's "
            "gradient of CategoricalCrossentropy is right only for a sum of 1; divide labels by "
            "their sum, or set loss=harness.Multinomial()",
        )

    def check_devices(self, num_devices: int) -> None:
        require(
            not self.loss_is_of_batch or num_devices == 1,
            f"the loss {self.loss.name!r} is one number for a batch, which {num_devices} devices "
            "divide; set replicas=1, or return a number for each row",
        )

    def class_numbers(self, examples: Examples, output: str = "") -> np.ndarray | None:
        """Returns the class numbers of labels that are one-hot vectors, for one of many classes."""
        return examples.class_numbers[output] if self.kind == "multi_class" else None

    def by_output(self, predicted: Any) -> Any:
        """Returns predictions [rows, outputs] as the model gives them."""
        return predicted

    def compute_loss(
        self,
        labels: Any,
        outputs: tf.Tensor,
        *,
        training: bool = True,
        inputs: Mapping[str, Any] | None = None,
    ) -> LossResult:
        """Computes the loss of each row, and what metrics need, from labels [B], [B, K] or ragged
        sets. Only in training, class weights count, labels are smoothed and samples are drawn.
        `inputs` tell what a row has seen."""
        targets = self._targets(labels)
        given = read(outputs, self.head, self.loss, is_given=self.loss_is_given)
        loss = self.loss
        if self.label_smoothing and training:
            loss = keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=self.label_smoothing
            )
        if isinstance(self.loss, Multinomial):
            known = labels if isinstance(labels, Mapping) else targets[False]
            losses = self.loss.of_labels(known, given.logits, sampled=training)
        else:
            losses = applied(loss, targets, given)
        if losses.shape.rank == 0:  # one loss of the batch: give each row the same, as its mean
            losses += tf.zeros_like(given.outputs[:, 0], losses.dtype)
        if losses.shape.rank > 1:
            losses = tf.reduce_mean(losses, axis=range(1, losses.shape.rank))
        losses = tf.cast(losses, tf.float32)
        if self.class_weight is not None and training:
            numbers = tf.cast(tf.reshape(labels, [-1]), tf.float32)
            classes = tf.cast(tf.round(numbers), tf.int32)
            losses *= tf.gather(tf.constant(self.class_weight), classes)
        scores = given.logits
        # In 16 bits, rounding may make probabilities 0.5.
        if scores is None or (given.are_probabilities and outputs.dtype.size < 4):
            scores = given.probabilities - 0.5
        hits = [self._hits(targets, scores)] if self.with_accuracy else []
        numbers, as_given = given.probabilities, given.outputs
        if self.kind == "multinomial" and not training:
            numbers = given.probabilities if given.logits is None else given.logits
            if self.seen is not None and inputs is not None:
                numbers = without_seen(numbers, inputs[self.seen])
            as_given = numbers
        compared = [
            (targets[is_sparse(metric)], as_given if takes_outputs(metric) else numbers)
            for metric in self.stateful
        ]
        return LossResult(losses, hits, compared, numbers)

    def _targets(self, labels: Any) -> dict[bool, Any]:
        """Returns the labels for sparse losses and metrics, under True, and others, under False."""
        if isinstance(labels, Mapping):
            many = multi_hot(**labels, num_tokens=self.num_classes, dtype=tf.float32)
            return {False: many, True: many}
        if self.kind == "multi_class":
            classes = tf.cast(tf.reshape(labels, [-1]), tf.int32)
            return {True: classes, False: tf.one_hot(classes, self.num_classes)}
        numbers = tf.reshape(tf.cast(labels, tf.float32), [-1, self.num_labels])
        return {False: numbers, True: numbers}

    def _hits(self, targets: Mapping[bool, Any], scores: tf.Tensor) -> tf.Tensor:
        """Returns each row's hits as Keras's accuracies count them: by a probability above 0.5, by
        the likeliest class, or as the share of the K answers."""
        if self.kind == "multi_class":
            taken = tf.argmax(scores, axis=1, output_type=tf.int32)
            return tf.cast(taken == targets[True], tf.float32)
        right = tf.cast(tf.cast(scores > 0, tf.float32) == targets[False], tf.float32)
        return tf.reduce_mean(right, axis=1)


def _labels(examples: Examples) -> np.ndarray | RaggedSets:
    if examples.labels is None:
        raise InputError(f"{examples.name} has no labels; give them to train or evaluate")
    if isinstance(examples.labels, Mapping):
        raise InputError(
            f"{examples.name} has labels by name, {', '.join(examples.labels)}, and the model a "
            "single output; give its labels without a name"
        )
    return examples.labels


def _look(examples: Examples) -> tuple[Kind, str]:
    labels = _labels(examples)
    if isinstance(labels, RaggedSets):
        return "multi_label", "sets of class numbers as labels"
    is_wide = labels.ndim == 2 and labels.shape[1] > 1
    is_whole = labels.dtype.kind != "f" or bool((labels == np.floor(labels)).all())
    low, high = labels.min(), labels.max()
    # Whole numbers may be classes, even -1 and 1.
    if (is_wide and high > 1) or (not is_whole and not 0 <= low <= high <= 1):
        return "regression", f"numbers from {low:g} to {high:g}"
    if is_wide:
        return "multi_label", f"labels [rows, {labels.shape[1]}]"
    if not is_whole:
        return "binary", "labels between 0 and 1"
    num_classes = _num_classes(examples, "multi_class")
    if num_classes == 2:
        return "binary", _TWO_CLASSES
    return "multi_class", f"{num_classes} classes"


def _num_classes(examples: Examples, kind: Kind) -> int:
    labels = _labels(examples)
    if isinstance(labels, RaggedSets):
        return labels.num_tokens
    if kind == "regression" or (kind in _OF_SETS and labels.ndim == 2):
        return int(labels.shape[1]) if labels.ndim == 2 else 1
    known = max(2, examples.num_classes or 0)
    if examples.num_classes is None or labels.dtype.kind == "f":
        known = max(known, int(np.ceil(labels.max(initial=0))) + 1)
    return known


def _is_of_batch(task: ResolvedTask) -> bool:
    rows, outputs = task.num_outputs + 1, task.num_outputs  # so that a mean over rows is shorter

    def losses() -> tf.Tensor:
        targets = task._targets(tf.zeros([rows, task.num_labels], tf.int32))
        with keras.StatelessScope() as scope:
            given = read(tf.zeros([rows, outputs]), task.head, task.loss, is_given=True)
            found = applied(task.loss, targets, given)
        if scope.state_mapping:
            raise ValueError("it assigns a variable, whose value a trainer would not keep")
        return found

    with _computing(f"loss {task.loss.name!r}", task):
        # Traced only: of 20,000 classes, each array would take 1.6 GB.
        shape = tf.function(losses, autograph=False).get_concrete_function().output_shapes
        if shape.rank and shape[0] != rows:
            raise ValueError(f"it gives {shape[0]} numbers for {rows} rows")
    return bool(shape.rank == 0)


@contextlib.contextmanager
def _computing(what: str, task: ResolvedTask) -> Iterator[None]:
    """Surrounds a trial on the CPU, so that no GPU need start; turns errors into InputError."""
    try:
        with tf.device("/CPU:0"):
            yield
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise InputError(
            f"the {what} cannot be computed for the task {task.described}: {error}"
        ) from error


def _class_weight(
    asked: Literal["balanced"] | Mapping[Any, float] | None,
    task: "ResolvedTask",
    examples: Examples,
) -> np.ndarray | None:
    if asked is None:
        return None
    require(
        task.kind in ("binary", "multi_class"),
        f"--class-weight is {asked}, which is for rows of one class each, not for {task.kind}; "
        "leave it out",
    )
    if isinstance(asked, Mapping):
        numbers = {name: number for number, name in enumerate(examples.class_names)}
        if all(c in range(task.num_classes) for c in asked):  # even if names are numbers as well
            numbers = {}
        weights = {numbers.get(c, c): weight for c, weight in asked.items()}
        is_known = len(weights) == len(asked) and all(c in range(task.num_classes) for c in weights)
        require(
            is_known and all(isinstance(w, Real) and math.isfinite(w) for w in weights.values()),
            f"class_weight is {dict(asked)}; give a finite weight for classes below "
            f"{task.num_classes}, or by their names, for each at most once",
        )
        return np.array([weights.get(c, 1.0) for c in range(task.num_classes)], np.float32)
    labels = _labels(examples)
    assert not isinstance(labels, RaggedSets)
    classes = np.rint(labels).astype(np.int64).reshape(-1)
    counts = np.bincount(classes, minlength=task.num_classes)
    # Like scikit-learn, count only classes that have rows.
    shares = np.count_nonzero(counts) * np.maximum(counts, 1)
    return np.where(counts > 0, len(classes) / shares, 1).astype(np.float32)


def _build_metric(metric: keras.metrics.Metric, task: ResolvedTask) -> None:
    """Makes a metric's variables by a first update: some depend on the number of classes."""
    rows = np.zeros([1, task.num_outputs], np.float32)
    labels = np.zeros([1, task.num_labels], np.float32)
    with _computing(f"metric {metric.name!r}", task):
        metric.update_state(task._targets(labels)[is_sparse(metric)], rows)
        result = metric.result()
        metric.reset_state()
    require(
        not isinstance(result, Mapping) and np.ndim(result) == 0,
        f"the metric {metric.name!r} is not one number but {np.shape(result)}; average it over the "
        "classes",
    )
