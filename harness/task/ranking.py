"""Rankings of items: leaving out seen items, the best K, and metrics of held-out items.

Letters: B rows, V items, K ranks, N length of the ids' buffer.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from harness.base.checks import require, require_count
from harness.data.examples import Examples
from harness.task.multinomial import entries_of

_MOST_ITEMS = 2**24  # whose numbers a float32 holds
_LAST = tf.float32.min  # the score of an item that is not to be ranked


class Ranking(NamedTuple):
    k: int  # Number of items to return for each row, K
    seen: str | None  # Name of the input with the items to leave out; None ranks all items

    def check(self, examples: Examples, num_items: int) -> None:
        """Raises an InputError if rows with these inputs cannot be ranked so."""
        require_count("k", self.k, most=num_items)
        require(
            num_items <= _MOST_ITEMS,
            f"the model has {num_items} outputs; at most {_MOST_ITEMS} can be ranked",
        )
        check_seen(self.seen, examples, num_items)


class Recommended(NamedTuple):
    """The best items of B rows, best first."""

    items: npt.NDArray[np.int32]  # [B, K]
    scores: npt.NDArray[np.float32]
    """The model's outputs for these items, [B, K]. If a row has fewer than K unseen items, seen
    items follow, with the lowest float32 as their score."""


def check_seen(seen: str | None, examples: Examples, num_items: int) -> None:
    """Raises an InputError if the rows lack the input with the items that they have seen."""
    limits = {name: sets.num_tokens for name, sets in examples.ragged.items()}
    shown = ", ".join(f"{name!r} of ids below {n}" for name, n in limits.items())
    require(
        seen is None or limits.get(seen, num_items + 1) <= num_items,
        f"seen is {seen!r}, which is to be an input with some of the {num_items} items, but the "
        f"ragged inputs of {examples.name} are {shown or 'none'}; give "
        "harness.Task('multinomial', seen=...) one of items, or None to rank all",
    )


def without_seen(scores: tf.Tensor, sets: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns scores, float32 [B, V], with the lowest float32 for the items of `sets`, which the
    rows have seen: `values` int32 [N], padding from `row_splits[-1]` on, and `row_splits` [B + 1].
    """
    found = entries_of(sets, scores.shape[1], drop_repeated=False)
    places = tf.stack([found.rows, found.ids], axis=1)
    limits = tf.where(found.counts, _LAST, tf.float32.max)
    return tf.tensor_scatter_nd_min(scores, places, limits)


def best(scores: tf.Tensor, k: int) -> tf.Tensor:
    """Returns for each row its K highest scores, highest first, followed by the items that have
    them, float32 [B, 2 K]. Of items with equal scores, the one with the lower number comes first.
    """
    found = tf.math.top_k(scores, k)
    return tf.concat([found.values, tf.cast(found.indices, tf.float32)], axis=1)


class _AtK(keras.metrics.Mean):
    """Mean, over the rows with held-out items, of a value computed from their K best items."""

    _kind: str

    def __init__(self, k: int, *, name: str | None = None, dtype: Any = None) -> None:
        """Args:
        k: K, the number of ranks.
        name: the metric's name; None for one such as `recall_at_20`.
        dtype: the dtype of the metric's sums.
        """
        super().__init__(name=name or f"{self._kind}_at_{k}", dtype=dtype)
        require_count("k", k)
        self.k = int(k)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Adds the values of B rows to the mean, from 1 for each held-out item and 0 for others
        [B, V], scores [B, V], and weights of the rows [B]."""
        scores = tf.cast(y_pred, tf.float32)
        top = tf.math.top_k(scores, min(self.k, scores.shape[1]))
        held = tf.cast(y_true, tf.float32)
        hits = tf.gather(held, top.indices, batch_dims=1) * tf.cast(top.values > _LAST, tf.float32)
        number = tf.reduce_sum(held, axis=1)
        counts = tf.cast(number > 0, tf.float32)
        if sample_weight is not None:
            counts *= tf.cast(sample_weight, tf.float32)
        possible = tf.clip_by_value(tf.cast(number, tf.int32), 1, hits.shape[1])
        return super().update_state(self._values(hits, possible), sample_weight=counts)

    def _values(self, hits: tf.Tensor, possible: tf.Tensor) -> tf.Tensor:
        """Returns each row's value [B], from 1 for each rank whose item was held out, float32
        [B, K], and the most hits that are possible, int32 [B], at least 1."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "k": self.k}


@keras.saving.register_keras_serializable(package="harness")
class RecallAtK(_AtK):
    """Recall at K: `hits / min(K, held-out items)`, where hits are the held-out items among a row's
    K best. It is Recall@R in Liang et al., "Variational Autoencoders for Collaborative Filtering",
    2018, section 4.2; keras-rs divides by all held-out items instead. The mean is over the rows
    with held-out items."""

    _kind = "recall"

    def _values(self, hits: tf.Tensor, possible: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(hits, axis=1) / tf.cast(possible, tf.float32)


@keras.saving.register_keras_serializable(package="harness")
class NDCGAtK(_AtK):
    """Normalized discounted cumulative gain at K: the sum of `1 / log2(rank + 1)` over the ranks of
    the held-out items among a row's K best, divided by the same sum if the held-out items came
    first. Ranks start at 1. It is NDCG@R in Liang et al., 2018, section 4.2. The mean is over the
    rows with held-out items."""

    _kind = "ndcg"

    def _values(self, hits: tf.Tensor, possible: tf.Tensor) -> tf.Tensor:
        ranks = tf.range(1, hits.shape[1] + 1, dtype=tf.float32)
        gains = tf.math.log(2.0) / tf.math.log(ranks + 1)
        return tf.linalg.matvec(hits, gains) / tf.gather(tf.cumsum(gains), possible - 1)
