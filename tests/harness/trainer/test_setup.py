"""The setup that a trainer builds from its first rows, and its requirements on later ones."""

from typing import Any

import keras
import numpy as np
import pytest

from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.model.layers import MultiHotDense
from harness.model.network import DefaultNetwork
from harness.task.task import Task
from harness.trainer.settings import Settings
from harness.trainer.setup import Setup, set_up
from tests.harness.feed.rows import random_examples
from tests.harness.random_sets import random_sets

pytestmark = pytest.mark.usefixtures("logical_devices")


def made(
    *parts: Examples | RaggedSets, model: Any = None, training: bool = True, **settings: Any
) -> Setup:
    """Returns a setup of the default network with a smooth activation. If a sum rounded in another
    order moved one row across a ReLU's kink, two runs would part by far more than implementations
    differ."""
    examples = [Examples.of(rows) for rows in parts]
    if model is None:
        num_tokens = examples[0].ragged[""].num_tokens
        model = DefaultNetwork(activation="gelu", num_tokens=num_tokens, num_classes=2)
    given = {"implementation": "gather", **settings}
    optimizer = keras.optimizers.Adam()
    return set_up(model, Task(), optimizer, Settings(**given), *examples, training=training)


def test_every_program_of_a_long_run_is_compiled_before_its_first_step() -> None:
    """There is a program even for a batch fuller than any in the epochs that can be looked at
    beforehand. Compiling it does not change the losses, and no program runs on a batch that it
    cannot hold."""
    rng = np.random.default_rng()
    lengths = np.ones(1000, int)
    lengths[rng.choice(1000, 10, replace=False)] = 600
    sets = RaggedSets(
        values=rng.integers(0, 5000, lengths.sum(), dtype=np.int32),
        row_splits=np.cumsum([0, *lengths]),
        labels=rng.integers(0, 2, 1000, dtype=np.int32),
        num_tokens=5000,
        name="outliers",
    )
    # Calls of 30 steps, and a rest of 10.
    setup = made(sets, batch_size=10, input="resident", steps_per_dispatch=30)
    ready = setup.rows_to_train(Examples.of(sets), epochs=100_000)
    losses, compiled = [], []
    for dispatch, batches in ready.feed.dispatches(ready.plan, epochs=3, calls=lambda: 1):
        compiled.append(setup.programs.prepare(ready.plan, dispatch, batches, start_step=0))
        losses.append(setup.programs.train([(dispatch, batches)])[0].loss)
    first, *later = compiled
    typical, largest = (made.capacity for made in first[:2])
    assert 600 < typical < 10 * 600 <= largest, "a batch may hold nothing but outliers"
    assert [made.capacity for made in first] == [typical, largest] * 2
    assert later == [[]] * 11
    assert np.isfinite(losses).all()


def of_words(inputs: Any) -> Any:
    """Computes a model that knows more words than the rows have, by one of two layers."""
    parts = [
        MultiHotDense(3, 60)(inputs["words"]),
        MultiHotDense(3, 55)(inputs["words"]),
        keras.layers.Dense(2)(inputs["numbers"]),
        MultiHotDense(2, 7)(inputs["tags"]),
    ]
    return keras.layers.Dense(1)(keras.layers.Concatenate()(parts))


@pytest.fixture(scope="module")
def several() -> tuple[Examples, Setup]:
    examples = random_examples(np.random.default_rng(), rows=20, unique=True)
    return examples, made(examples, model=of_words, batch_size=10)


def test_the_model_knows_what_all_of_its_layers_know(several: tuple[Examples, Setup]) -> None:
    _, setup = several
    assert setup.limits == {"words": 55, "numbers": 3, "tags": 7}
    assert setup.unique == {"words", "tags"}


def changed(examples: Examples, **inputs: Any) -> Examples:
    return Examples(inputs={**examples.inputs, **inputs}, labels=examples.labels, name="others")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"more": np.zeros([20, 1])},
            r"others has the inputs \['more', 'numbers', 'tags', 'words'\]",
        ),
        (
            {"words": random_sets(np.random.default_rng(), rows=20, num_tokens=56)},
            "the input 'words' of others has ids below 56, but the model knows 55; give rows of",
        ),
        ({"numbers": np.zeros([20, 2])}, "'numbers' of others has features: 2, .*knows 3"),
    ],
)
def test_rows_that_the_model_does_not_know_are_refused(
    inputs: dict[str, Any], message: str, several: tuple[Examples, Setup]
) -> None:
    examples, setup = several
    with pytest.raises(InputError, match=message):
        setup.rows_to_evaluate(changed(examples, **inputs))


def test_later_rows_hold_each_id_once_where_the_first_ones_did(
    several: tuple[Examples, Setup],
) -> None:
    examples, setup = several
    repeating = RaggedSets(values=[1, 1, 2], row_splits=[0, 3, *[3] * 19], num_tokens=55)
    checked = setup.checked(changed(examples, words=repeating))
    assert checked.ragged["words"].row(0).tolist() == [1, 2]
    assert checked.ragged["tags"] is examples.ragged["tags"]
    assert setup.checked(examples) is examples


def test_rows_lie_ready_for_another_pass(several: tuple[Examples, Setup]) -> None:
    examples, setup = several
    train = setup.rows_to_train(examples, epochs=1)
    assert setup.rows_to_train(examples, epochs=2, by_step=True).feed is train.feed
    assert setup.rows_to_evaluate(changed(examples)).feed is not train.feed


def test_a_layer_that_knows_too_few_ids_is_named() -> None:
    examples = random_examples(np.random.default_rng(), rows=20, num_tokens=56)
    with pytest.raises(InputError, match=r"ids below 56, but the layer '.*' knows those below 55"):
        made(examples, model=of_words, batch_size=10)


def test_a_models_own_precision_stands(several: tuple[Examples, Setup]) -> None:
    examples, setup = several
    assert setup.choices["precision"].why == "CPU: 16-bit arithmetic is not faster there"
    again = made(examples, model=setup.model, batch_size=10)
    assert (again.choices["precision"].name, again.model) == ("float32", setup.model)
    with pytest.raises(InputError, match="--precision is mixed_bfloat16, but the layers of 'of_wo"):
        made(examples, model=setup.model, batch_size=10, precision="mixed_bfloat16")


def test_rows_without_labels_can_be_asked_about() -> None:
    examples = random_examples(np.random.default_rng(), rows=20, labels="none")
    setup = made(examples, model=of_words, training=False)
    assert not setup.task.is_known
    assert set(setup.choices) == {"replicas", "all_reduce", "precision", "implementation"}
    ready = setup.rows_to_evaluate(examples)
    assert setup.programs.predict(ready.feed, ready.plan).shape == (20, 1)
