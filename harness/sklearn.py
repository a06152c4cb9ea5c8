"""Estimators for scikit-learn: `MultiHotClassifier` and `MultiHotRegressor`.

A fit on texts does what `harness train` does with a file of them. Fits on vectors of one shape
share compiled programs, so a search over many candidates compiles once.

Letters: B rows, V features or ids, K classes or targets.
"""

import inspect
import itertools
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from harness.base.checks import require_extra
from harness.base.decoding import from_mapping
from harness.base.errors import InputError, in_python
from harness.base.quiet import quiet_import
from harness.cli.recipe import find, sizes_for
from harness.cli.settings import OptimizerConfig, TrainConfig, trainer_of
from harness.data.examples import Examples
from harness.data.options import Tokenizer, Weighting
from harness.data.ragged import RaggedSets, starting_with, stratified
from harness.data.sources import Dataset, load_configured
from harness.data.vocabulary import Vocabulary

require_extra("sklearn", "harness.sklearn", "sklearn")
with quiet_import():
    import keras
    from scipy.sparse import csr_array, issparse
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_array, check_consistent_length, check_random_state
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

    from harness.model.layers import Surroundings, computing
    from harness.model.network import DefaultNetwork, build_model
    from harness.program.optimizer import Schedule, Scheduled, optimizer_factory
    from harness.task.task import Kind
    from harness.trainer.callbacks import EarlyStopping
    from harness.trainer.trainer import Trainer

_MOST_SHARED = 4
"""Maximum number of trainers to keep, with their compiled programs, for further fits."""
_MOST_IDS = 2**18
"""Maximum number of ids to predict for at once, since their rows of the table are copied."""
_EPOCHS, _MOST_EPOCHS = 10, 30
"""Default numbers of epochs on vectors, and with early stopping."""
_SETTINGS = (
    *("hidden_units", "dropout", "activation", "optimizer", "learning_rate"),
    *("learning_rate_schedule", "weight_decay", "epochs", "batch_size", "tokenizer", "ngrams"),
    *("num_tokens", "min_count", "hash_bits", "unknown", "weighting", "normalize"),
)
"""Parameters that are settings of `harness train`."""
_Form = Literal["texts", "tokens", "ids", "vectors"]
_shared: OrderedDict[Any, tuple[Trainer, Callable[..., None]]] = OrderedDict()
_lock = threading.RLock()
"""Held by the thread that trains: threads of a search would change each other's weights."""


@dataclass(kw_only=True, eq=False, repr=False)
class _MultiHotEstimator(BaseEstimator):
    """The parameters of both estimators.

    Args:
        recipe: how to choose parameters that are None. `auto`: each fit on texts or lists of
            strings runs the recipe of `harness train`, which trains candidates and compares their
            losses on held-out rows; other fits use the numbers of rows and features. `tutorial`:
            the defaults that `harness train --help` shows.
        hidden_units: units of each hidden layer; 0 for a linear model without hidden layers.
        dropout: dropout rate after each hidden layer; a single number is the rate of all.
        activation: Keras's name for the activation of the hidden layers.
        optimizer: any Keras optimizer, by name.
        learning_rate: the highest learning rate.
        learning_rate_schedule: how the learning rate falls; on vectors it changes only between
            epochs. None: `linear` with the recipe `auto`, else `constant`.
        weight_decay: decoupled weight decay: each step subtracts `weight_decay * learning rate *
            weight`.
        epochs: passes over the rows.
        batch_size: rows in each training step.
        early_stopping: stop after this many epochs without a lower loss on held-out rows, and
            restore the weights of the best epoch. None: train all epochs, on all rows.
        validation_split: fraction of the rows to hold out for early stopping, the same fraction of
            each class.
        tokenizer: what a word of a text is; see `harness.load`.
        ngrams: maximum length, in words, of the n-grams that have ids; 1 for words alone.
        num_tokens: maximum number of ids of words.
        min_count: leave out words that occur less often in the texts.
        hash_bits: use hashes of this many bits as the ids of words. `partial_fit` needs it to
            accept words that its first call lacked.
        unknown: what to do with unknown words: `id` lets them share one id, `drop` leaves them out.
        weighting: weight of a word in a text: `binary`, `count` or `tf_idf`.
        normalize: `l2` scales the weights of each text to Euclidean length 1.
        callbacks: Keras's callbacks. A clone, such as a candidate of a search, gets copies of them.
        random_state: seed of the initial weights, the row order and dropout; None draws a new one
            in each fit.
        verbose: whether to print the progress.
    """

    recipe: Literal["auto", "tutorial"] = "auto"
    hidden_units: int | Sequence[int] | None = None
    dropout: float | Sequence[float] | None = None
    activation: str = "relu"
    optimizer: str = "adam"
    learning_rate: float | None = None
    learning_rate_schedule: Schedule | None = None
    weight_decay: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    early_stopping: int | None = None
    validation_split: float = 0.1
    tokenizer: Tokenizer | None = None
    ngrams: int | None = None
    num_tokens: int | None = None
    min_count: int = 1
    hash_bits: int | None = None
    unknown: Literal["id", "drop"] | None = None
    weighting: Weighting | None = None
    normalize: Literal["none", "l2"] | None = None
    callbacks: Sequence[keras.callbacks.Callback] | None = None
    random_state: int | np.random.RandomState | None = 0
    verbose: bool = False

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = tags.input_tags.string = True
        tags.target_tags.required = True
        return tags

    def _config(self, **more: Any) -> TrainConfig:
        """Returns the parameters as settings of `harness train`."""
        given = {name: getattr(self, name) for name in _SETTINGS}
        given = {name: _plain(name, value) for name, value in given.items() if value is not None}
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31)
        config = {"seed": int(seed), "recipe": self.recipe, **given, **more}
        made: TrainConfig = from_mapping(TrainConfig, config, where=type(self).__name__)
        return made

    def _fitted(
        self, X: Any, labels: Any, weights: Any, kind: Kind, num_outputs: int, **more: Any
    ) -> Self:
        """Fits rows with labels in the form that `Examples` takes."""
        self.__dict__.pop("_trainer", None)
        config, data, sets = self._begun(X, labels, kind, **more)
        with _lock:
            self._train(
                _examples(sets, labels, weights, kind, num_outputs), config, kind, num_outputs, data
            )
        return self

    def _partly_fitted(
        self, X: Any, labels: Any, weights: Any, kind: Kind, num_outputs: int
    ) -> Self:
        """Trains for one epoch; a further call continues from there."""
        trainer = vars(self).get("_trainer")
        is_new = not hasattr(self, "_model")
        if is_new:
            config, _, sets = self._begun(X, labels, kind, searches=False)
        else:
            config, sets = self._config(), self._sets(X)
        rows = _examples(sets, labels, weights, kind, num_outputs)
        with _lock:
            if trainer is None:
                network: Any = _function(_network(config, sets, kind, num_outputs), kind)
                network = network if is_new else self._model
                size = self.batch_size or min(config.execution.batch_size, sets.num_rows)
                settings = vars(config.execution) | {"batch_size": size}
                rate = optimizer_factory(**_optimizer(config), learning_rate=self.learning_rate)
                trainer = self._trainer = Trainer(network, task=kind, optimizer=rate, **settings)
            self._fit_trainer(trainer, rows, epochs=1, callbacks=[*(self.callbacks or ())])
            self._model: Any = trainer.model
            self._thresholds: Any = np.float32(0.5)
        return self

    def _begun(
        self, X: Any, labels: Any, kind: Kind, *, searches: bool = True, **more: Any
    ) -> tuple[TrainConfig, Dataset | None, RaggedSets]:
        """Returns the settings for a fit; the data set, if the recipe chose the settings for texts;
        and the rows."""
        self._form, data = _form_of(X), None
        searches = searches and self.recipe == "auto" and kind != "regression"
        if self._form in ("texts", "tokens"):
            rows = _checked_texts(X)
            config, data = self._read(rows, labels, kind, self._config(**more), searches=searches)
            sets = data.train
        else:
            config, sets = self._config(), self._sets(X, reset=True)
        if data is not None and searches:
            return config, data, sets
        if self.recipe == "auto":
            free = {name for name in _SETTINGS if getattr(self, name) is None}
            usual = {"epochs": _EPOCHS, "learning_rate_schedule": "linear"}
            usual |= sizes_for(sets, config, free)
            config = self._config(**{name: usual[name] for name in free & usual.keys()})
        return config, None, sets

    def _read(
        self, X: list[Any], labels: Any, kind: Kind, config: TrainConfig, *, searches: bool
    ) -> tuple[TrainConfig, Dataset]:
        """Gives ids to the words of texts, as `harness train` does with a file of them; returns the
        settings, with those that its recipe found, and the rows."""
        if kind == "multi_label":
            names: list[Any] = [[*map(str, row)] for row in labels]
        elif kind == "regression":  # which reads no labels, but a file has some
            names = [str(row % 2) for row in range(len(X))]
        else:
            names = [*map(str, labels)]
        with tempfile.TemporaryDirectory() as folder:
            for part, most in (("train", len(X)), ("test", 1)):  # a test row chooses nothing
                table = pa.table({"text": X[:most], "label": names[:most]})
                parquet.write_table(table, Path(folder, f"{part}.parquet"))
            build = replace(config.data.build, test_data=str(Path(folder, "test.parquet")))
            place = str(Path(folder, "train.parquet"))
            config = replace(
                config, data=replace(config.data, data=place, data_cache="off", build=build)
            )
            given = {name for name in _SETTINGS if getattr(self, name) is not None}
            found = None
            if searches:
                found = find(config, given, started=lambda: None, tells=False)
            if found is not None and self.verbose:
                print(found)
            data = load_configured(config.data, tells=False) if found is None else found.data
        if data.train.num_rows != len(X):
            raise InputError(
                f"{len(X) - data.train.num_rows} texts of X hold NUL characters or lone "
                "surrogates, which are no text; leave them out"
            )
        assert data.vocabulary is not None
        self.vocabulary_ = data.vocabulary
        return config if found is None else found.config, data

    def _train(
        self,
        rows: Examples,
        config: TrainConfig,
        kind: Kind,
        num_outputs: int,
        data: Dataset | None,
    ) -> None:
        """Trains a network on the rows and stores it."""
        train, held_out, epochs, callbacks = rows, None, config.epochs, [*(self.callbacks or ())]
        if self.early_stopping is not None:
            epochs = self.epochs or _MOST_EPOCHS
            train, held_out = _split(rows, self.validation_split, seed=config.data.split_seed)
            callbacks.append(EarlyStopping(patience=self.early_stopping))
        sets = train.ragged[""]
        size = self.batch_size or min(config.execution.batch_size, train.num_rows)
        config = replace(config, execution=replace(config.execution, batch_size=size))
        if data is not None:  # as the command does
            data = replace(data, train=sets)
            trainer = trainer_of(config, data, config.execution, epochs=epochs)
        else:
            trainer = _restarted(_network(config, sets, kind, num_outputs), kind, config, train)
            callbacks.insert(0, _rate(config.optimizer, epochs))
        history = self._fit_trainer(
            trainer, train, validation=held_out, epochs=epochs, callbacks=callbacks
        )
        self.history_ = history.history
        self.n_iter_ = len(history.epoch)
        assert trainer.last is not None
        words = None if data is None else data.vocabulary
        thresholds = trainer.last.thresholds or (words and words.thresholds)
        self._thresholds = np.asarray(thresholds or 0.5, np.float32)
        self._model = trainer.model
        if data is None:  # another fit will change that one
            self._model = keras.models.clone_model(trainer.model)
            self._model.set_weights(trainer.model.get_weights())

    def _fit_trainer(self, trainer: Trainer, rows: Examples, **how: Any) -> keras.callbacks.History:
        history = trainer.fit(rows, verbose=self.verbose, telemetry_hz=0, **how)
        assert trainer.last is not None
        progress = trainer.last.progress
        if progress is not None and progress.interrupted:
            raise KeyboardInterrupt
        return history

    def _sets(self, X: Any, *, reset: bool = False) -> RaggedSets:
        """Returns rows as ragged sets; their form must be that of the rows of the fit."""
        form = _form_of(X)
        if form != self._form and {form, self._form} != {"ids", "vectors"}:
            raise InputError(f"X holds {form}, but the estimator was fitted on {self._form}")
        if self._form == "vectors":
            matrix = csr_array(validate_data(self, X, accept_sparse="csr", reset=reset))
            return RaggedSets.from_scipy(matrix, name="X").with_weights()
        if self._form == "ids":
            sets = RaggedSets.from_lists(X, name="X").unique()
            if reset:
                self.n_features_in_ = sets.num_tokens
            most = self.n_features_in_
            if sets.num_tokens > most:
                raise InputError(
                    f"X holds the id {sets.num_tokens - 1}, and was fitted with ids below {most}; "
                    "leave out others"
                )
            return sets.derived(num_tokens=most)
        X, words = _checked_texts(X), self.vocabulary_
        rows = words.encode_all(X) if self._form == "texts" else _encoded_tokens(X, words)
        sets = RaggedSets.from_lists(rows, num_tokens=words.num_tokens, name="X")
        return words.weighted(sets).unique()

    def _outputs(self, X: Any) -> npt.NDArray[np.float32]:
        """Returns the network's outputs, [B, outputs], computed without compilation."""
        check_is_fitted(self)
        sets = self._sets(X)
        starts = np.searchsorted(sets.row_splits[1:], np.arange(0, sets.nnz, _MOST_IDS))
        bounds = np.unique([0, *starts, sets.num_rows])
        outputs = []
        with computing(Surroundings(implementation="gather", export=True)):
            for start, stop in itertools.pairwise(bounds.tolist()):
                part = sets[start:stop]
                inputs = {"values": part.values, "row_splits": part.row_splits.astype(np.int32)}
                if part.weights is not None:
                    inputs["weights"] = part.weights
                outputs.append(self._model(inputs, training=False).numpy())
        return np.concatenate(outputs)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_model")


@dataclass(kw_only=True, eq=False, repr=False)
class MultiHotClassifier(ClassifierMixin, _MultiHotEstimator):
    """A classifier of texts, of lists of strings or ids, and of vectors, dense or sparse.

    Each row has one class. If `y` holds 0 or 1 for each class, [B, K], a row may have several or
    none. Each fit chooses the parameters that are None; see `recipe`. Invalid values of the others
    raise `harness.InputError`, a ValueError, in `fit`.

    After a fit it has `classes_`; `history_`, Keras's history as a dictionary of lists; `n_iter_`,
    the number of epochs; `vocabulary_` if X was texts or lists of strings, else `n_features_in_`.
    `class_weight` has weights of the classes in the loss; `balanced`: B / (K * rows of the class).
    """

    class_weight: Literal["balanced"] | dict[Any, float] | None = None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @in_python()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains on rows X with the classes y.

        Args:
            X: B texts, as a list, an array or a Series; lists of strings; sets of ids, or lists of
                ids whose lengths differ; or vectors [B, V], as an array, a frame or a SciPy sparse
                matrix.
            y: the class of each row, [B], a number or a string; or 0 and 1 for each class [B, K].
            sample_weight: weights of the rows' losses, [B].

        Raises:
            InputError: a ValueError, if X, y or the parameters are wrong.
        """
        y, weights = _checked(self, X, y, sample_weight)
        is_several = type_of_target(y) == "multilabel-indicator"
        self.classes_ = np.arange(y.shape[1]) if is_several else _classes(y)
        self._seen = np.flatnonzero(y.any(axis=0)) if is_several else None
        (labels, weights), (kind, number) = self._labels(y, weights), self._kind()
        more = {"class_weight": "balanced"} if self.class_weight == "balanced" else {}
        return self._fitted(X, labels, weights, kind, number, **more)

    @in_python()
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Trains for one epoch on rows X; each further call continues from there. On texts, only
        the words of the first call have ids, unless `hash_bits` is given.

        Args:
            X, y, sample_weight: as in `fit`, with at least `batch_size` rows.
            classes: all classes of all calls; required in the first call, unless `fit` was called
                before.

        Raises:
            InputError: a ValueError, if X, y or the parameters are wrong.
        """
        y, weights = _checked(self, X, y, sample_weight)
        if not hasattr(self, "_model"):
            is_several = type_of_target(y) == "multilabel-indicator"
            if classes is None and not is_several:
                raise InputError("classes must be given in the first call of partial_fit")
            self.classes_ = np.arange(y.shape[1]) if is_several else np.unique(classes)
            self._seen = self.classes_ if is_several else None
        return self._partly_fitted(X, *self._labels(y, weights), *self._kind())

    def _labels(self, y: Any, weights: Any) -> tuple[Any, Any]:
        """Returns labels in the form that `Examples` takes, and the rows' weights times those of
        their classes."""
        if self._seen is not None:
            if self.class_weight is not None:
                raise InputError("class_weight is for rows of one class each; leave it out")
            return RaggedSets.from_scipy(csr_array(y[:, self._seen]), name="y"), weights
        y = column_or_1d(y)
        unknown = np.setdiff1d(y, self.classes_)
        if unknown.size:
            raise InputError(f"y has the class {unknown[0]}, which classes lacks; add it there")
        if self.class_weight is not None:
            own = compute_sample_weight(self.class_weight, y)
            weights = own if weights is None else own * weights
        return np.searchsorted(self.classes_, y).astype(np.int32), weights

    def _kind(self) -> tuple[Kind, int]:
        number = len(self.classes_ if self._seen is None else self._seen)
        if number < 2:
            raise InputError(f"the number of classes in y is {number}; at least 2 are needed")
        if self._seen is not None:
            return "multi_label", number
        return "binary" if number == 2 else "multi_class", number

    @in_python()
    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Returns the probability of each class, [B, K], in the order of `classes_`."""
        outputs = self._outputs(X)
        if self._seen is not None:
            every = np.zeros((len(outputs), len(self.classes_)), np.float32)
            every[:, self._seen] = outputs
            return every
        return np.concatenate([1 - outputs, outputs], axis=1) if outputs.shape[1] == 1 else outputs

    @in_python()
    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Returns the most probable class of each row, [B]; or 0 and 1 for each class [B, K]."""
        probabilities = self.predict_proba(X)
        if self._seen is None:
            return self.classes_[probabilities.argmax(axis=1)]
        found = np.zeros(probabilities.shape, np.int64)
        found[:, self._seen] = probabilities[:, self._seen] > self._thresholds
        return found


@dataclass(kw_only=True, eq=False, repr=False)
class MultiHotRegressor(RegressorMixin, _MultiHotEstimator):
    """A regression on texts, on lists of strings or ids, and on vectors, dense or sparse.

    Its loss is the mean squared error. Targets are standardized for training: mean 0, standard
    deviation 1. No recipe runs for a regression: without values of yours, the numbers of rows and
    features decide.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @in_python()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains on rows X, as in `MultiHotClassifier.fit`, with the targets y, [B] or [B, K]."""
        y, weights = _checked(self, X, y, sample_weight, dtype=np.float64)
        self._scale(y)
        return self._fitted(X, self._scaled(y), weights, "regression", _num_targets(y))

    @in_python()
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains for one epoch, on at least `batch_size` rows; each further call continues from
        there. The first call's targets decide how all are standardized."""
        y, weights = _checked(self, X, y, sample_weight, dtype=np.float64)
        if not hasattr(self, "_model"):
            self._scale(y)
        return self._partly_fitted(X, self._scaled(y), weights, "regression", _num_targets(y))

    def _scale(self, y: Any) -> None:
        self._mean, deviation = y.mean(axis=0), y.std(axis=0)
        self._deviation = np.where(deviation > 0, deviation, 1)

    def _scaled(self, y: Any) -> npt.NDArray[np.float32]:
        scaled: npt.NDArray[np.float32] = ((y - self._mean) / self._deviation).astype(np.float32)
        return scaled

    @in_python()
    def predict(self, X: Any) -> npt.NDArray[np.float64]:
        """Returns the predicted targets, [B] or [B, K]."""
        outputs = self._outputs(X)
        if np.ndim(self._mean) == 0:
            outputs = outputs[:, 0]
        return outputs * self._deviation + self._mean


def _plain(name: str, value: Any) -> Any:
    """Returns a parameter as a setting: NumPy's numbers become Python's; `hidden_units` and
    `dropout` become lists."""
    if name in ("hidden_units", "dropout"):
        return np.atleast_1d(value).tolist()
    return value.item() if isinstance(value, np.generic) else value


def _checked(estimator: Any, X: Any, y: Any, weights: Any, *, dtype: Any = None) -> tuple[Any, Any]:
    """Returns the labels and the rows' weights as arrays, checked as in scikit-learn."""
    if y is None:
        name = type(estimator).__name__
        raise InputError(f"{name} requires y to be passed, but the target y is None")
    y = y.toarray() if issparse(y) else y
    y = check_array(y, ensure_2d=False, dtype=dtype, input_name="y")
    y = column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y
    check_consistent_length(X, y, weights)
    if weights is not None:
        weights = np.asarray(weights, np.float32)
        if not weights.any():
            raise InputError("all sample weights are zero; give some rows a weight above 0")
    return y, weights


def _form_of(X: Any) -> _Form:
    """Returns the form of rows. Lists of numbers of one length are vectors, as in scikit-learn."""
    if isinstance(X, str):
        raise InputError("X is a single text; give a list of texts")
    if hasattr(X, "tocsr") or getattr(X, "ndim", 1) != 1 or not hasattr(X, "__len__"):
        return "vectors"
    first = next(iter(X), None)
    if isinstance(first, str):
        return "texts"
    if not isinstance(first, Sequence | set | frozenset | np.ndarray):
        return "vectors"
    if any(isinstance(token, str) for row in X for token in itertools.islice(row, 1)):
        return "tokens"
    is_ragged = isinstance(first, set | frozenset) or len({*map(len, X)}) > 1
    return "ids" if is_ragged else "vectors"


def _checked_texts(X: Any) -> list[Any]:
    """Returns texts or lists of strings as lists."""
    for place, row in enumerate(X):
        if not isinstance(row, Iterable):
            raise InputError(f"row {place} of X is {row!r}, not a text; fill it in or leave it out")
    rows = [row if isinstance(row, str) else [*row] for row in X]
    if any(isinstance(row, str) is not isinstance(rows[0], str) for row in rows):
        raise InputError("X mixes texts and lists of strings; give only one of the two")
    return rows


def _encoded_tokens(X: list[list[str]], words: Vocabulary) -> list[Any]:
    """Returns the ids of lists of strings."""
    splits = np.cumsum([0, *map(len, X)])
    tokens = pa.array([token.encode() for row in X for token in row], pa.large_binary())
    values, splits = words.rows_of(tokens, np.arange(splits[-1], dtype=np.int32), splits)
    if words.start_id is not None:
        values, splits = starting_with(words.start_id, values, splits)
    return [values[start:stop] for start, stop in itertools.pairwise(splits.tolist())]


def _split(rows: Examples, share: float, *, seed: int) -> tuple[Examples, Examples]:
    """Returns rows to train on, and those that are held out."""
    labels: Any = rows.labels
    is_class = isinstance(labels, np.ndarray) and labels.dtype.kind == "i"
    classes = labels if is_class else np.zeros(rows.num_rows, np.int64)
    drawn = stratified(classes, max(1, round(share * rows.num_rows)), seed=seed)

    def part(chosen: npt.NDArray[np.bool_]) -> Examples:
        return replace(
            rows,
            inputs={"": rows.ragged[""][chosen]},
            labels=labels[chosen],
            weights=None if rows.weights is None else rows.weights[chosen],
        )

    return part(~drawn), part(drawn)


def _examples(
    sets: RaggedSets, labels: Any, weights: Any, kind: Kind, num_outputs: int
) -> Examples:
    is_class = kind in ("binary", "multi_class")
    number = num_outputs if is_class else None
    return Examples(inputs={"": sets}, labels=labels, weights=weights, num_classes=number, name="X")


def _classes(y: Any) -> npt.NDArray[Any]:
    """Returns the classes of labels [B], sorted."""
    y = column_or_1d(y)
    check_classification_targets(y)
    found: npt.NDArray[Any] = np.unique(y)
    return found


def _num_targets(y: Any) -> int:
    return 1 if y.ndim == 1 else int(y.shape[1])


def _network(config: TrainConfig, sets: RaggedSets, kind: Kind, num_outputs: int) -> DefaultNetwork:
    return DefaultNetwork(
        **vars(config.model),
        num_tokens=sets.num_tokens,
        num_classes=num_outputs,
        multi_label=kind in ("multi_label", "regression"),
        seed=config.execution.seed,
    )


def _function(network: DefaultNetwork, kind: Kind) -> Callable[[Any], Any]:
    """Returns a function that builds the network, without its sigmoid for a regression."""

    def numbers(inputs: Any) -> Any:
        return keras.Model(inputs, network(inputs)).get_layer("logits").output

    return numbers if kind == "regression" else network


def _optimizer(config: TrainConfig) -> dict[str, Any]:
    """Returns the optimizer's settings that are constants of a compiled program."""
    return {name: getattr(config.optimizer, name) for name in ("optimizer", "weight_decay")}


def _restarted(
    network: DefaultNetwork, kind: Kind, config: TrainConfig, train: Examples
) -> Trainer:
    """Returns a trainer in its initial state. If one was used before for rows of this kind, it is
    that one, with its compiled programs, which do not depend on the seed or the learning rate."""
    settings, seed = replace(config.execution, seed=0), config.execution.seed
    usual, optimizer = replace(network, seed=0), _optimizer(config)
    is_weighted = train.weights is not None, train.ragged[""].weights is not None
    key = (usual, kind, settings, *optimizer.values(), is_weighted)
    if key not in _shared:
        trainer = Trainer(
            _function(usual, kind),
            task=kind,
            optimizer=optimizer_factory(**optimizer),
            **vars(settings),
        )
        _shared[key] = trainer, trainer.snapshot(train)
    _shared.move_to_end(key)
    while len(_shared) > _MOST_SHARED:
        _shared.popitem(last=False)
    trainer, restore = _shared[key]
    restore(seed)
    if seed != 0:
        fresh = build_model(
            _function(network, kind),
            train,
            dtype="float32",
            device=trainer.devices.names[0],
            seed=seed,
        )
        for variable, value in zip(trainer.model.variables, fresh.variables, strict=True):
            variable.assign(value)
    return trainer


def _rate(config: OptimizerConfig, epochs: int) -> keras.callbacks.Callback:
    """Returns a callback that sets the learning rate of each epoch."""
    falls = Scheduled(config.learning_rate_schedule, 1.0, warmup=0, num_steps=epochs)
    peak = config.learning_rate

    def rate(epoch: int, now: float) -> float:
        nonlocal peak
        peak = now if peak is None else peak  # the optimizer's own
        return peak * float(falls(epoch))

    return keras.callbacks.LearningRateScheduler(rate)


_, _, _parameters = inspect.cleandoc(_MultiHotEstimator.__doc__ or "").partition("\n\n")
for _kind in (MultiHotClassifier, MultiHotRegressor):
    _kind.__doc__ = f"{inspect.getdoc(_kind)}\n\n{_parameters}"
