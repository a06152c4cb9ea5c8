"""Turns texts into token ids with TensorFlow's operations, as a `Vocabulary` for exported models.

Letters: B texts, N ids of all texts together.
"""

import re
import sys
from collections.abc import Callable

import tensorflow as tf

from harness.data.tokens import SEPARATORS, SPACE
from harness.data.vocabulary import Vocabulary

_SEPARATOR = f"[{re.escape(SEPARATORS)}]"
_MARK = f"[{re.escape(SEPARATORS.strip())}]"


class TextEncoder(tf.Module):
    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self._separator = _SEPARATOR
        if vocabulary.tokenizer == "punctuation":
            self._separator = "[\t\n\r]"
        elif vocabulary.tokenizer in ("whitespace", "characters"):
            self._separator = f"[{_class_of(str.isspace)}]"
        elif vocabulary.tokenizer == "scikit-learn":
            self._separator = f"[^{_class_of(lambda c: c.isalnum() or c == '_')}]"
        if vocabulary.hash_bits is not None:
            return
        words, ids = list(vocabulary.ids), list(vocabulary.ids.values())
        self._table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(words, tf.string, [len(words)]), tf.constant(ids, tf.int32, [len(ids)])
            ),
            default_value=-1 if vocabulary.unknown_id is None else vocabulary.unknown_id,
        )

    def __call__(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        """Encodes texts [B] in UTF-8 as `values` int32 [N], `row_splits` int32 [B + 1] and, if ids
        have weights, `weights` float32 [N], which add up to the weight of an id that a row
        repeats."""
        vocabulary = self._vocabulary
        tokens = words = self._words(texts)
        for length in range(2, vocabulary.ngrams + 1):
            tokens = tf.concat(
                [tokens, tf.strings.ngrams(words, length, vocabulary.separator)], axis=1
            )
        if vocabulary.hash_bits is not None:
            ids = tf.strings.to_hash_bucket_fast(tokens.values, 1 << vocabulary.hash_bits)
            ids = tokens.with_values(tf.cast(ids, tf.int32))
        else:
            ids = self._table.lookup(tokens)
            if vocabulary.unknown_id is None:
                ids = tf.ragged.boolean_mask(ids, ids >= 0)
        if vocabulary.start_id is not None:
            ids = tf.concat([tf.fill([tf.size(texts), 1], vocabulary.start_id), ids], axis=1)
        rows = {"values": ids.values, "row_splits": tf.cast(ids.row_splits, tf.int32)}
        return rows | ({"weights": self._weights(ids)} if vocabulary.is_weighted else {})

    def _weights(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """Returns each id's weight in its row, divided by its count in the row, float32 [N]."""
        vocabulary = self._vocabulary
        values = tf.cast(ids.values, tf.int64)
        each = tf.ones(tf.shape(values), tf.float64)  # added up, they are counts
        if vocabulary.idf is not None:
            each = tf.gather(tf.constant(vocabulary.idf, tf.float64), values)
        if vocabulary.normalize == "none":
            return tf.cast(each, tf.float32)
        rows = ids.value_rowids()
        pairs, places = tf.unique(rows * vocabulary.num_tokens + values)
        own = tf.math.unsorted_segment_sum(each, places, tf.size(pairs))
        if vocabulary.weighting == "binary":
            counts = tf.math.unsorted_segment_sum(tf.ones_like(each), places, tf.size(pairs))
            each, own = each / tf.gather(counts, places), tf.ones_like(own)
        num_rows = ids.nrows()
        # An id that the row repeats is one element of its vector, with the sum of its weights.
        squares = tf.math.unsorted_segment_sum(own**2, pairs // vocabulary.num_tokens, num_rows)
        lengths = tf.gather(tf.sqrt(squares), rows)
        return tf.cast(tf.math.divide_no_nan(each, lengths), tf.float32)

    def _words(self, texts: tf.Tensor) -> tf.RaggedTensor:
        tokenizer = self._vocabulary.tokenizer
        texts = texts if tokenizer == "whitespace" else _lower(texts)
        if tokenizer == "punctuation":
            texts = tf.strings.regex_replace(texts, _MARK, r" \0 ")
        spaced = tf.strings.regex_replace(texts, self._separator, " ")
        if tokenizer == "characters":
            return _characters(spaced)
        words = tf.strings.split(spaced, " ")
        least = 2 if tokenizer == "scikit-learn" else 1
        lengths = tf.strings.length(words.values, unit="UTF8_CHAR")
        return tf.ragged.boolean_mask(words, words.with_values(lengths >= least))


def _characters(texts: tf.Tensor) -> tf.RaggedTensor:
    """Returns the characters of texts whose white space is spaces."""
    spaced = tf.strings.regex_replace(tf.strings.join([" ", texts, " "]), " +", SPACE)
    spaced = tf.where(spaced == SPACE, "", spaced)  # a text without words has no characters
    return tf.strings.unicode_split(spaced, "UTF-8")


def _lower(texts: tf.Tensor) -> tf.Tensor:
    # TensorFlow's lower case ends a text at its first NUL, so this converts the parts between NULs.
    # A tensor joins them, because NUL as an attribute is an empty text.
    parts = tf.strings.split(texts, "\0")
    lower = tf.strings.lower(parts.values, encoding="utf-8")
    lower = parts.with_values(tf.strings.join([tf.constant("\0"), lower]))
    return tf.strings.substr(tf.strings.reduce_join(lower, axis=-1), 1, 2**31 - 1)


def _class_of(belongs: Callable[[str], bool]) -> str:
    """Returns the characters for which `belongs` is true, as ranges in RE2's syntax."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if belongs(chr(code)):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in ranges)
