"""The words that a class's rows have and others lack, by what the model takes from them. Letters: B
rows, V num_tokens."""

import itertools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from harness import RaggedSets
from harness.data.vocabulary import Vocabulary
from harness.model.heads import head_of, logits_of
from harness.model.network import arrays_of, multi_hot_layers, takes_weights
from harness.tools.report.answers import Bools

_ROWS_AT_ONCE = 1_000
# How many times as common a word must be in a class's rows as in others. So words of all classes,
# such as "the", are left out, in any language.
_LEAST_LIFT = 1.5


def speaking_words(
    weights: npt.NDArray[np.float64],
    rows: RaggedSets,
    truth: Bools,
    vocabulary: Vocabulary | None,
    *,
    most: int,
) -> list[list[tuple[str, float, int, int]]]:
    """Returns the words that speak for each class, the heaviest first, with the numbers of rows of
    the class and of others that have them: their weight [classes, V] times the logarithm of how
    many times as common they are in the rows of the class, by `truth` [B, classes], as in others.
    Ids without a word, such as the start's, are left out; without words, as for hashed ones, ids
    are shown."""
    name: Callable[[int], str | None] = "id {}".format
    if vocabulary is not None and vocabulary.ids:
        reserved = {vocabulary.start_id, vocabulary.unknown_id}
        words = {token: word for word, token in vocabulary.ids.items() if token not in reserved}
        name = words.get
    found = []
    for own, among in zip(weights, truth.T, strict=True):
        inside, outside = (_rows_by_id(rows, part, len(own)) for part in (among, ~among))
        lift = inside * (~among).sum() / np.maximum(1, outside * among.sum())
        speaks = np.where(lift >= _LEAST_LIFT, own * np.log(np.maximum(1, lift)), 0)
        order = np.argsort(-speaks, kind="stable")[: np.count_nonzero(speaks > 0)].tolist()
        named = (
            (text, float(speaks[t]), int(inside[t]), int(outside[t]))
            for t in order
            if (text := name(t))
        )
        found.append(list(itertools.islice(named, most)))
    return found


def _rows_by_id(rows: RaggedSets, part: Bools, num_tokens: int) -> npt.NDArray[np.int64]:
    """Returns how many rows of a part, a mask [B], have each id, [V]."""
    if not part.any():  # no set of rows is empty
        return np.zeros(num_tokens, np.int64)
    return np.bincount(rows.take(np.flatnonzero(part)).unique().values, minlength=num_tokens)


def word_weights(
    model: keras.Model,
    rows: RaggedSets,
    kind: str,
    classes: Sequence[int],
    truth: Bools,
    *,
    from_logits: bool | None = None,
) -> npt.NDArray[np.float64]:
    """Returns gradient times input, d logit / d x * x, for the multi-hot vector x or that of the
    ids' weights: its mean over a class's rows less its mean over the others, [classes, V]; `truth`,
    [B, classes], says which rows are of which class. Under a softmax only differences count: the
    mean of a row's logits is subtracted."""
    # Summed over rows, it is the product of the table's row for an id with that row's gradient, so
    # no vector of V numbers is made for a row of data.
    layers = multi_hot_layers(model)
    tables = [layer.kernel.value for layer in layers]
    head = head_of(model, kind)
    rows = rows.with_weights() if takes_weights(model) else rows
    inside = truth / np.maximum(1, truth.sum(axis=0))
    shares = (inside - ~truth / np.maximum(1, (~truth).sum(axis=0))).astype(np.float32)

    @tf.function(autograph=False, reduce_retracing=True)
    def weigh(inputs: dict[str, tf.Tensor], number: tf.Tensor, share: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for table in tables:
                tape.watch(table)
            logits = logits_of(model, inputs, head, from_logits=from_logits)
            if head == "softmax":
                logits -= tf.reduce_mean(logits, axis=1, keepdims=True)
            total = tf.reduce_sum(share * tf.gather(logits, number, axis=1))
        gradients = tape.gradient(total, tables, unconnected_gradients="zero")
        return [
            tf.reduce_sum(tf.convert_to_tensor(gradient) * table, axis=1)
            for gradient, table in zip(gradients, tables, strict=True)
        ]

    found = np.zeros([len(classes), max(layer.num_tokens for layer in layers)])
    for start in range(0, rows.num_rows, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, rows.num_rows)
        part = rows.take(np.arange(start, stop))
        inputs = arrays_of(part)
        for place, number in enumerate(classes):
            # The only output of two classes is the logit of class 1.
            sign, output = (2 * number - 1, 0) if kind == "binary" else (1, number)
            share = tf.constant(sign * shares[start:stop, place])
            for weights in weigh(inputs, tf.constant(output), share):
                found[place, : weights.shape[0]] += weights.numpy()
    return found
