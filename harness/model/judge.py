"""Judging texts by a trained model: its probabilities, and the words that decided.

Letters: B texts, K classes.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from harness.base.checks import require
from harness.data.ragged import RaggedSets
from harness.data.vocabulary import Vocabulary
from harness.model.export import check_vocabulary, names_of
from harness.model.heads import Head, logits_of
from harness.model.network import arrays_of, takes_weights

_MOST_EXPLAINED = 2_000  # The most distinct words of a text to leave out in turn
_ROWS_AT_ONCE = 256

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int32]


class Judge:
    """Judges texts by TensorFlow's own operations. XLA compiles nothing, so that a few texts need
    not wait, and batches may have any shape."""

    def __init__(
        self,
        model: keras.Model,
        vocabulary: Vocabulary,
        head: Head,
        *,
        from_logits: bool | None = None,
    ) -> None:
        check_vocabulary(vocabulary, model)
        require(
            vocabulary.takes_texts,
            "the model was trained on ids that stand for no words, so it cannot judge texts; use "
            "Trainer.predict on ids",
        )
        have, takes = ("no weights", "some") if takes_weights(model) else ("weights", "none")
        require(
            bool(takes_weights(model)) == vocabulary.is_weighted,
            f"the vocabulary gives ids {have}, but the model takes {takes}; name the model's own "
            "vocabulary, or use Trainer.predict on its rows",
        )
        self._vocabulary, self._head = vocabulary, head
        self._reserved = {vocabulary.start_id, vocabulary.unknown_id}
        ids = tf.TensorSpec([None], tf.int32)
        inputs = {"values": ids, "row_splits": ids}
        if vocabulary.is_weighted:
            inputs["weights"] = tf.TensorSpec([None], tf.float32)

        @tf.function(input_signature=[inputs], autograph=False)
        def logits(rows: dict[str, tf.Tensor]) -> tf.Tensor:
            return logits_of(model, rows, head, from_logits=from_logits)

        self._logits = logits
        self._activation = keras.activations.get(head)
        empty = RaggedSets.from_lists([[]], num_tokens=vocabulary.num_tokens)
        num_outputs = self.logits(empty).shape[1]
        self.is_multi_label = head == "sigmoid" and num_outputs > 1
        self.class_names = names_of(vocabulary.class_names, max(2, num_outputs))

    def encode(self, texts: Sequence[str]) -> RaggedSets:
        return self._vocabulary.encode_all(texts)

    def known(self, text: str, ids: Ids) -> tuple[int, int]:
        """Returns how many tokens of a text the model knows, and how many the text has."""
        known = sum(token not in self._reserved for token in ids.tolist())
        if self._vocabulary.unknown_id is None and self._vocabulary.hash_bits is None:
            return known, len(self._vocabulary.tokens(text))  # `ids` lacks the others
        return known, len(ids) - (self._vocabulary.start_id is not None)

    def logits(self, rows: RaggedSets) -> Floats:
        found: Floats = self._logits(arrays_of(self._vocabulary.weighted(rows))).numpy()
        return found

    def probabilities(self, rows: RaggedSets) -> Floats:
        logits = self.logits(rows)
        if logits.shape[1] == 1:
            logits = np.concatenate([-logits, logits], axis=1)
        found: Floats = np.asarray(self._activation(logits))
        return found

    def explain(self, text: str, ids: Ids, number: int, *, most: int) -> list[tuple[str, float]]:
        """Returns the words that weigh most for or against a class, the heaviest first: by how much
        the class's log-odds (for independent labels and two classes, its logit) fall when all of a
        word's occurrences are left out."""
        candidates = [t for t in dict.fromkeys(ids.tolist()) if t not in self._reserved]
        candidates = candidates[:_MOST_EXPLAINED]
        rows = [ids, *(ids[ids != token] for token in candidates)]
        splits, num_tokens = np.cumsum([0, *map(len, rows)]), self._vocabulary.num_tokens
        sets = RaggedSets(values=np.concatenate(rows), row_splits=splits, num_tokens=num_tokens)
        parts = [
            self._log_odds(self.logits(sets[start : start + _ROWS_AT_ONCE]), number)
            for start in range(0, len(rows), _ROWS_AT_ONCE)
        ]
        whole, *without = np.concatenate(parts).tolist()
        weights = {token: whole - left for token, left in zip(candidates, without, strict=True)}
        heaviest = sorted(weights.items(), key=lambda pair: -abs(pair[1]))[:most]
        words = self._vocabulary.words_of(text)
        return [(words[token], weight) for token, weight in heaviest]

    def _log_odds(self, logits: Floats, number: int) -> Any:
        if logits.shape[1] == 1:
            return logits[:, 0] if number == 1 else -logits[:, 0]
        own = logits[:, number]
        if self._head == "sigmoid":
            return own
        return own - np.logaddexp.reduce(np.delete(logits, number, axis=1), axis=1)
