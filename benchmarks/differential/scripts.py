"""Models from public scripts: how they are compared, and those of texts.

Each is written anew after the script that its decorator names, with the script's layers, ending,
loss, metrics and optimizer. The sizes and the input differ: sets of ids take the place of texts,
and whole numbers that of words in columns. Learning rates are larger, so that a few steps change
the weights. Dropout has the rate 0 and noise is an input, since both sides draw numbers of their
own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple, cast

import keras
import numpy as np
from keras import layers as L  # noqa: N812
from keras import ops

import harness
from benchmarks.differential.callbacks import DrawnCallbacks
from benchmarks.differential.case import Case
from benchmarks.differential.judging import Verdict, distances, judge
from benchmarks.differential.layers import Pooled
from benchmarks.differential.networks import Network
from benchmarks.differential.optimizers import Drawn
from benchmarks.differential.rows import Labelled, Part, inputs_of, keras_inputs
from benchmarks.differential.tasks import DrawnTask
from benchmarks.differential.training import Trained
from harness.task.task import Kind

Made = Callable[[Any], Any]  # Makes outputs, or a model, from symbolic inputs
TOKENS = 50  # The ids of a set
IDS = 10  # The ids of a column
ROWS, BATCH_SIZE = 72, 24
SETTINGS: dict[str, Any] = {"batch_size": BATCH_SIZE, "seed": 0, "implementation": "gather"}
M, O = keras.metrics, keras.optimizers  # noqa: E741


class Columns(Part):
    """Whole numbers below `IDS`."""


def columns(name: str, number: int = 1) -> Part:
    return Columns(name=name, features=number)


TEXT = (Part(name="", num_tokens=TOKENS),)
NUMBERS = Part(name="numbers", features=3)
TABLE = (columns("fields", 4), NUMBERS)
CROSS = (Part(name="tags", num_tokens=TOKENS), *TABLE)


@dataclass(frozen=True, kw_only=True)
class ScriptTask(DrawnTask):
    """What a script gives to `keras.Model.compile`."""

    given: Callable[[], tuple[Any, list[Any]]]  # Makes the loss and the metrics
    of_score: Callable[[np.ndarray], np.ndarray] | None
    """Makes the labels from a score of each row; None draws them by the form."""

    def task(self) -> harness.Task:
        loss, metrics = self.given()
        return harness.Task(self.kind, loss=loss, metrics=metrics, class_weight=self.class_weight)

    def compiled(self) -> dict[str, Any]:
        return dict(zip(("loss", "metrics"), self.given(), strict=True))

    def _labels(self, rng: np.random.Generator, rows: int, score: np.ndarray) -> Any:
        if self.of_score is None:
            return super()._labels(rng, rows, score)
        labels = self.of_score(score)
        return labels, labels if labels.ndim > 1 or self.form == "sparse" else labels[:, None]


def task(
    form: str,
    given: Callable[[], tuple[Any, list[Any]]],
    *,
    classes: int = 0,
    logits: bool = False,
    of_score: Callable[[np.ndarray], np.ndarray] | None = None,
    **options: Any,
) -> ScriptTask:
    """Returns the task of a script with labels of a form, the loss and the metrics."""
    kind = "multi_class" if form in ("sparse", "categorical") else form
    classes = classes or {"binary": 2, "regression": 1}.get(form, 4)
    plain = {"class_weight": None, "weighs_rows": False, "soft": False}
    return ScriptTask(
        kind=cast(Kind, kind), form=form, num_classes=classes, head=None if logits else "sigmoid",
        loss=lambda: given()[0], loss_words="", metrics=(), named=True, given=given,
        of_score=of_score, **{**plain, **options},
    )  # fmt: skip


def binary(*metrics: Any) -> ScriptTask:
    """Returns a task with probabilities of two classes, and metrics by name."""
    return task("binary", lambda: ("binary_crossentropy", list(metrics)))


def _model(made: Made, parts: tuple[Part, ...]) -> keras.Model:
    """Makes a model, with the same weights in every call."""
    keras.utils.set_random_seed(3)
    inputs = keras_inputs(parts)
    outputs = made(inputs)
    if not isinstance(outputs, keras.Model):
        return keras.Model(inputs, outputs)
    outputs(inputs)  # makes the weights of a subclass
    return outputs


class ScriptCase(Case):
    """A case whose model is not drawn."""

    def model(self) -> keras.Model:
        return _model(self.network.outputs, self.parts)  # type: ignore[arg-type]

    def given(self) -> Any:
        return self.model()


class Script(NamedTuple):
    source: str
    judge: Callable[[], Verdict]


SCRIPTS: dict[str, Script] = {}
"""The models by name."""


def _registered(source: str, judged: Callable[[Made], Verdict]) -> Callable[[Made], Made]:
    def registered(made: Made) -> Made:
        SCRIPTS[made.__name__.replace("_", " ")] = Script(source, partial(judged, made))
        return made

    return registered


def script(
    source: str,
    parts: Sequence[Part],
    task: ScriptTask,
    optimizer: Callable[[], Any] = lambda: O.Adam(0.02),
) -> Callable[[Made], Made]:
    """Registers a function that makes a model from inputs, under the function's name."""

    def case(made: Made) -> Case:
        rng = np.random.default_rng(7)
        train, validation = _rows(rng, parts, ROWS), _rows(rng, parts, BATCH_SIZE)
        return ScriptCase(
            seed=0, parts=tuple(parts), task=task, form="functional", epochs=2, fit={},
            train=task.labelled(rng, train, trained=True),
            validation=task.labelled(rng, validation, trained=False),
            network=cast(Network, SimpleNamespace(outputs=made, words=[])),
            optimizer=Drawn("", lambda _: optimizer(), scheduled=False, averages=False),
            callbacks=DrawnCallbacks([], lambda _: [], None),
            settings=SETTINGS, several=False, eager=True,
        )  # fmt: skip

    return _registered(source, lambda made: judge(case(made)))


def _rows(rng: np.random.Generator, parts: Sequence[Part], number: int) -> dict[str, Any]:
    drawn = inputs_of(rng, tuple(parts), number)
    for part in parts:
        if isinstance(part, Columns):
            drawn[part.name] = rng.integers(0, IDS, drawn[part.name].shape)
    return drawn


def script_of_outputs(
    source: str,
    parts: Sequence[Part],
    tasks: Mapping[str, ScriptTask],
    optimizer: Callable[[], Any] = lambda: O.Adam(0.02),
    weights: Mapping[str, float] = MappingProxyType({}),
) -> Callable[[Made], Made]:
    """Registers a function that makes a model with several outputs from inputs; `weights` are those
    of the outputs' losses."""

    def judged(made: Made) -> Verdict:
        rng = np.random.default_rng(7)
        rows = [_with_targets(rng, parts, tasks, number) for number in (ROWS, BATCH_SIZE)]
        own = {n: replace(t.task(), loss_weight=weights.get(n, 1.0)) for n, t in tasks.items()}
        model = _model(made, tuple(parts))
        try:
            trainer = harness.Trainer(model, task=own, optimizer=optimizer(), **SETTINGS)
            history = trainer.fit(
                rows[0].examples,
                validation=rows[1].examples,
                epochs=2,
                verbose=False,
                shuffle=False,
            )
        except harness.InputError as error:
            return Verdict(seed=0, result="refused", reason=str(error))
        predictions = trainer.predict(rows[0].examples)
        ours = _trained(history, trainer.model, predictions, trainer.evaluate(rows[1].examples))
        theirs = _by_keras(_model(made, tuple(parts)), tasks, optimizer(), dict(weights), rows)
        found = [one for one in distances(ours, theirs) if one.size > one.limit]
        return Verdict(
            seed=0,
            result="different" if found else "equal",
            reason=", ".join(one.figure for one in found),
            details=[f"{one.figure}: {one.words}" for one in found],
        )

    return _registered(source, judged)


class Targets(dict[str, np.ndarray]):
    """Labels by output, which rows are taken of as from one array."""

    def __getitem__(self, rows: Any) -> Any:
        return {name: labels[rows] for name, labels in self.items()}


def _with_targets(
    rng: np.random.Generator, parts: Sequence[Part], tasks: Mapping[str, ScriptTask], number: int
) -> Labelled:
    inputs = _rows(rng, parts, number)
    own = {name: task.labelled(rng, inputs, trained=True) for name, task in tasks.items()}
    labels: Any = {name: each.examples.labels for name, each in own.items()}
    targets: Any = Targets({name: each.targets for name, each in own.items()})
    examples = harness.Examples(inputs=inputs, labels=labels)
    return Labelled(examples=examples, targets=targets, row_weights=None)


def _by_keras(
    model: keras.Model,
    tasks: Mapping[str, ScriptTask],
    optimizer: Any,
    weights: dict[str, float],
    rows: Sequence[Labelled],
) -> Trained:
    compiled = {name: task.compiled() for name, task in tasks.items()}
    loss, metrics = ({n: c[key] for n, c in compiled.items()} for key in ("loss", "metrics"))
    model.compile(optimizer, loss=loss, metrics=metrics, loss_weights=weights or None)
    batches = rows[0].dataset(BATCH_SIZE, [np.arange(ROWS)] * 2)
    others = rows[1].dataset(BATCH_SIZE)
    steps = ROWS // BATCH_SIZE
    history = model.fit(
        batches, validation_data=others, epochs=2, steps_per_epoch=steps, verbose=0, shuffle=False
    )
    predictions = model.predict(rows[0].dataset(BATCH_SIZE), verbose=0)
    evaluation = model.evaluate(others, verbose=0, return_dict=True)
    return _trained(history, model, predictions, evaluation)


def _trained(history: Any, model: keras.Model, predictions: Any, evaluation: Any) -> Trained:
    if isinstance(predictions, Mapping):
        predictions = [predictions[name] for name in model.output_names]
    return Trained(
        history=history.history,
        epochs=list(history.epoch),
        weights=[np.array(weights) for weights in model.get_weights()],
        names=[variable.path for variable in model.weights],
        predictions=np.concatenate(predictions, axis=1),
        evaluation=evaluation,
        files=[],
    )


def bag(inputs: Any, units: int, activation: str | None = None, **options: Any) -> Any:
    return harness.MultiHotDense(units, TOKENS, activation=activation, **options)(inputs)


def mean(inputs: Any, units: int) -> Any:
    return Pooled(TOKENS, units, mean=True, seed=1)(inputs)


def column(inputs: Any, number: int) -> Any:
    return inputs["fields"][:, number]


def embedded(inputs: Any, units: int, **options: Any) -> list[Any]:
    """Returns an embedding [B, units] of each column."""
    return [L.Embedding(IDS, units, **options)(column(inputs, i)) for i in range(4)]


def deep(x: Any, *units: int, activation: Any = "relu") -> Any:
    for number in units:
        x = L.Dense(number, activation=activation)(x)
    return x


# Texts.

BOOK = "Deep Learning with Python, 3rd edition, chapter"
KERAS_2 = "keras-team/keras examples/"
IO = "keras-team/keras-io examples/"


@script(f"{BOOK} 4", TEXT, binary("accuracy"))
def imdb(inputs: Any) -> Any:
    return L.Dense(1, activation="sigmoid")(deep(bag(inputs, 16, "relu"), 16))


@script(
    f"{BOOK} 4", TEXT,
    task("categorical", lambda: (
        "categorical_crossentropy", ["accuracy", M.TopKCategoricalAccuracy(k=3, name="top_3")]
    )),
)  # fmt: skip
def reuters(inputs: Any) -> Any:
    return L.Dense(4, activation="softmax")(deep(bag(inputs, 16, "relu"), 16))


@script(
    f"{KERAS_2}reuters_mlp_relu_vs_selu.py", TEXT,
    task("categorical", lambda: ("categorical_crossentropy", ["accuracy"])), lambda: O.SGD(0.1),
)  # fmt: skip
def self_normalizing_network(inputs: Any) -> Any:
    # At exactly 0, as of a row without ids, TensorFlow's and XLA's gradients of selu differ.
    own = {"kernel_initializer": "lecun_normal", "bias_initializer": "random_normal"}
    x = L.Activation("selu")(bag(inputs, 16, **own))
    for _ in range(5):
        x = L.Dense(16, kernel_initializer="lecun_normal")(L.AlphaDropout(0.0)(x))
        x = L.Activation("selu")(x)
    return L.Activation("softmax")(L.Dense(4)(x))


@script(
    f"{KERAS_2}kaggle_otto_nn.py", (NUMBERS,),
    task("categorical", lambda: ("categorical_crossentropy", [])),
)  # fmt: skip
def otto_with_prelu(inputs: Any) -> Any:
    x = inputs["numbers"]
    for _ in range(3):
        x = L.Dropout(0.0)(L.BatchNormalization()(L.PReLU()(L.Dense(16)(x))))
    return L.Activation("softmax")(L.Dense(4)(x))


@script(f"{KERAS_2}imdb_fasttext.py", TEXT, binary("accuracy"))
def fasttext(inputs: Any) -> Any:
    return L.Dense(1, activation="sigmoid")(mean(inputs, 16))


@script(f"{KERAS_2}imdb_dan.py", TEXT, binary("accuracy"), lambda: O.Adagrad(0.1))
def deep_averaging_network(inputs: Any) -> Any:
    x = mean(inputs, 16)
    for _ in range(3):
        x = L.Dropout(0.0)(L.Dense(16, activation="relu")(x))
    return L.Dense(1, activation="sigmoid")(x)


@script(
    "tensorflow/docs site/en/tutorials/keras/text_classification.ipynb", TEXT,
    task("binary", lambda: (
        keras.losses.BinaryCrossentropy(from_logits=True), [M.BinaryAccuracy(threshold=0.0)]
    ), logits=True),
)  # fmt: skip
def text_classification_with_logits(inputs: Any) -> Any:
    return L.Dense(1)(L.Dropout(0.0)(mean(inputs, 16)))


@script(
    f"{IO}nlp/multi_label_classification.py", TEXT,
    task("multi_label", lambda: ("binary_crossentropy", ["binary_accuracy"])),
)  # fmt: skip
def papers_by_subjects(inputs: Any) -> Any:
    return L.Dense(4, activation="sigmoid")(deep(bag(inputs, 16, "relu"), 8))


@script("keras-team/keras keras/legacy/layers.py, Highway", TEXT, binary("accuracy"))
def highway_network(inputs: Any) -> Any:
    x = bag(inputs, 8)
    for _ in range(2):
        transform = L.Dense(
            8, activation="sigmoid", bias_initializer=keras.initializers.Constant(-2)
        )
        share = transform(x)
        x = share * L.Dense(8, activation="relu")(x) + (1 - share) * x
    return L.Dense(1, activation="sigmoid")(x)


class Word2Vec(keras.Model):
    """Two tables, one of them over several words."""

    def __init__(self) -> None:
        super().__init__()
        self.target_embedding = L.Embedding(IDS, 8)
        self.context_embedding = L.Embedding(IDS, 8)

    def call(self, inputs: Any) -> Any:
        target, context = inputs["target"][:, 0], inputs["context"]
        word = self.target_embedding(target)
        return ops.einsum("be,bce->bc", word, self.context_embedding(context))


@script(
    "tensorflow/docs site/en/tutorials/text/word2vec.ipynb",
    (columns("target"), columns("context", 4)),
    task("categorical", lambda: (
        keras.losses.CategoricalCrossentropy(from_logits=True), ["accuracy"]
    ), logits=True),
)  # fmt: skip
def word2vec(inputs: Any) -> Any:
    return Word2Vec()
