"""Rankings and their metrics, against NumPy."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.task.multinomial import Multinomial
from harness.task.ranking import NDCGAtK, RecallAtK, best, without_seen
from harness.task.task import Task
from tests.harness.task.test_multinomial import ITEMS, drawn

pytestmark = pytest.mark.usefixtures("logical_devices")


def by_numpy(dense: np.ndarray, scores: np.ndarray, k: int) -> tuple[float, float]:
    """Returns the mean recall and NDCG of the rows with held-out items."""
    recalls, gains = [], []
    for held, row in zip(dense, scores, strict=True):
        if held.any():
            hits = held[np.argsort(-row, kind="stable")[:k]]
            discounts = 1 / np.log2(np.arange(2, len(hits) + 2))
            possible = min(k, int(held.sum()))
            recalls.append(hits.sum() / possible)
            gains.append((hits * discounts).sum() / discounts[:possible].sum())
    return float(np.mean(recalls)), float(np.mean(gains))


@pytest.mark.parametrize("k", [1, 5, 20, 50])
def test_metrics_of_rankings(k: int) -> None:
    dense = drawn()[2]
    scores = np.random.default_rng().normal(size=dense.shape).astype(np.float32)
    recall, gain = by_numpy(dense, scores, k)
    for metric, expected in ((RecallAtK(k), recall), (NDCGAtK(k), gain)):
        half = len(dense) // 2
        metric.update_state(dense[:half], scores[:half])
        metric.update_state(dense[half:], scores[half:], sample_weight=np.ones(len(dense) - half))
        metric.update_state(dense, -scores, sample_weight=np.zeros(len(dense)))
        np.testing.assert_allclose(metric.result(), expected, rtol=1e-5)
        again = keras.metrics.deserialize(keras.metrics.serialize(metric))
        assert (again.k, again.name) == (k, metric.name)
    assert metric.name == f"ndcg_at_{k}"


def test_seen_items_are_neither_best_nor_hits() -> None:
    _, sets, dense = drawn()
    scores = np.random.default_rng().normal(size=dense.shape).astype(np.float32)
    masked = tf.function(without_seen, jit_compile=True)(tf.constant(scores), sets)
    np.testing.assert_array_equal(masked, np.where(dense, np.finfo(np.float32).min, scores))
    values, items = np.split(best(masked, 3).numpy(), 2, axis=1)
    order = np.argsort(-masked.numpy(), axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(items, order)
    np.testing.assert_array_equal(values, np.take_along_axis(masked.numpy(), order, axis=1))
    everything = RecallAtK(ITEMS)
    everything.update_state(dense, masked)
    assert float(everything.result()) == 0


def test_the_task_of_items() -> None:
    sets, _, dense = drawn()
    rows = Examples(inputs={"": sets}, labels=sets)
    task = Task("multinomial").settled(rows)
    assert task.metric_names == ("recall_at_20", "recall_at_50", "ndcg_at_100")
    assert task.evaluation_only == {*task.metric_names}
    assert (task.head, task.num_outputs, task.is_measured) == ("softmax", ITEMS, False)
    by_loss = Task(loss=Multinomial(), evaluation_metrics=[], metrics=["mse"]).settled(rows)
    assert (by_loss.kind, by_loss.metric_names) == ("multinomial", ("mse",))
    of_dense = Task("multinomial", seen=None).settled(Examples(inputs={"": sets}, labels=dense))
    logits = tf.constant(np.random.default_rng().normal(size=dense.shape), tf.float32)
    inputs = {"values": sets.values, "row_splits": sets.row_splits.astype(np.int32)}
    np.testing.assert_allclose(
        task.compute_loss(inputs, logits).of_rows,
        of_dense.compute_loss(dense, logits).of_rows,
        rtol=1e-5,
    )


def test_wrong_use_is_refused() -> None:
    sets = drawn()[0]
    two: dict[str, Any] = {"words": sets.derived(num_tokens=99), "bought": sets}
    rows = Examples(inputs=two, labels=sets)
    with pytest.raises(InputError, match="'words' of ids below 99, 'bought' of ids below 37"):
        Task("multinomial").settled(rows)
    with pytest.raises(InputError, match="seen is 'words'"):
        Task("multinomial", seen="words").settled(rows)
    assert Task("multinomial", seen="bought").settled(rows).seen == "bought"
    with pytest.raises(InputError, match="a multinomial has no accuracy"):
        Task("multinomial", metrics=["accuracy"], seen=None).settled(rows)
    with pytest.raises(InputError, match="name that is taken"):
        Task("multinomial", metrics=[RecallAtK(20)], seen=None).settled(rows)
    for k in (0, 2.5, True):
        with pytest.raises(InputError, match=f"k is {k}; it must be a whole number from 1"):
            RecallAtK(k)  # type: ignore[arg-type]
