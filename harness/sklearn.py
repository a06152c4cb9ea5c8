"""Estimators for scikit-learn: `MultiHotClassifier` and `MultiHotRegressor`.

A fit on texts does what `harness train` does with a file of them. Fits on vectors of one shape
share compiled programs, so a search over many candidates compiles once.

Letters: B rows, V features or ids, K classes or targets.
"""

import inspect
import itertools
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from harness.base.checks import require, require_count, require_extra
from harness.base.decoding import from_mapping
from harness.base.errors import InputError, in_python
from harness.base.quiet import hide_retracing_warnings, quiet_import
from harness.data.examples import Examples
from harness.data.options import OF_WORDS, Tokenizer, Weighting
from harness.data.ragged import RaggedSets, stratified
from harness.data.readers import records
from harness.data.sources import Dataset, load_configured
from harness.tools.experiment import TrainConfig, trainer_of
from harness.tools.recipe import find, sizes_for

require_extra("sklearn", "harness.sklearn", "sklearn")
import sklearn  # noqa: E402, F401 - first, as `quiet_import` would hide it from Keras in a command

with quiet_import():
    import keras
    from scipy.sparse import csr_array, issparse
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_array, check_consistent_length, check_random_state
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

    from harness.model.layers import anywhere, calling
    from harness.model.network import DefaultNetwork, arrays_of, build_model
    from harness.model.optimizers import Schedule, optimizer_factory
    from harness.task.task import Task
    from harness.trainer.callbacks import EarlyStopping, checked
    from harness.trainer.settings import Settings
    from harness.trainer.trainer import Trainer

_MOST_SHARED = 4
"""Maximum number of trainers to keep, with their compiled programs, for further fits."""
_MOST_IDS = 2**18
"""Maximum number of ids to predict for at once, since their rows of the table are copied."""
_ROWS = 128  # predictions are computed for multiples of this number of rows
_EPOCHS, _MOST_EPOCHS = 10, 30  # default numbers of epochs on vectors, and with early stopping
_SETTINGS = (
    *("hidden_units", "dropout", "activation", "optimizer", "learning_rate"),
    *("learning_rate_schedule", "weight_decay", "epochs", "batch_size", *OF_WORDS),
)
"""Parameters that are settings of `harness train`."""
_Form = Literal["texts", "tokens", "ids", "vectors"]
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
    _task: ClassVar[Any] = "auto"
    _num_classes: ClassVar[Any] = None
    _model = _trainer = cast(Any, None)  # the fitted network, and the trainer of `partial_fit`

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = tags.input_tags.string = tags.target_tags.required = True
        tags.target_tags.multi_output = self._task == "regression"
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return self._model is not None

    def _config(self, **more: Any) -> TrainConfig:
        if self.early_stopping is not None:
            require_count("early_stopping", self.early_stopping)
            share = self.validation_split
            ok = isinstance(share, float | np.floating) and 0 < share < 1
            require(ok, f"validation_split is {share!r}; give a share between 0 and 1, as in 0.1")
        given = {name: getattr(self, name) for name in self._given()}
        # A table of settings is none of them, and would be taken for a group of some.
        given |= {name: repr(one) for name, one in given.items() if isinstance(one, Mapping)}
        given |= {n: np.atleast_1d(given[n]) for n in ("hidden_units", "dropout") if n in given}
        given = {name: np.asarray(value).tolist() for name, value in given.items()}
        seed, state = self.random_state, check_random_state(self.random_state)
        seed = seed if isinstance(seed, int | np.integer) else state.randint(2**31)
        config = {"seed": int(seed), "recipe": self.recipe, **given, **more}
        made: TrainConfig = from_mapping(TrainConfig, config, where=type(self).__name__)
        return made

    def _given(self) -> set[str]:
        return {name for name in _SETTINGS if getattr(self, name) is not None}

    def _fitted(self, X: Any, labels: Any, weights: Any) -> Self:
        with _lock:
            config, data, train = self._begun(X, labels, weights, searches=self.recipe == "auto")
            held_out, epochs, callbacks = None, config.epochs, checked(self.callbacks)
            if self.early_stopping is not None:
                epochs = self.epochs or _MOST_EPOCHS
                train, held_out = _split(train, self.validation_split, config.data.split_seed)
                callbacks.append(EarlyStopping(patience=self.early_stopping))
            config = self._sized(config, train)
            if data is not None:  # as the command does
                data = replace(data, train=train.ragged[""])
                trainer = trainer_of(config, data, config.execution, epochs=epochs)
            else:
                trainer = self._restarted(config, train)
                callbacks.insert(0, _rate(config, epochs))
            history = self._trained(trainer, train, held_out, epochs=epochs, callbacks=callbacks)
            self._settled = config, self._fixed()
            self.history_, self.n_iter_ = history.history, len(history.epoch)
            assert trainer.last is not None
            words = None if data is None else data.vocabulary
            thresholds = trainer.last.thresholds or (words and words.thresholds)
            self._thresholds, self._model = np.asarray(thresholds or 0.5, np.float32), trainer.model
            if data is None:  # another fit will change that one
                self._model = keras.models.clone_model(trainer.model)
                self._model.set_weights(trainer.model.get_weights())
        return self

    def _partly_fitted(self, X: Any, labels: Any, weights: Any) -> Self:
        """Trains for one epoch; a further call continues from there."""
        is_new, callbacks = self._model is None, checked(self.callbacks)
        ok = self.early_stopping is None
        require(ok, "early_stopping is for fit, not for partial_fit; leave it out")
        with _lock:
            if is_new:
                config, _, rows = self._begun(X, labels, weights, searches=False)
                self._settled = config, self._fixed()
            else:
                config, rows = self._resettled(), self._examples(self._sets(X), labels, weights)
            if (trainer := self._trainer) is None:
                config, given = self._sized(config, rows), config.optimizer
                rate = optimizer_factory(**_optimizer(config), learning_rate=given.learning_rate)
                model = self._network(config, rows) if is_new else self._model
                trainer = Trainer(model, task=self._task, optimizer=rate, **vars(config.execution))
            elif config != self._settled[0]:
                callbacks.insert(0, _rate(config, 1))
            self._trained(trainer, rows, None, epochs=1, callbacks=callbacks)
            self._settled = config, self._settled[1]
            self._trainer, self._model, self._thresholds = trainer, trainer.model, np.asarray(0.5)
        return self

    def _fixed(self) -> dict[str, str]:
        """Returns the parameters that a `partial_fit` after another fit cannot change."""
        names = {*_SETTINGS, "recipe", "random_state"} - {"learning_rate", "epochs"}
        return {name: str(getattr(self, name)) for name in sorted(names)}

    def _resettled(self) -> TrainConfig:
        """Returns the settings of the fit before, with the present learning rate."""
        config, before = self._settled
        for name, value in self._fixed().items():
            if value != before[name]:
                raise InputError(
                    f"{name} was {before[name]} in the fit before and is {value}, but of these "
                    "settings partial_fit can change learning_rate alone; fit a clone instead"
                )
        rate = self._config().optimizer.learning_rate or config.optimizer.learning_rate
        return replace(config, optimizer=replace(config.optimizer, learning_rate=rate))

    def _begun(
        self, X: Any, labels: Any, weights: Any, *, searches: bool
    ) -> tuple[TrainConfig, Dataset | None, Examples]:
        """Returns the settings for a fit; the data set, if the command would choose the settings
        for these texts; and the rows."""
        self._form, data, searches = _form_of(X), None, searches and self._task != "regression"
        if self._form in ("texts", "tokens"):
            config, data = self._read(_checked_texts(X), labels, weights, searches=searches)
            sets = data.train
        else:
            given = [name for name in OF_WORDS if getattr(self, name) != getattr(type(self), name)]
            if given:
                raise InputError(f"X holds {self._form}, no words; leave out {', '.join(given)}")
            config, sets = self._config(), self._sets(X, reset=True)
        if self.recipe == "auto" and (data is None or not searches):
            data, free = None, {*_SETTINGS} - self._given()
            usual = {"epochs": _EPOCHS, "learning_rate_schedule": "linear"}
            usual |= sizes_for(sets.num_rows, sets.num_tokens, config, free)
            config = self._config(**{name: usual[name] for name in free & usual.keys()})
        return config, data, self._examples(sets, labels, weights)

    def _read(
        self, X: list[Any], labels: Any, weights: Any, *, searches: bool
    ) -> tuple[TrainConfig, Dataset]:
        """Reads texts as `harness train` does, from a file; returns the settings and the rows."""
        check = records.text if self._form == "texts" else records.tokens
        for place, row in enumerate(X):
            try:
                check(row)
            except records.FlawError as flaw:
                raise InputError(f"row {place} of X: {flaw}; correct it or leave it out") from flaw
        if isinstance(labels, RaggedSets):
            names: Any = [*labels]
        else:  # a regression reads no labels, but a file has some
            names = np.arange(len(X)) % 2 if self._task == "regression" else labels
        table = pa.table({"text": X, "label": names})
        with tempfile.TemporaryDirectory() as folder:
            train, test = (str(Path(folder, f"{part}.parquet")) for part in ("train", "test"))
            parquet.write_table(table, train)
            parquet.write_table(table[:1], test)  # a test row chooses nothing
            config = self._config(data=train, test_data=test, data_cache="off")
            how: Any = {"started": lambda: None, "tells": False, "weights": weights}
            found = find(config, self._given(), **how) if searches else None
            if found is not None and self.verbose:
                print(found)
            data = load_configured(config.data, tells=False) if found is None else found.data
        assert data.train.num_rows == len(X)
        assert data.vocabulary is not None
        self.vocabulary_ = data.vocabulary
        return config if found is None else found.config, data

    def _sized(self, config: TrainConfig, rows: Examples) -> TrainConfig:
        # A batch size that was not given does not exceed the rows.
        size = self.batch_size or min(config.execution.batch_size, rows.num_rows)
        return replace(config, execution=replace(config.execution, batch_size=size))

    def _examples(self, sets: RaggedSets, labels: Any, weights: Any) -> Examples:
        parts = {"inputs": {"": sets}, "labels": labels, "weights": weights}
        return Examples(**parts, num_classes=self._num_classes, name="X")

    def _network(self, config: TrainConfig, rows: Examples) -> DefaultNetwork:
        task = Task(self._task).settled(rows)
        return DefaultNetwork(
            **vars(config.model),
            num_tokens=rows.ragged[""].num_tokens,
            num_classes=task.num_classes,
            multi_label=task.kind == "multi_label",
            regression=task.kind == "regression",
            seed=config.execution.seed,
        )

    def _restarted(self, config: TrainConfig, rows: Examples) -> Trainer:
        """Returns a trainer in its initial state: that of earlier fits on such rows, if any, with
        its compiled programs, which do not depend on the seed or the learning rate."""
        network, settings = self._network(config, rows), replace(config.execution, seed=0)
        has_weights = rows.weights is not None, rows.ragged[""].weights is not None
        parts = replace(network, seed=0), self._task, settings, *has_weights
        trainer, snapshots = _shared(*parts, **_optimizer(config))
        if not snapshots:
            snapshots.append(trainer.snapshot(rows))
        snapshots[0](network.seed)
        if network.seed != 0:
            how: Any = {"dtype": "float32", "device": trainer.devices.names[0]}
            fresh = build_model(network, rows, **how, seed=network.seed)
            for variable, value in zip(trainer.model.variables, fresh.variables, strict=True):
                variable.assign(value)
        return trainer

    def _trained(
        self, trainer: Trainer, rows: Examples, held_out: Examples | None, **how: Any
    ) -> keras.callbacks.History:
        hide_retracing_warnings()
        how |= {"validation": held_out, "verbose": self.verbose, "telemetry_hz": 0}
        history = trainer.fit(rows, **how)
        assert trainer.last is not None
        if trainer.last.signal:
            raise KeyboardInterrupt
        return history

    def _sets(self, X: Any, *, reset: bool = False) -> RaggedSets:
        """Returns rows as ragged sets; their form must be that of the rows of the fit."""
        form = _form_of(X)
        if form != self._form and {form, self._form} != {"ids", "vectors"}:
            raise InputError(f"X holds {form}, but the estimator was fitted on {self._form}")
        if self._form == "vectors":
            try:
                matrix = csr_array(validate_data(self, X, accept_sparse="csr", reset=reset))
            except ValueError as error:
                remedy = "give a single column of texts, or turn the others into numbers"
                is_of_texts = "could not convert string to float" in str(error)
                raise InputError(f"X: {error}; {remedy}" if is_of_texts else error) from error
            return RaggedSets.from_scipy(matrix, name="X").with_weights()
        if self._form == "ids":
            sets = RaggedSets.from_lists(X, name="X").unique()
            self.n_features_in_: int = sets.num_tokens if reset else self.n_features_in_
            most = self.n_features_in_
            if sets.num_tokens > most:
                raise InputError(
                    f"X holds the id {sets.num_tokens - 1}, and was fitted with ids below {most}; "
                    "leave out others"
                )
            return sets.derived(num_tokens=most)
        X, words = _checked_texts(X), self.vocabulary_
        return words.weighted(words.encode_all(X)).unique()

    def _outputs(self, X: Any) -> npt.NDArray[np.float32]:
        """Returns the network's outputs, [B, outputs], computed without compilation."""
        check_is_fitted(self)
        sets, outputs = self._sets(X), []
        starts = np.searchsorted(sets.row_splits[1:], np.arange(0, sets.nnz, _MOST_IDS))
        bounds = np.unique([0, *starts, sets.num_rows])
        with calling(anywhere()):
            for start, stop in itertools.pairwise(bounds.tolist()):
                part = sets[start:stop]
                # Empty rows fill up the CPU's vectors, so that no row's sums depend on its place.
                splits = np.pad(part.row_splits, (0, -part.num_rows % _ROWS), mode="edge")
                inputs = {**arrays_of(part), "row_splits": splits.astype(np.int32)}
                outputs.append(self._model(inputs, training=False).numpy()[: part.num_rows])
        return np.concatenate(outputs)


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
        self._model = self._trainer = None  # a fit that fails may change classes and form
        y, weights = _checked(self, X, y, sample_weight)
        self._number(y, y)
        return self._fitted(X, *self._labels(y, weights))

    @in_python()
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Trains for one epoch on rows X; each further call continues from there, with the present
        `learning_rate`, `class_weight` and `callbacks`. On texts, only the words of the first call
        have ids, unless `hash_bits` is given.

        Args:
            X, y, sample_weight: as in `fit`, with at least `batch_size` rows.
            classes: all classes of all calls; required in the first call, unless `fit` was called
                before.

        Raises:
            InputError: a ValueError, if X, y or the parameters are wrong.
        """
        y, weights = _checked(self, X, y, sample_weight)
        if self.class_weight == "balanced":
            raise InputError(
                "class_weight is 'balanced', which needs all rows at once; give partial_fit a "
                "weight for each class, as sklearn.utils.class_weight.compute_class_weight does"
            )
        if self._model is None:
            if classes is None and y.ndim == 1:
                raise InputError("classes must be given in the first call of partial_fit")
            self._number(y, classes, may_grow=True)
        is_known = classes is None or np.array_equal(np.unique(classes), self.classes_)
        require(is_known, f"classes is {classes}, and was {self.classes_} before; give the same")
        _require_shape(y, self.classes_.shape if self._seen is not None else ())
        return self._partly_fitted(X, *self._labels(y, weights))

    def _number(self, y: Any, classes: Any, *, may_grow: bool = False) -> None:
        """Numbers the classes. Those that no row has are left out, unless more rows follow."""
        check_classification_targets(y)
        is_several = type_of_target(y) == "multilabel-indicator"
        self.classes_ = np.arange(y.shape[1]) if is_several else np.unique(column_or_1d(classes))
        self._seen = np.flatnonzero(y.any(axis=0) | may_grow) if is_several else None
        if (number := len(self.classes_ if self._seen is None else self._seen)) < 2:
            raise InputError(f"y has {number} class{'es' * (number != 1)}; at least 2 are needed")

    @property
    def _num_classes(self) -> int | None:
        return len(self.classes_) if self._seen is None else None

    def _labels(self, y: Any, weights: Any) -> tuple[Any, Any]:
        """Returns labels as `Examples` takes them, and the rows' weights times their classes'."""
        if self._seen is not None:
            if self.class_weight is not None:
                raise InputError("class_weight is for rows of one class each; leave it out")
            return RaggedSets.from_scipy(csr_array(y[:, self._seen]), name="y"), weights
        y = column_or_1d(y)
        unknown = np.setdiff1d(y, self.classes_)
        if unknown.size:
            raise InputError(f"y has the class {unknown[0]}, which classes lacks; add it there")
        numbers = np.searchsorted(self.classes_, y).astype(np.int32)
        if self.class_weight is not None:
            of_classes = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
            weights = of_classes[numbers] * (1 if weights is None else weights)
        return numbers, weights

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

    _task: ClassVar[Any] = "regression"

    @in_python()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains on rows X, as in `MultiHotClassifier.fit`, with the targets y, [B] or [B, K]."""
        self._model = self._trainer = None  # a fit that fails may change classes and form
        return self._fitted(X, *self._scaled(X, y, sample_weight, learns=True))

    @in_python()
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Trains for one epoch, on at least `batch_size` rows; each further call continues from
        there. The first call's targets decide how all are standardized."""
        scaled = self._scaled(X, y, sample_weight, learns=self._model is None)
        return self._partly_fitted(X, *scaled)

    def _scaled(self, X: Any, y: Any, weights: Any, *, learns: bool) -> tuple[Any, Any]:
        """Returns targets, standardized as those that it `learns` from, and the rows' weights."""
        y, weights = _checked(self, X, y, weights, dtype=np.float64)
        if learns:
            self._mean, deviation = y.mean(axis=0), y.std(axis=0)
            self._deviation = np.where(deviation > 0, deviation, 1)
        _require_shape(y, np.shape(self._mean))
        return ((y - self._mean) / self._deviation).astype(np.float32), weights

    @in_python()
    def predict(self, X: Any) -> npt.NDArray[np.float64]:
        """Returns the predicted targets, [B] or [B, K]."""
        outputs = self._outputs(X)
        outputs = outputs[:, 0] if np.ndim(self._mean) == 0 else outputs
        return outputs * self._deviation + self._mean


@lru_cache(maxsize=_MOST_SHARED)
def _shared(
    network: DefaultNetwork, task: Any, settings: Settings, *_: bool, **optimizer: Any
) -> tuple[Trainer, list[Callable[..., None]]]:
    """Returns a trainer for all fits with these arguments, and a list for the function that takes
    it back to its initial state."""
    how: dict[str, Any] = {"task": task, "optimizer": optimizer_factory(**optimizer)}
    return Trainer(network, **how, **vars(settings)), []


def _optimizer(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config.optimizer, name) for name in ("optimizer", "weight_decay")}


def _rate(config: TrainConfig, epochs: int) -> keras.callbacks.Callback:
    made = optimizer_factory(**vars(config.optimizer), num_steps=epochs)
    rate = made.keywords.get("learning_rate")  # a number or a schedule; None keeps the default
    rates = [float(rate(epoch)) if callable(rate) else rate or 1 for epoch in range(epochs)]

    def scheduled(epoch: int, now: float) -> float:
        if epoch == 0:
            return now if rate is None else rates[0]
        return now * rates[epoch] / rates[epoch - 1]  # so that what callbacks change lasts

    return keras.callbacks.LearningRateScheduler(scheduled)


def _checked(estimator: Any, X: Any, y: Any, weights: Any, *, dtype: Any = None) -> tuple[Any, Any]:
    """Returns the labels and the rows' weights as arrays, checked as in scikit-learn."""
    if y is None:
        name = type(estimator).__name__
        raise InputError(f"{name} requires y to be passed, but the target y is None")
    y = y.toarray() if issparse(y) else y
    for place, one in enumerate(y if isinstance(y, list | tuple) else ()):
        if isinstance(one, str) != isinstance(y[0], str):  # NumPy would make a string of NaN
            raise InputError(
                f"row {place} of y is {one!r}, and row 0 is {y[0]!r}; give each row a string, or "
                "all rows numbers"
            )
    y = check_array(y, ensure_2d=False, dtype=dtype, input_name="y")
    y = column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y
    check_consistent_length(X, y, weights)
    if weights is not None:
        weights = np.asarray(weights, np.float32)
        require(weights.any(), "all sample weights are zero; give some rows a weight above 0")
    return y, weights


def _require_shape(y: Any, of_row: tuple[int, ...]) -> None:
    """Raises an InputError unless each row of y has the shape that those of the first call had."""
    before, now = (" x ".join(map(str, shape)) or "one label" for shape in (of_row, y.shape[1:]))
    require(before == now, f"y has {now} for each row, and had {before} before; give the same")


def _form_of(X: Any) -> _Form:
    """Returns the form of rows. Lists of numbers of one length are vectors, as in scikit-learn."""
    require(not isinstance(X, str), "X is a single text; give a list of texts")
    is_table = hasattr(X, "tocsr") or hasattr(X, "columns") or getattr(X, "ndim", 1) != 1
    if is_table or not hasattr(X, "__len__"):
        return "vectors"
    rows = [*X]
    require(bool(rows), "X has no rows, 0 sample(s); give a minimum of 1")
    for kind in {*map(type, rows)}:
        if issubclass(kind, bytes | Mapping):
            remedy = "decode it" if issubclass(kind, bytes) else "use DictVectorizer before"
            raise InputError(f"a row of X is {kind.__name__}; {remedy}")
    is_text = [isinstance(row, str) for row in rows]
    is_row = is_text if any(is_text) else [isinstance(row, Collection) for row in rows]
    if not any(is_row):
        return "vectors"
    if not all(is_row):
        place, what = is_row.index(False), "a text" if any(is_text) else "a list"
        raise InputError(
            f"row {place} of X is {rows[place]!r:.100}, not {what} as others are; fill it in or "
            "leave it out"
        )
    if any(is_text):
        return "texts"
    if any(isinstance(token, str) for row in rows for token in itertools.islice(row, 1)):
        return "tokens"
    is_ragged = isinstance(rows[0], set | frozenset) or len({*map(len, rows)}) > 1
    return "ids" if is_ragged else "vectors"


def _checked_texts(X: Any) -> list[Any]:
    # Sets of strings have another order in each process.
    rows = [
        row if isinstance(row, str) else sorted(row, key=str) if isinstance(row, Set) else [*row]
        for row in X
    ]
    for place, row in enumerate(rows if isinstance(rows[0], list) else ()):
        if strange := [token for token in row if not isinstance(token, str)]:
            raise InputError(f"row {place} of X holds {strange[0]!r}, not a string; leave it out")
    return rows


def _split(rows: Examples, share: float, seed: int) -> tuple[Examples, ...]:
    labels: Any = rows.labels
    classes = labels if rows.num_classes else np.zeros(rows.num_rows, np.int64)
    drawn = stratified(classes, max(1, round(share * rows.num_rows)), seed=seed)
    parts = []
    for chosen in (~drawn, drawn):
        weights = None if rows.weights is None else rows.weights[chosen]
        kept = {"inputs": {"": rows.ragged[""][chosen]}, "labels": labels[chosen]}
        parts.append(replace(rows, **kept, weights=weights))
    return tuple(parts)


_, _, _parameters = inspect.cleandoc(_MultiHotEstimator.__doc__ or "").partition("\n\n")
for _estimator in (MultiHotClassifier, MultiHotRegressor):
    _estimator.__doc__ = f"{inspect.getdoc(_estimator)}\n\n{_parameters}"
