"""Texts as token ids in TensorFlow's own operations: what a `Vocabulary` does, in an exported
model.

Letters: B texts, N ids of all texts together.
"""

import re

import tensorflow as tf

from harness.data.vocabulary import SEPARATORS, Vocabulary

_SEPARATOR = f"[{re.escape(SEPARATORS)}]"


class TextEncoder(tf.Module):
    """Encodes texts as `vocabulary.encode` does."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        words, ids = list(vocabulary.ids), list(vocabulary.ids.values())
        self._table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(words, tf.string, [len(words)]), tf.constant(ids, tf.int32, [len(ids)])
            ),
            default_value=-1 if vocabulary.unknown_id is None else vocabulary.unknown_id,
        )

    def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """`values` int32 [N] and `row_splits` int32 [B + 1] of texts [B] in UTF-8."""
        # TensorFlow's lower case ends a text at its first NUL, so the parts between go one by one.
        # They are joined by a tensor: as an attribute, NUL is an empty text.
        parts = tf.strings.split(texts, "\0")
        lower = tf.strings.lower(parts.values, encoding="utf-8")
        lower = parts.with_values(tf.strings.join([tf.constant("\0"), lower]))
        lower = tf.strings.substr(tf.strings.reduce_join(lower, axis=-1), 1, 2**31 - 1)
        words = tf.strings.split(tf.strings.regex_replace(lower, _SEPARATOR, " "), " ")
        ids = self._table.lookup(tf.ragged.boolean_mask(words, words != ""))
        start = self._vocabulary.start_id
        if self._vocabulary.unknown_id is None:
            ids = tf.ragged.boolean_mask(ids, ids >= 0)
        if start is not None:
            ids = tf.concat([tf.fill([tf.size(texts), 1], start), ids], axis=1)
        return {"values": ids.values, "row_splits": tf.cast(ids.row_splits, tf.int32)}
