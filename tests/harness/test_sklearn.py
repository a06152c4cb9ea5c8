"""The estimators for scikit-learn."""

import csv
import gc
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

from harness.base.interrupt import Terminated
from harness.sklearn import MultiHotClassifier, MultiHotRegressor
from harness.trainer.trainer import Trainer
from tests.harness.cli.runs import REPOSITORY, call, summary

_GOOD, _BAD = ["good", "fine", "nice", "great"], ["bad", "poor", "awful", "dull"]
_COMMON = [f"word{number}" for number in range(40)]


def _texts(num_rows: int, seed: int) -> tuple[list[str], list[str]]:
    """Returns texts, and whether most of their words of opinion are good."""
    rng = np.random.default_rng(seed)
    labels = np.array(["neg", "pos"])[rng.integers(0, 2, num_rows)].tolist()
    texts = [
        " ".join(
            [
                *rng.choice(_COMMON, 8),
                *rng.choice(_GOOD if label == "pos" else _BAD, 1),
                *rng.choice([*_GOOD, *_BAD], 1),
            ]
        )
        for label in labels
    ]
    return texts, labels


@pytest.fixture(scope="module")
def vectors() -> tuple[scipy.sparse.csr_array, Any]:
    rng = np.random.default_rng(0)
    X = scipy.sparse.random_array((240, 30), density=0.2, format="csr", rng=rng)
    return X, np.where(X[:, :6].sum(axis=1) > 0.6, "yes", "no")


@pytest.fixture(scope="module")
def fitted(vectors: Any) -> MultiHotClassifier:
    return MultiHotClassifier(learning_rate=0.02).fit(*vectors)


def _num_programs() -> int:
    trainers = [each for each in gc.get_objects() if isinstance(each, Trainer)]
    setups = [trainer._setup for trainer in trainers if trainer._setup is not None]
    return sum(len(setup.programs._training._loops) for setup in setups)


STARTS = """
from pathlib import Path
import harness.sklearn, keras, kernels.multi_hot.api
keras.wrappers.SKLearnClassifier(lambda X, y: None)
from harness.model.optimizers import optimizer_factory
from tensorflow.python.eager import context
factory = optimizer_factory("adam", learning_rate_schedule="linear", warmup=2, num_steps=9)
for optimizer in ("adam", factory):
    harness.Trainer(lambda inputs: inputs, optimizer=optimizer)
print(context.context()._initialized, "multi_hot-" in Path("/proc/self/maps").read_text())
"""


@pytest.mark.parametrize("before", ["", "import harness.cli.main"])
def test_imports_and_a_trainer_start_nothing(before: str, tmp_path: Path) -> None:
    """Neither scikit-learn nor Keras is imported before, and Keras still finds it; nor in a
    command, whose model may be of such a file. No kernel is compiled or loaded. TensorFlow would
    take all memory of every GPU: the devices are set up at the first fit."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", before + STARTS],
        capture_output=True, text=True, cwd=REPOSITORY,
        env=os.environ | {"MULTI_HOT_CACHE": str(tmp_path / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("False False\n", "")
    assert not (tmp_path / "cache").exists()


def test_a_fitted_classifier(fitted: MultiHotClassifier, vectors: Any) -> None:
    X, y = vectors
    assert fitted.score(X, y) > 0.9
    assert (fitted.classes_.tolist(), fitted.n_features_in_) == (["no", "yes"], 30)
    probabilities = fitted.predict_proba(X.toarray())
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert fitted.predict(X).tolist() == fitted.classes_[probabilities.argmax(axis=1)].tolist()
    assert len(fitted.history_["loss"]) == fitted.n_iter_ == 10
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict_proba(X), probabilities)
    assert not hasattr(clone(fitted), "classes_")
    assert "hidden_units" in (MultiHotClassifier.__doc__ or "")
    of_lists = clone(fitted).set_params(epochs=1).fit(X.toarray().tolist(), y)
    assert of_lists.n_features_in_ == 30, "lists of one length are vectors"


def test_fits_of_one_shape_share_their_programs(fitted: MultiHotClassifier, vectors: Any) -> None:
    """They differ in learning rate and seed, and give what they would alone."""
    X, y = vectors
    before, probabilities = _num_programs(), fitted.predict_proba(X)
    others = [
        clone(fitted).set_params(**changes).fit(X, y).predict_proba(X)
        for changes in ({"learning_rate": 0.001}, {"random_state": 1}, {"epochs": 3})
    ]
    assert not any(np.allclose(other, probabilities) for other in others)
    np.testing.assert_array_equal(fitted.predict_proba(X), probabilities)
    np.testing.assert_array_equal(clone(fitted).fit(X, y).predict_proba(X), probabilities)
    assert _num_programs() == before


def test_searches_and_pipelines() -> None:
    texts, labels = _texts(120, 0)
    # With the same words, folds have the same shapes, and so one program.
    words = TfidfVectorizer(vocabulary=[*_GOOD, *_BAD, *_COMMON])
    pipeline = make_pipeline(words, MultiHotClassifier(epochs=4))
    grid = {"multihotclassifier__learning_rate": [1e-5, 0.01]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(texts, labels)
    assert search.best_params_ == {"multihotclassifier__learning_rate": 0.01}
    calibrated = CalibratedClassifierCV(search.best_estimator_, cv=2).fit(texts, labels)
    assert calibrated.score(texts, labels) > 0.8
    columns = ColumnTransformer([("words", words, 0)])
    table = np.array(texts, object)[:, None]
    both = make_pipeline(columns, MultiHotClassifier(epochs=4)).fit(table, labels)
    assert both.score(table, labels) > 0.8


def test_texts_give_what_the_command_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe's search included."""
    parts = {"train": _texts(320, 1), "test": _texts(200, 2)}
    for name, rows in parts.items():
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("text", "label"), *zip(*rows, strict=True)])
    data = ("--data", tmp_path / "train.csv", "--test-data", tmp_path / "test.csv")
    flags = ("--ngrams", "1", "--tokenizer", "keras")
    result = call("train", *data, *flags, "--run-dir", tmp_path / "run")
    assert result.code == 0, result.err
    how: Any = {"ngrams": 1, "tokenizer": "keras", "verbose": True}
    classifier = MultiHotClassifier(**how).fit(*parts["train"])
    assert "loss on held-out rows" in capsys.readouterr().out
    assert classifier.score(*parts["test"]) == summary(tmp_path / "run")["test_accuracy"]


def test_lists_of_strings_and_of_ids(capsys: pytest.CaptureFixture[str]) -> None:
    texts, labels = _texts(100, 3)
    rows = [text.split() for text in texts]
    quick = MultiHotClassifier(recipe="tutorial", epochs=30, learning_rate=0.01, num_tokens=60)
    assert quick.fit(rows, labels).score(rows, labels) > 0.9
    assert (quick.predict(rows[:5]) == quick.fit(texts, labels).predict(texts[:5])).all()
    assert capsys.readouterr() == ("", "")
    assert [*quick.fit([{*"edcba"}, {*"fe"}], [0, 1]).vocabulary_.ids] == [*"eabcdf"]
    numbers = {word: number for number, word in enumerate([*_GOOD, *_BAD, *_COMMON])}
    ids = [{numbers[word] for word in row} for row in rows]
    sets = MultiHotClassifier().fit(ids, labels)
    assert sets.score(ids, labels) > 0.8
    with pytest.raises(ValueError, match=r"X holds the id 99, .* ids below 48"):
        sets.predict([{1, 99}])
    with pytest.raises(ValueError, match="X holds texts, but the estimator was fitted on ids"):
        sets.predict(texts)
    with pytest.raises(ValueError, match="X is a single text; give a list"):
        quick.predict("a film")
    for rows, place in ((["a film", None], 1), ([None, "a film"], 0)):
        with pytest.raises(ValueError, match=f"row {place} of X is None, not a text"):
            quick.predict(rows)
    with pytest.raises(ValueError, match="X has no rows"):
        quick.predict([])
    with pytest.raises(ValueError, match="row 1 of X: NUL character; correct it"):
        quick.fit(["a film", "no\0text"], [0, 1])
    with pytest.raises(ValueError, match="give a single column of texts"):
        MultiHotClassifier().fit(np.array([["a film"], ["another"]], object), [0, 1])
    with pytest.raises(ValueError, match="row 1 of y is nan, and row 0 is 'a'; give each row"):
        quick.fit(texts[:2], ["a", np.nan])
    for row, remedy in ((b"a film", "bytes; decode it"), ({"a": 2}, "dict; use DictVectorizer")):
        with pytest.raises(ValueError, match=f"a row of X is {remedy}"):
            quick.fit(["a film", row], [0, 1])
    with pytest.raises(ValueError, match="row 1 of X holds 3, not a string"):
        quick.fit([["a"], ["b", 3]], [0, 1])


def test_several_classes_of_a_row(vectors: Any) -> None:
    X, _ = vectors
    Y = np.stack([X[:, :6].sum(axis=1) > 0.6, X[:, 6:12].sum(axis=1) > 0.6], 1).astype(int)
    Y = np.insert(Y, 1, 0, axis=1)  # a class that no row has
    found = MultiHotClassifier(epochs=20, learning_rate=0.02).fit(X, scipy.sparse.csr_array(Y))
    assert (found.predict(X) == Y).mean() > 0.9
    assert found.predict_proba(X)[:, 1].max() == 0


def test_weights_of_classes_and_early_stopping(vectors: Any) -> None:
    X, y = vectors
    plain = MultiHotClassifier(learning_rate=0.001, epochs=3, batch_size=24)
    heavy = clone(plain).set_params(class_weight={"yes": 50}).fit(X, y)
    assert (heavy.predict(X) == "yes").mean() > (plain.fit(X, y).predict(X) == "yes").mean()
    stopped = clone(plain).set_params(early_stopping=1, learning_rate=0.01, epochs=40).fit(X, y)
    assert min(stopped.history_["val_loss"]) == stopped.history_["val_loss"][-2]


def test_candidates_of_the_recipe_train_with_the_weights_of_rows() -> None:
    texts, labels = _texts(160, 1)
    wrong = ["neg" if label == "pos" else "pos" for label in labels]
    of_texts = {"ngrams": 1, "tokenizer": "keras", "weighting": "binary"}
    found = MultiHotClassifier(**of_texts, hidden_units=0)
    found.fit(texts + texts, labels + wrong, sample_weight=[1] * 160 + [0] * 160)
    assert found.n_iter_ > 4  # no candidate learns rows that contradict each other


def test_a_regression(vectors: Any) -> None:
    X, _ = vectors
    y = 1000 + 50 * X[:, :6].sum(axis=1)
    found = MultiHotRegressor(epochs=30, learning_rate=0.02).fit(X, y)
    assert found.score(X, y) > 0.8
    assert found.predict(X[:3]).shape == (3,)
    two = MultiHotRegressor(epochs=2).fit(X, np.stack([y, -y], 1))
    assert two.predict(X).shape == (240, 2)
    texts, _ = _texts(60, 4)
    assert MultiHotRegressor(epochs=2).fit(texts, np.arange(60)).predict(texts).shape == (60,)


def test_rows_that_come_bit_by_bit(vectors: Any) -> None:
    X, y = vectors
    found = MultiHotClassifier(batch_size=24, learning_rate=0.01)
    with pytest.raises(ValueError, match="classes must be given"):
        found.partial_fit(X, y)
    for _ in range(6):
        for part in (slice(0, 120), slice(120, 240)):
            found.partial_fit(X[part], y[part], classes=["no", "yes"])
    assert found.score(X, y) > 0.9
    with pytest.raises(ValueError, match=r"classes is \['no'\], and was \['no' 'yes'\] before"):
        found.partial_fit(X, y, classes=["no"])
    with pytest.raises(ValueError, match="y has 2 for each row, and had one label before"):
        found.partial_fit(X, np.stack([y == "no", y == "yes"], axis=1))
    copies = [pickle.loads(pickle.dumps(found)) for _ in range(2)]
    for copy, rate in zip(copies, (0.01, 0.1), strict=True):
        copy.set_params(learning_rate=rate, class_weight={"yes": 2}).partial_fit(X, y)
    few, many, before = (each.predict_proba(X) for each in (*copies, found))
    assert 0 < abs(few - before).max() < abs(many - before).max()
    found.set_params(class_weight={"yes": 2}).partial_fit(X[y == "no"], y[y == "no"])
    for name, value, message in (
        ("batch_size", 12, "batch_size was 24 in the fit before and is 12, .* fit a clone"),
        ("class_weight", "balanced", "class_weight is 'balanced', which needs all rows"),
        ("early_stopping", 2, "early_stopping is for fit, not for partial_fit"),
    ):
        with pytest.raises(ValueError, match=message):
            copies[0].set_params(**{name: value}).partial_fit(X, y)
        copies[0].set_params(**{name: getattr(found, name)})


def test_callbacks(vectors: Any) -> None:
    epochs: list[int] = []
    log = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    MultiHotClassifier(epochs=2, callbacks=[log]).fit(*vectors)
    assert epochs == [0, 1]
    # SIGTERM after the last step is not lost: a search would begin the next fit.
    told = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: signal.raise_signal(signal.SIGTERM)
    )
    with pytest.raises(Terminated):
        MultiHotClassifier(epochs=1, callbacks=[told]).fit(*vectors)
    # A rate that a callback changes stays so, and the schedule goes on from it.
    lower = keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1, min_delta=9, factor=0.1)
    how: Any = {"epochs": 4, "learning_rate": 0.01, "learning_rate_schedule": "constant"}
    found = MultiHotClassifier(**how, callbacks=[lower]).fit(*vectors)
    np.testing.assert_allclose(found.history_["learning_rate"], [1e-2, 1e-2, 1e-3, 1e-4], rtol=1e-5)
    own = keras.callbacks.LearningRateScheduler(lambda epoch, now: 0.5)  # comes after ours
    found = MultiHotClassifier(**how, callbacks=[own, log]).fit(*vectors)
    np.testing.assert_allclose(found.history_["learning_rate"], 0.5)
    with pytest.raises(ValueError, match="callbacks has 3 in it"):
        MultiHotClassifier(callbacks=3).fit(*vectors)
    with pytest.raises(ValueError, match=r"learning_rate is '\{\}'; it must be a finite number"):
        MultiHotClassifier(learning_rate={}).fit(*vectors)
    with pytest.raises(ValueError, match="X holds vectors, no words; leave out ngrams, normalize"):
        MultiHotClassifier(ngrams=2, normalize="l2").fit(*vectors)
    with pytest.raises(ValueError, match="validation_split is 'x'; give a share"):
        found.set_params(early_stopping=1, validation_split="x").fit(*vectors)
    with pytest.raises(NotFittedError):  # rather than old outputs for new classes
        found.predict(vectors[0])


@pytest.mark.parametrize(
    "check",
    [
        "check_no_attributes_set_in_init",
        "check_estimator_sparse_tag",
        "check_n_features_in",
        "check_fit2d_1sample",
        "check_classifiers_one_label",
        "check_requires_y_none",
        "check_supervised_y_2d",
        "check_dtype_object",
        "check_estimators_nan_inf",
        "check_sample_weights_shape",
    ],
)
def test_checks_of_scikit_learn(check: str) -> None:
    """Those that fit little; `python -m benchmarks.sklearn_checks` runs all."""
    linear = MultiHotClassifier(epochs=1, hidden_units=0)
    getattr(estimator_checks, check)("MultiHotClassifier", linear)
