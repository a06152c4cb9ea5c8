"""Words, classes and their ids: turns rows into text, and any text into a row of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from harness.base.checks import require_choice, require_count
from harness.base.errors import InputError
from harness.base.files import write_json
from harness.base.reading import read_json
from harness.data.options import INDEX_FROM, MAX_HASH_BITS, START_ID, UNKNOWN_ID, Weighting
from harness.data.ragged import Int32Array, RaggedSets, splits_of, starting_with
from harness.data.tokens import Numbered, Tokenization, hashed, numbered, numbered_rows
from harness.data.weighting import count, l2_normalized, tf_idf

if TYPE_CHECKING:
    import pyarrow

FILE_NAME = "vocabulary.json"  # the file of a vocabulary in the folder of a run or of a data set
WORD_INDEX_NAME = "imdb_word_index.json"

_MANY = 0.25  # ratio of tokens to words above which Arrow looks tokens up faster than Python

# The tutorial's sign for ids that are no words: padding, start, unknown.
_NO_WORD = "#"


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary(Tokenization):
    """The ids of known words, and the ids for a row's start and for unknown words. Construction
    raises `InputError` for an id outside [0, num_tokens) or shared by two words."""

    ids: Mapping[str, int]  # the id of each word
    num_tokens: int  # V of the data set, the number of possible ids
    start_id: int | None = None  # the id that starts each row; None for none
    unknown_id: int | None = None  # the id of words that are not in `ids`; None leaves them out
    class_names: Sequence[str] = ()  # in the order of their labels; empty if unknown
    thresholds: Sequence[float] | None = None  # of probabilities, [K], if rows have several classes
    # Of the hashes that serve as ids, with empty `ids`.
    hash_bits: int | None = None
    weighting: Weighting = "binary"
    normalize: Literal["none", "l2"] = "none"  # of a row's weights
    idf: Sequence[float] | None = None  # inverse document frequencies, [V], for `tf_idf` only

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("--weighting", self.weighting, get_args(Weighting))
        require_choice("--normalize", self.normalize, ("none", "l2"))
        if (bits := self.hash_bits) is not None:
            require_count("--hash-bits", bits, most=MAX_HASH_BITS)
        if bits is not None and (self.ids or self.num_tokens != 1 << bits):
            raise InputError(
                f"the vocabulary has {len(self.ids)} words and {self.num_tokens} ids beside hashes "
                f"of {bits} bits; it has none, and {1 << bits}."
            )
        reserved = [token for token in (self.start_id, self.unknown_id) if token is not None]
        for token in (*self.ids.values(), *reserved):
            if type(token) is not int or not 0 <= token < self.num_tokens:
                raise InputError(
                    f"the vocabulary has the id {token!r}; ids are whole numbers from 0 to "
                    f"{self.num_tokens - 1}. Correct the id, or raise num_tokens."
                )
        if len(set(self.ids.values())) != len(self.ids):
            raise InputError("the vocabulary has one id for several words. Give each its own.")
        if (self.weighting == "tf_idf") != (self.idf is not None) or (
            self.idf is not None and np.asarray(self.idf, np.float64).shape != (self.num_tokens,)
        ):
            raise InputError(
                f"the vocabulary is weighted by {self.weighting}, with other than one inverse "
                f"document frequency for each of {self.num_tokens} ids. Give them with tf_idf only."
            )
        if self.thresholds is not None and (
            len(self.thresholds) != len(self.class_names)
            or not all(isinstance(t, float) and 0 <= t <= 1 for t in self.thresholds)
        ):
            raise InputError(
                f"the vocabulary's thresholds are {self.thresholds!r:.100}; give a number from 0 "
                f"to 1 for each of {len(self.class_names)} classes."
            )
        if not all(isinstance(name, str) for name in self.class_names):
            raise InputError(f"the vocabulary's class_names are {self.class_names!r}, not words.")

    @classmethod
    def from_word_index(
        cls, path: Path, *, num_tokens: int, class_names: Sequence[str] = ()
    ) -> Self:
        """Reads Keras's imdb_word_index.json: {word: rank}, with different ranks from 1. Words
        whose id is not below num_tokens have none."""
        ranks = read_json(path, remedy="Give a word index in Keras's format.")
        for word, rank in ranks.items():
            if type(rank) is not int or rank < 1:
                raise InputError(
                    f"{path}: the rank of {word!r} is {rank!r}. Ranks are whole numbers from 1."
                )
        if not ranks:
            raise InputError(f"{path} has no words. Give a word index in Keras's format.")
        ids = {w: rank + INDEX_FROM for w, rank in ranks.items() if rank + INDEX_FROM < num_tokens}
        own: dict[str, Any] = {"num_tokens": num_tokens, "class_names": class_names}
        return cls(ids=ids, start_id=START_ID, unknown_id=UNKNOWN_ID, **own)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a vocabulary that `save` wrote."""
        content = read_json(path, remedy="Give a vocabulary that this harness wrote.")
        try:
            return cls(**content)
        except (InputError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is not a vocabulary of this harness: {error}") from error

    def save(self, path: Path) -> None:
        """Writes the vocabulary as JSON, from which `load` builds it again."""
        write_json(path, {field.name: getattr(self, field.name) for field in fields(self)})

    def with_thresholds(self, thresholds: Sequence[float]) -> Vocabulary:
        """Returns the vocabulary with these thresholds, if it names the classes they belong to."""
        names_them = len(thresholds) == len(self.class_names)
        return replace(self, thresholds=thresholds) if names_them else self

    @property
    def takes_texts(self) -> bool:
        """Whether tokens have ids; they have none if the data set came as ids."""
        return bool(self.ids) or self.hash_bits is not None

    @cached_property
    def _words(self) -> Mapping[int, str]:
        reserved = {self.start_id, self.unknown_id}
        return {token: word for word, token in self.ids.items() if token not in reserved}

    def decode(self, ids: npt.ArrayLike) -> str:
        """Returns the words of ids, int [n], with "#" for padding, start, unknown and other ids."""
        return " ".join(self._words.get(token, _NO_WORD) for token in np.asarray(ids).tolist())

    def encode(self, text: str) -> Int32Array:
        """Returns the ids of a text, int32 [n]: the start id, then one id for each token."""
        return self.encode_all([text])[0]

    def ids_of(self, tokens: pyarrow.LargeBinaryArray) -> Int32Array:
        """Returns the id of each UTF-8 token, int32 [T]; -1 for tokens that are left out."""
        if self.hash_bits is not None:
            return hashed(tokens.to_pylist(), self.hash_bits)
        other, known = -1 if self.unknown_id is None else self.unknown_id, self._encoded
        if len(tokens) <= _MANY * len(known):
            return np.array([known.get(token, other) for token in tokens.to_pylist()], np.int32)
        import pyarrow
        from pyarrow.compute import index_in

        # Several times as fast for many tokens; each call makes Arrow build a table anew.
        words = pyarrow.array(list(known), pyarrow.large_binary())
        places = index_in(tokens, value_set=words).fill_null(len(words)).to_numpy()
        return np.array([*known.values(), other], np.int32)[places]

    def sets_of(self, rows: Numbered) -> RaggedSets:
        """Returns rows of ids, each as often as it occurs, without the start id."""
        sets = rows.sets.derived(num_tokens=self.num_tokens, name="rows")
        if not len(rows.tokens):
            return sets
        values = self.ids_of(rows.tokens)[sets.values]
        known = values >= 0
        splits = sets.row_splits if known.all() else splits_of(known)[sets.row_splits]
        return sets.derived(values=values[known], row_splits=splits)

    @cached_property
    def _encoded(self) -> Mapping[bytes, int]:
        return {word.encode(errors="surrogatepass"): token for word, token in self.ids.items()}

    def difference(self, other: Vocabulary) -> str:
        """Describes how another vocabulary's ids or labels differ in meaning; "" if they do not.
        One may have fewer words, as with a lower limit, but no word may have another id."""
        for what in ("tokenizer", "ngrams", "hash_bits", "weighting", "normalize"):
            mine, others = getattr(self, what), getattr(other, what)
            if mine != others:
                return f"its {what} is {others}, not {mine}"
        for word in self.ids.keys() & other.ids.keys():
            if self.ids[word] != other.ids[word]:
                return f"the id of {word[:40]!r} is {other.ids[word]}, not {self.ids[word]}"
        if self.ids and other.ids and self.ids.keys().isdisjoint(other.ids):
            return "they have no word in common"
        if self.class_names and other.class_names and [*self.class_names] != [*other.class_names]:
            mine, others = (", ".join(v.class_names)[:100] for v in (self, other))
            return f"its classes are {others}, not {mine}"
        return ""

    @property
    def is_weighted(self) -> bool:
        """Whether ids have weights."""
        return self.weighting != "binary" or self.normalize != "none"

    def weighted(self, sets: RaggedSets) -> RaggedSets:
        """Returns rows, with each id as often as it occurs, with the weights of this vocabulary."""
        if self.idf is not None:
            sets = tf_idf(sets, self.idf)
        elif self.weighting == "count":
            sets = count(sets)
        return l2_normalized(sets) if self.normalize == "l2" else sets

    def encode_all(self, rows: Sequence[Any]) -> RaggedSets:
        """Returns `encode` of each text, faster than one by one; or the ids of lists of tokens."""
        are_texts = isinstance(rows[0], str)
        found = numbered(rows, self) if are_texts else numbered_rows(rows)
        sets = self.sets_of(found)
        return sets if self.start_id is None else starting_with(self.start_id, sets)

    def words_of(self, text: str) -> dict[int, str]:
        """Returns a text's known tokens by their ids; of several with one hash, the first."""
        tokens = self.tokens(text)
        if self.hash_bits is None:
            return {self.ids[token]: token for token in tokens if token in self.ids}
        ids = hashed(tokens, self.hash_bits).tolist()
        return dict(zip(reversed(ids), reversed(tokens), strict=True))
