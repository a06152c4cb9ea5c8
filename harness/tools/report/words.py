"""The words that weigh most for each class.

Letters: V num_tokens.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from harness.data.ragged import RaggedSets
from harness.data.vocabulary import Vocabulary
from harness.model.export import head_of
from harness.model.layers import Surroundings, computing
from harness.model.network import multi_hot_layers, takes_weights

_ROWS_AT_ONCE = 1_000


def heaviest_words(
    weights: npt.NDArray[np.float64], rows: RaggedSets, vocabulary: Vocabulary | None, *, most: int
) -> list[list[tuple[str, float, int]]]:
    """Returns for each class the words that speak for it, the heaviest first, with their weights
    (of `word_weights`, [classes, V]) and the number of rows that have them. Ids without a word,
    such as the start's, are left out; without words, as for hashed ones, ids are shown instead."""
    counts = np.bincount(rows.unique().values, minlength=weights.shape[1])
    name: Callable[[int], str | None] = "id {}".format
    if vocabulary is not None and vocabulary.ids:
        reserved = {vocabulary.start_id, vocabulary.unknown_id}
        words = {token: word for word, token in vocabulary.ids.items() if token not in reserved}
        name = words.get
    found = []
    for own in weights:
        order = np.argsort(-own, kind="stable")[: np.count_nonzero(own > 0)].tolist()
        named = ((text, float(own[t]), int(counts[t])) for t in order if (text := name(t)))
        found.append(list(itertools.islice(named, most)))
    return found


def word_weights(
    model: keras.Model, rows: RaggedSets, kind: str, classes: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Gradient times input: mean over rows of d logit / d x * x, where x is the multi-hot vector,
    or that of the ids' weights.

    The table's gradient holds it: x[b, t] * (d logit_b / d x[b, t]), summed over rows, is the
    product of the table's row t with its gradient. So no vector of V numbers is made for a row.

    Args:
        model: of one input of ids.
        rows: to take the mean over.
        kind: of the task. Binary: the only output is the logit of class 1, and its negative that
            of 0. Under a softmax only differences count: the mean of a row's logits is subtracted.
        classes: whose logits; the first axis of the result.
    """
    layers = multi_hot_layers(model)
    tables = [layer.kernel.value for layer in layers]
    head = head_of(model, kind)
    rows = rows.with_weights() if takes_weights(model) else rows

    @tf.function(autograph=False, reduce_retracing=True)
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
        part = rows.take(np.arange(start, min(start + _ROWS_AT_ONCE, rows.num_rows)))
        inputs: dict[str, Any] = {"values": part.values, "row_splits": part.row_splits.astype("i4")}
        if part.weights is not None:
            inputs["weights"] = part.weights
        for place, number in enumerate(classes):
            sign, output = (2 * number - 1, 0) if kind == "binary" else (1, number)
            for weights in weigh(inputs, tf.constant(output)):
                found[place, : weights.shape[0]] += sign * weights.numpy()
    return found / rows.num_rows
