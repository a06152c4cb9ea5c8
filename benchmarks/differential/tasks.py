"""Random tasks: labels, loss, metrics, weights of classes and rows.

Letters: B rows, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import keras
import numpy as np
from sklearn.utils.class_weight import compute_sample_weight

import harness
from benchmarks.differential.draw import Draw
from benchmarks.differential.endings import ENDINGS, draw_ending
from benchmarks.differential.rows import Labelled
from harness.task.task import Kind

L, M = keras.losses, keras.metrics
Made = Callable[[], Any]


def _losses(*names: str) -> dict[str, Made]:
    return {name: getattr(L, name) for name in names}


LOSSES: dict[str, dict[str, Made]] = {
    "binary": {
        "BinaryCrossentropy": L.BinaryCrossentropy,
        "smoothed": partial(L.BinaryCrossentropy, label_smoothing=0.2),
        "focal": partial(L.BinaryFocalCrossentropy, gamma=1.5),
        "balanced focal": partial(L.BinaryFocalCrossentropy, apply_class_balancing=True),
        "MeanSquaredError": L.MeanSquaredError,
        "Huber": partial(L.Huber, 0.3),
        **_losses("LogCosh", "SquaredHinge", "Poisson"),
    },
    "sparse": _losses("SparseCategoricalCrossentropy"),
    "categorical": {
        "CategoricalCrossentropy": L.CategoricalCrossentropy,
        "smoothed": partial(L.CategoricalCrossentropy, label_smoothing=0.1),
        "focal": L.CategoricalFocalCrossentropy,
        **_losses("KLDivergence", "MeanSquaredError", "CosineSimilarity"),
    },
    "multi_label": {
        "BinaryCrossentropy": L.BinaryCrossentropy,
        "smoothed": partial(L.BinaryCrossentropy, label_smoothing=0.1),
        "focal": L.BinaryFocalCrossentropy,
        **_losses("MeanSquaredError", "Poisson"),
    },
    "regression": {
        **_losses("MeanSquaredError", "MeanAbsoluteError"),
        "Huber": partial(L.Huber, 0.5),
        "LogCosh": L.LogCosh,
    },
}


def _on_logits(make: Made) -> keras.losses.Loss:
    loss = make()
    return type(loss).from_config({**loss.get_config(), "from_logits": True})


_TAKES_LOGITS = {
    "binary": ("BinaryCrossentropy", "smoothed", "focal"),
    "sparse": ("SparseCategoricalCrossentropy",),
    "categorical": ("CategoricalCrossentropy", "focal"),
    "multi_label": ("BinaryCrossentropy", "focal"),
}
ON_LOGITS: dict[str, dict[str, Made]] = {
    form: {name: partial(_on_logits, LOSSES[form][name]) for name in names}
    for form, names in _TAKES_LOGITS.items()
}


def _metrics(**named: Callable[..., Any]) -> dict[str, Made]:
    return {name: partial(make, name=name) for name, make in named.items()}


NAMES = {
    "binary": ["binary_crossentropy", "mse", "binary_focal_crossentropy"],
    "sparse": ["sparse_categorical_crossentropy"],
    "categorical": ["categorical_crossentropy", "kl_divergence"],
    "multi_label": ["binary_crossentropy", "mse"],
    "regression": ["mse", "mae", "huber"],
}
METRICS: dict[str, dict[str, Made]] = {
    "binary": _metrics(
        auc=M.AUC,
        pr=partial(M.AUC, curve="PR", num_thresholds=50),
        precision=M.Precision,
        recall=partial(M.Recall, thresholds=0.4),
        brier=M.MeanSquaredError,
        bce=M.BinaryCrossentropy,
        fn=M.FalseNegatives,
        at_recall=partial(M.PrecisionAtRecall, 0.5),
        near=partial(M.BinaryAccuracy, threshold=0.3),
        iou=M.BinaryIoU,
    ),
    "sparse": _metrics(
        top2=partial(M.SparseTopKCategoricalAccuracy, 2),
        sce=M.SparseCategoricalCrossentropy,
        again=M.SparseCategoricalAccuracy,
    ),
    "categorical": _metrics(
        top2=partial(M.TopKCategoricalAccuracy, 2),
        auc=M.AUC,
        precision=M.Precision,
        f1=partial(M.F1Score, average="macro"),
        cce=M.CategoricalCrossentropy,
    ),
    "multi_label": _metrics(
        auc=partial(M.AUC, multi_label=True, num_labels=4),
        precision=M.Precision,
        recall=M.Recall,
        f1=partial(M.F1Score, average="micro", threshold=0.5),
        brier=M.MeanSquaredError,
    ),
    "regression": _metrics(mae=M.MeanAbsoluteError, rmse=M.RootMeanSquaredError, r2=M.R2Score),
}
MULTI_LABELS = 4


def own_loss(y_true: Any, y_pred: Any) -> Any:
    """A loss of the user's own, which gets labels and outputs as they are."""
    return keras.ops.mean(keras.ops.log1p(keras.ops.square(y_true - y_pred)), axis=-1)


@keras.saving.register_keras_serializable("differential")
class OnProbabilities(keras.losses.Loss):
    """A loss of probabilities for a model that returns logits, as the trainer calls it."""

    def __init__(self, loss: keras.losses.Loss, head: str) -> None:
        super().__init__(name=loss.name)
        self.loss = loss
        self.head = keras.activations.get(head)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self.loss.call(y_true, self.head(y_pred))


class OfProbabilities(keras.metrics.Metric):
    """A metric of probabilities for a model that returns logits, as the trainer calls it."""

    def __init__(self, metric: keras.metrics.Metric, head: str) -> None:
        super().__init__(name=metric.name)
        self.metric = metric
        if hasattr(metric, "_direction"):  # callbacks read it
            self._direction = metric._direction
        self.head = keras.activations.get(head)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return self.metric.update_state(y_true, self.head(y_pred), sample_weight=sample_weight)

    def result(self) -> Any:
        return self.metric.result()

    def reset_state(self) -> None:
        self.metric.reset_state()


@dataclass(frozen=True, kw_only=True)
class DrawnTask:
    """A task for both sides."""

    kind: Kind  # The kind of task for the trainer
    form: str  # The form of the labels for Keras: a key of `LOSSES`
    num_classes: int
    head: str | None
    """The activation that the model ends in; None if it returns logits, or if the loss takes its
    outputs for logits."""
    loss: Made  # Makes the loss for the trainer, which may be a name or None
    loss_words: str
    metrics: tuple[str, ...]
    class_weight: Any
    weighs_rows: bool
    named: bool  # Whether the trainer is told the kind of task
    soft: bool  # Whether labels lie between 0 and 1
    ending: str | None = None  # A key of `ENDINGS`; None for a Dense layer with or without `head`
    refusal: str = ""  # A part of the message by which the trainer has to refuse the task

    @property
    def needs_graph(self) -> bool:
        """Whether Keras finds the logits only in a graph."""
        return self.ending == "tf.nn"

    @property
    def num_outputs(self) -> int:
        """The number of the model's outputs for a row."""
        return self.num_classes if self.form not in ("binary", "regression") else 1

    @property
    def activation(self) -> str:
        """The activation that turns logits into probabilities."""
        if self.form == "regression":
            return "linear"
        return "softmax" if self.kind == "multi_class" else "sigmoid"

    def task(self) -> harness.Task:
        """Makes the task for the trainer."""
        return harness.Task(
            self.kind if self.named else "auto",
            loss=self.loss(),
            metrics=[n if n == "accuracy" else METRICS[self.form][n]() for n in self.metrics],
            class_weight=self.class_weight,
        )

    def compiled(self) -> dict[str, Any]:
        """Makes the loss and the metrics for `keras.Model.compile`."""
        loss = self.loss()
        if loss is None:
            logits = self.head is None and self.form in ON_LOGITS
            loss = next(iter((ON_LOGITS if logits else LOSSES)[self.form].values()))()
        metrics: list[Any] = []
        for name in self.metrics:
            if name != "accuracy":
                metrics.append(METRICS[self.form][name]())
            elif self.form == "multi_label" or self.head is None:
                metrics.append(_ACCURACIES[self.form](name="accuracy"))
            else:
                metrics.append("accuracy")
        if self.head is None and self.form != "regression":
            takes_scores = loss is own_loss or isinstance(loss, L.SquaredHinge)
            if not (takes_scores or getattr(loss, "from_logits", False)):
                loss = OnProbabilities(_object(loss), self.activation)
            metrics = [OfProbabilities(metric, self.activation) for metric in metrics]
        return {"loss": loss, "metrics": metrics}

    def labelled(
        self, rng: np.random.Generator, inputs: dict[str, Any], *, trained: bool
    ) -> Labelled:
        """Draws labels that depend on the inputs and on chance."""
        first = next(iter(inputs.values()))
        rows = first.num_rows if isinstance(first, harness.RaggedSets) else len(first)
        labels, targets = self._labels(rng, rows, _score(inputs, rows) + rng.normal(size=rows))
        weights = rng.uniform(0, 2, rows).astype(np.float32) if self.weighs_rows else None
        examples = harness.Examples(
            inputs=inputs,
            labels=labels,
            weights=weights,
            num_classes=self.num_classes if self.kind == "multi_class" else None,
            name="train rows" if trained else "validation rows",
        )
        return Labelled(
            examples=examples,
            targets=targets,
            row_weights=self._weights(labels, weights) if trained else weights,
        )

    def _labels(
        self, rng: np.random.Generator, rows: int, score: np.ndarray
    ) -> tuple[Any, np.ndarray]:
        """Draws labels; returns them for the trainer and for Keras."""
        if self.form == "regression":
            labels = (score + 0.3 * rng.normal(size=rows)).astype(np.float32)
            return labels, labels[:, None]
        if self.form == "binary":
            labels = (score > 0).astype(np.int64)
            if self.soft:
                labels = (0.8 * labels + 0.2 * rng.random(rows)).astype(np.float32)
            else:
                labels[:2] = [0, 1]
            return labels, labels.astype(np.float32)[:, None]
        if self.form == "multi_label":
            many = (score[:, None] + rng.normal(size=(rows, self.num_classes)) > 0).astype(np.int64)
            if not self.soft:
                return many, many.astype(np.float32)
            splits = np.concatenate([[0], np.cumsum(many.sum(1))])
            ids = np.nonzero(many)[1].astype(np.int32)
            sets = harness.RaggedSets(values=ids, row_splits=splits, num_tokens=self.num_classes)
            return sets, many.astype(np.float32)
        classes = np.clip(np.digitize(score, np.linspace(-1, 1, self.num_classes - 1)), 0, None)
        classes[: self.num_classes] = np.arange(self.num_classes)
        if self.form == "sparse":
            return classes, classes.astype(np.int32)
        return classes, np.eye(self.num_classes, dtype=np.float32)[classes]

    def _weights(self, labels: Any, weights: np.ndarray | None) -> np.ndarray | None:
        if self.class_weight is None:
            return weights
        own = compute_sample_weight(self.class_weight, labels).astype(np.float32)
        return own if weights is None else own * weights


_ACCURACIES: dict[str, Callable[..., Any]] = {
    "binary": M.BinaryAccuracy,
    "multi_label": M.BinaryAccuracy,
    "sparse": M.SparseCategoricalAccuracy,
    "categorical": M.CategoricalAccuracy,
}


def _object(loss: Any) -> keras.losses.Loss:
    """Returns a loss, which may be a function or a name, as an object."""
    if isinstance(loss, keras.losses.Loss):
        return loss
    return keras.src.losses.losses.LossFunctionWrapper(keras.losses.get(loss))


def _score(inputs: dict[str, Any], rows: int) -> np.ndarray:
    """Returns a number for each row that a model can learn."""
    score = np.zeros(rows)
    for part in inputs.values():
        if isinstance(part, harness.RaggedSets):
            score += [np.sin(part.row(row).astype(float)).sum() for row in range(rows)]
        else:
            score += part.sum(axis=1)
    return score / max(score.std(), 1e-6)


def draw_task(draw: Draw) -> DrawnTask:
    """Draws a random task."""
    forms = {"binary": 5, "sparse": 2, "categorical": 2, "multi_label": 2, "regression": 2}
    form = draw.weighted(forms)
    kind = cast(Kind, "multi_class" if form in ("sparse", "categorical") else form)
    num_classes = {"binary": 2, "multi_label": MULTI_LABELS, "regression": 1}.get(form, 0)
    num_classes = num_classes or draw.integer(3, 5)
    ends_in = draw.chance(0.5)
    head = ("softmax" if kind == "multi_class" else "sigmoid") if ends_in else None
    if form == "regression":
        head = None
    on_logits = head is None and form in ON_LOGITS and draw.chance(0.6)
    options = (ON_LOGITS if on_logits else LOSSES)[form]
    name = draw.one(list(options))
    how = draw.weighted({"object": 7, "default": 3, "name": 1, "function": 0.5, "own": 0.7})
    by_name = draw.one(NAMES[form])
    loss: Made = options[name]
    words = f"{name}{' on logits' if on_logits else ''}"
    if how == "default" and form != "categorical":
        loss, words = (lambda: None), "default"
    if how == "name":
        loss, words = (lambda: by_name), by_name
    if how == "function":
        loss, words = (lambda: keras.losses.get(by_name)), f"function {by_name}"
    if how == "own" and kind != "multi_class":
        loss, words = (lambda: own_loss), "own function"
    metrics = draw.some(list(METRICS[form]), 2)
    if form != "regression" and draw.chance(0.85):
        metrics.insert(0, "accuracy")
    soft = form in ("binary", "multi_label") and draw.chance(0.15)
    soft = soft and not (form == "binary" and metrics not in ([], ["accuracy"]))
    class_weight: Any = None
    weight = draw.between(0.3, 3)
    if kind not in ("multi_label", "regression") and draw.chance(0.25):
        class_weight = draw.one([{1: weight}, {0: weight, 1: 2.0}, "balanced"])
    return DrawnTask(
        kind=kind,
        form=form,
        num_classes=num_classes,
        head=head,
        loss=loss,
        loss_words=words,
        metrics=tuple(metrics),
        class_weight=None if soft else class_weight,
        weighs_rows=draw.chance(0.2),
        named=kind == "regression" or draw.chance(0.5),
        soft=soft,
    )


def with_ending(draw: Draw, task: DrawnTask) -> DrawnTask:
    """Draws an ending of the model, and a loss of any form for it."""
    is_regression = task.form == "regression"
    name = draw_ending(draw, None if is_regression else task.activation)
    if name is None:
        return task
    gives = ENDINGS[name].gives
    how = draw.weighted({"object": 4, "logits": 3, "name": 2, "function": 1, "own": 1, "none": 1})
    # Keras does not see logits behind a cast, and would squash them twice; the trainer says so.
    how = "object" if how == "logits" and name == "cast probabilities" else how
    # Many refusals alike would cover nothing else.
    if how == "none" and (task.form == "categorical" or (gives == "unknown" and draw.chance(0.7))):
        how = "object"
    if is_regression or (how == "own" and task.kind == "multi_class"):
        return replace(task, ending=name) if is_regression else replace(task, **_read(task, name))
    options = (ON_LOGITS if how == "logits" else LOSSES)[task.form]
    key, by_name = draw.one(list(options)), draw.one(NAMES[task.form])
    made: dict[str, tuple[Made, str]] = {
        "object": (options[key], key),
        "logits": (options[key], f"{key} on logits"),
        "name": (lambda: by_name, by_name),
        "function": (lambda: keras.losses.get(by_name), f"function {by_name}"),
        "own": (lambda: own_loss, "own function"),
        "none": (lambda: None, "default"),
    }
    loss, words = made[how]
    task = replace(task, loss=loss, loss_words=words)
    return replace(task, **_read(task, name))


def _read(task: DrawnTask, ending: str) -> dict[str, Any]:
    """Returns how the trainer has to read the outputs of an ending, as fields of a task."""
    gives, loss = ENDINGS[ending].gives, task.loss()
    on_logits = getattr(loss, "from_logits", False)
    refusal = ""
    if gives == "unknown" and loss is None:
        refusal = "the task has no loss that says whether that gives probabilities or logits"
    if gives == "probabilities" and on_logits and "focal" in task.loss_words:
        refusal = "takes logits, but the model gives probabilities"
    are_logits = gives == "logits" or (gives == "unknown" and on_logits)
    head = None if are_logits else task.activation
    return {"ending": ending, "head": head, "refusal": refusal}
