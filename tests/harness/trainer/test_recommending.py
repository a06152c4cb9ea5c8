"""Recommenders, as a user trains them: sets in, sets out."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import harness
from harness.base.errors import InputError
from tests.harness.random_sets import random_sets

ITEMS = 60


def drawn(rows: int = 43) -> harness.RaggedSets:
    found = random_sets(np.random.default_rng(), rows=rows, num_tokens=ITEMS, unique=True)
    return harness.RaggedSets.from_lists(found, num_tokens=ITEMS).unique()


def dense(sets: harness.RaggedSets) -> np.ndarray:
    found = np.zeros([sets.num_rows, ITEMS], np.float32)
    for row in range(sets.num_rows):
        found[row, sets.row(row)] = 1
    return found


def network(x: Any) -> Any:
    return keras.layers.Dense(ITEMS)(keras.layers.Dense(8, activation="gelu")(x))


def of_sets(inputs: Any) -> Any:
    hidden = harness.MultiHotDense(8, ITEMS, activation="gelu")(inputs)
    return keras.layers.Dense(ITEMS)(hidden)


def test_training_on_sets_is_keras_training_on_dense_targets(tmp_path: Path) -> None:
    """Metrics of evaluations are in no log of the training."""
    seen, bought = drawn(), drawn()
    # NumPy's numbers, as of a search for settings, serve as well.
    trainer = harness.Trainer(of_sets, task="multinomial", batch_size=np.int64(10))
    trainer.predict(seen)  # builds the model
    inputs = keras.Input([ITEMS])
    plain = keras.Model(inputs, network(inputs))
    plain.set_weights(trainer.model.get_weights())
    plain.compile("adam", harness.Multinomial(), jit_compile=False)
    expected = plain.fit(
        dense(seen), dense(bought), batch_size=10, epochs=3, shuffle=False, verbose=0
    ).history
    history = trainer.fit(
        (seen, bought),
        validation=(seen, bought),
        epochs=np.int64(3),
        shuffle=np.False_,
        verbose=False,
        run_dir=tmp_path / "run",
    ).history
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    for own, other in zip(trainer.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-4)
    ranked = {"recall_at_20", "recall_at_50", "ndcg_at_100"}
    assert {*history} == {"loss", "val_loss", *(f"val_{name}" for name in ranked)}

    logits = np.where(dense(seen), np.finfo(np.float32).min, trainer.predict(seen))
    recall = harness.RecallAtK(20)
    recall.update_state(dense(bought), logits)
    found = trainer.evaluate((seen, bought))
    np.testing.assert_allclose(found["recall_at_20"], recall.result(), rtol=1e-4)
    np.testing.assert_allclose(
        found["loss"], plain.evaluate(dense(seen), dense(bought), verbose=0), rtol=1e-4
    )
    best = trainer.recommend(seen, k=5)
    assert best.items.dtype == np.int32
    np.testing.assert_array_equal(best.items, np.argsort(-logits, axis=1, kind="stable")[:, :5])
    np.testing.assert_allclose(
        best.scores, np.take_along_axis(logits, best.items, axis=1), rtol=1e-5
    )
    with pytest.raises(InputError, match="of a multinomial"):
        trainer.measure((seen, bought))
    with pytest.raises(InputError, match="k is 61; it must be a whole number from 1 to 60"):
        trainer.recommend(seen, k=61)
    with pytest.raises(InputError, match=r"k is 2\.5; it must be a whole number"):
        trainer.recommend(seen, k=2.5)  # type: ignore[arg-type]


def test_other_tasks_rank_all_outputs() -> None:
    """The ids of the inputs, such as words, are no classes, though they may be as few."""
    words, tags = drawn(40), drawn(40)
    trainer = harness.Trainer(of_sets, batch_size=10)
    trainer.fit((words, tags), verbose=False)
    best = np.argsort(-trainer.predict(words), axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(trainer.recommend(words, k=5).items, best)
    task = harness.Task("multi_label", seen="basket")
    with pytest.raises(InputError, match="seen is 'basket', which only a multinomial leaves out"):
        harness.Trainer(of_sets, task=task, batch_size=10).fit((words, tags))


def test_two_towers_train_as_in_keras() -> None:
    """Negatives are the rows of the same batch, of which the last has fewer, without those of the
    same item."""
    users, items = drawn(), drawn()
    number = np.random.default_rng().integers(0, 9, [users.num_rows, 1])
    rows = harness.Examples(
        inputs={"user": users, "item": items, "number": number}, labels=np.ones(users.num_rows)
    )

    def towers(inputs: Any) -> Any:
        user = harness.MultiHotDense(6, ITEMS, name="user")(inputs["user"])
        item = harness.MultiHotDense(6, ITEMS, name="item")(inputs["item"])
        return harness.InBatchSoftmax(temperature=0.5)([user, item, inputs["number"]])

    def loss(y: Any, log_p: Any) -> Any:
        return -y * log_p

    trainer = harness.Trainer(
        towers, task=harness.Task("regression", loss=loss, metrics=[]), batch_size=20
    )
    trainer.predict(rows)  # builds the model
    left, right, other = keras.Input([ITEMS]), keras.Input([ITEMS]), keras.Input([1])
    outputs = harness.InBatchSoftmax(temperature=0.5)(
        [keras.layers.Dense(6)(left), keras.layers.Dense(6)(right), other]
    )
    plain = keras.Model([left, right, other], outputs)
    plain.set_weights(trainer.model.get_weights())
    plain.compile("adam", loss, jit_compile=False)
    expected = plain.fit(
        [dense(users), dense(items), number], np.ones([users.num_rows, 1]),
        batch_size=20, epochs=3, shuffle=False, verbose=0,
    )  # fmt: skip
    found = trainer.fit(rows, epochs=3, shuffle=False, verbose=False)
    np.testing.assert_allclose(found.history["loss"], expected.history["loss"], rtol=1e-4)

    scores = (
        (dense(users) @ plain.get_weights()[0] + plain.get_weights()[1])
        @ (dense(items) @ plain.get_weights()[2] + plain.get_weights()[3]).T
    ) / 0.5
    same = (number == number.T) & ~np.eye(len(number), dtype=bool)
    scores = np.where(same, -np.inf, scores)[:20, :20]
    wanted = np.diag(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))
    np.testing.assert_allclose(trainer.predict(rows)[:20, 0], wanted, rtol=1e-3, atol=1e-3)
