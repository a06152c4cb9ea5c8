"""The words that weigh most for each class.

Letters: B rows, V num_tokens, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from harness.data.ragged import RaggedSets
from harness.data.vocabulary import Vocabulary
from harness.model.layers import Surroundings, computing
from harness.model.network import multi_hot_layers, takes_weights

_ROWS_AT_ONCE = 1_000


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word, or an id without one."""

    text: str
    weight: float
    """Mean over all rows of what it adds to the class's logit, to first order."""
    num_rows: int
    """That have it."""


def heaviest_words(
    weights: npt.NDArray[np.float64], rows: RaggedSets, vocabulary: Vocabulary | None, *, most: int
) -> list[list[Word]]:
    """For each class the words that speak for it, the heaviest first.

    Args:
        weights: [classes, V], of `word_weights`.
        rows: that they were computed for.
        vocabulary: of the ids; ids without a word, such as the start's, are left out. None: ids
            are shown instead, as for hashed words.
        most: of each class.
    """
    counts = np.bincount(rows.unique().values, minlength=weights.shape[1])
    has_words = vocabulary is not None and bool(vocabulary.ids)
    found = []
    for own in weights:
        words: list[Word] = []
        for token in np.argsort(-own, kind="stable").tolist():
            if len(words) == most or own[token] <= 0:
                break
            text = f"id {token}"
            if vocabulary is not None and has_words:
                text = vocabulary.decode([token])
                if text == "#" and token not in vocabulary.ids.values():
                    continue
            words.append(Word(text=text, weight=float(own[token]), num_rows=int(counts[token])))
        found.append(words)
    return found


def word_weights(
    model: keras.Model, rows: RaggedSets, *, head: str, classes: Sequence[int], is_binary: bool
) -> npt.NDArray[np.float64]:
    """Gradient times input: mean over rows of d logit / d x * x, where x is the multi-hot vector,
    or that of the ids' weights.

    The table's gradient holds it: x[b, t] * (d logit_b / d x[b, t]), summed over rows, is the
    product of the table's row t with its gradient. So no vector of V numbers is made for a row.

    Args:
        model: of one input of ids.
        rows: B of them.
        head: the activation that makes probabilities of logits. Under a softmax only differences
            count: the mean of a row's logits is subtracted.
        classes: whose logits.
        is_binary: whether the only output is the logit of class 1, and its negative that of 0.

    Returns:
        float64 [len(classes), V].
    """
    layers = multi_hot_layers(model)
    tables = [layer.kernel.value for layer in layers]
    if takes_weights(model):
        rows = rows.with_weights()
    dtypes = {"values": tf.int32, "row_splits": tf.int32}
    if rows.weights is not None:
        dtypes["weights"] = tf.float32
    specs = {name: tf.TensorSpec([None], dtype) for name, dtype in dtypes.items()}

    @tf.function(input_signature=[specs, tf.TensorSpec([], tf.int32)], autograph=False)
    def weigh(inputs: dict[str, tf.Tensor], number: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for table in tables:
                tape.watch(table)
            with computing(Surroundings(implementation="gather", export=True)):
                outputs = model(inputs, training=False)
            logits = tf.cast(getattr(outputs, "_keras_logits", outputs), tf.float32)
            if head == "softmax":
                logits -= tf.reduce_mean(logits, axis=1, keepdims=True)
            total = tf.reduce_sum(tf.gather(logits, number, axis=1))
        gradients = tape.gradient(total, tables, unconnected_gradients="zero")
        return [
            tf.reduce_sum(tf.convert_to_tensor(gradient) * table, axis=1)
            for gradient, table in zip(gradients, tables, strict=True)
        ]

    found = np.zeros([len(classes), max(layer.num_tokens for layer in layers)])
    for start in range(0, rows.num_rows, _ROWS_AT_ONCE):
        splits = rows.row_splits[start : start + _ROWS_AT_ONCE + 1]
        ids = slice(splits[0], splits[-1])
        splits = (splits - splits[0]).astype(np.int32)
        inputs = {"values": rows.values[ids], "row_splits": splits}
        if rows.weights is not None:
            inputs["weights"] = rows.weights[ids]
        for place, number in enumerate(classes):
            sign, output = (2 * number - 1, 0) if is_binary else (1, number)
            parts: Any = weigh(inputs, tf.constant(output))
            for part in parts:
                found[place, : part.shape[0]] += sign * part.numpy()
    return found / rows.num_rows
