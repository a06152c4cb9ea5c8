"""Rows whose ids have weights train as Keras trains on the matrix of these weights."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import harness
from harness.cli.saved_model import load_saved_model
from harness.model.network import DefaultNetwork

ROWS, TOKENS, BATCH, EPOCHS = 160, 60, 40, 3
SEED = 3


def rows(weighting: str, *, count: int = ROWS) -> harness.RaggedSets:
    """Draws rows: counts as weights of 1 on repeated ids, or tf-idf on each id once."""
    rng = np.random.default_rng(SEED)
    lengths = rng.integers(0, 12, count)
    values = rng.integers(0, TOKENS, lengths.sum())
    rows_of = np.repeat(np.arange(count), lengths)
    sums = np.bincount(rows_of, np.sin(values), minlength=count)
    sets = harness.RaggedSets(
        values=values,
        row_splits=np.concatenate([[0], np.cumsum(lengths)]),
        labels=(sums > 0).astype(int),
        num_tokens=TOKENS,
        name="rows",
        weights=np.ones(len(values)),
    )
    if weighting == "count":
        return sets
    sets = sets.unique()
    frequencies = np.bincount(sets.values, minlength=TOKENS)
    idf = np.log(1 + count / (1 + frequencies))
    assert sets.weights is not None
    return sets.derived(weights=(sets.weights * idf[sets.values]).astype(np.float32))


def network(inputs: Any) -> Any:
    first, second = map(keras.initializers.GlorotUniform, (SEED, SEED + 1))
    x = harness.MultiHotDense(8, TOKENS, activation="gelu", kernel_initializer=first)(inputs)
    return keras.layers.Dense(1, kernel_initializer=second)(x)


def trainer(**settings: Any) -> harness.Trainer:
    given = {"batch_size": BATCH, "seed": SEED, "replicas": 1, "precision": "float32"}
    optimizer = keras.optimizers.Adam(1e-2)
    return harness.Trainer(network, optimizer=optimizer, **{**given, **settings})


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    sets = rows("tf_idf")
    shape = {"hidden_units": (8,), "dropout": (0.2,), "activation": "gelu"}

    def made() -> harness.Trainer:
        network = DefaultNetwork(**shape, num_tokens=TOKENS, num_classes=2)
        settings = {"implementation": "gather", "input": "stream", "precision": "float32"}
        return harness.Trainer(network, batch_size=BATCH, replicas=1, **settings)

    whole = made()
    losses = whole.fit(sets, epochs=2, verbose=False).history["loss"]
    run = tmp_path / "run"
    quiet = {"verbose": False, "run_dir": run, "tensorboard": "off"}
    made().fit(sets, epochs=1, **quiet)
    with pytest.raises(harness.InputError, match="cannot be resumed with other data"):
        made().fit(rows("count"), epochs=2, resume=True, **quiet)
    resumed = made()
    history = resumed.fit(sets, epochs=2, resume=True, **quiet).history
    assert history["loss"][-1] == losses[-1]
    again = load_saved_model(str(run)).trainer.model
    assert again.input.keys() == {"values", "row_splits", "weights"}
    for model in (resumed.model, again):
        for mine, theirs in zip(model.get_weights(), whole.model.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def binary() -> harness.RaggedSets:
    return rows("count").derived(weights=None)


def without_weights(inputs: Any) -> Any:
    return network({name: inputs[name] for name in ("values", "row_splits")})


def built(sets: harness.RaggedSets) -> keras.Model:
    names = ["values", "row_splits"] + ["weights"] * (sets.weights is not None)
    inputs = {
        name: keras.Input([], dtype="float32" if name == "weights" else "int32", name=name)
        for name in names
    }
    return keras.Model(inputs, network(inputs), name="mine")


def test_weights_that_a_model_does_not_take_or_lacks_are_one_message() -> None:
    weighted = rows("count")
    no_weights = "the ids of rows have no weights, but the model 'mine' takes ids with weights"
    weights = "the ids of rows have weights, but the model 'mine' takes ids without"
    for model, sets, message in (
        (built(weighted), binary(), no_weights),
        (built(binary()), weighted, weights),
        (without_weights, weighted, "rows have weights, but the function that builds the model"),
    ):
        own = harness.Trainer(model, batch_size=BATCH, implementation="gather")
        with pytest.raises(harness.InputError, match=message):
            own.fit(sets, verbose=False)
        with pytest.raises(harness.InputError, match=message):
            own.predict(sets)
    own = trainer(implementation="gather")
    own.fit(weighted, verbose=False)
    message = "the ids of rows have no weights, but the model .* takes ids with weights; give"
    with pytest.raises(harness.InputError, match=message):
        own.evaluate(binary())
    with pytest.raises(harness.InputError, match=message):
        own.fit(weighted, validation=binary(), verbose=False)
