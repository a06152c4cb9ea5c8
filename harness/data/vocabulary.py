"""Words and their ids: rows shown as text, and text that the data set does not hold as ids."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.config import ImdbOptions
from harness.data.keras_cache import cached_file
from harness.data.ragged import Int32Array
from harness.errors import InputError

WORD_INDEX_NAME = "imdb_word_index.json"

# What Keras's Tokenizer takes for the space between words, beside the space itself.
_SEPARATORS = str.maketrans(dict.fromkeys('!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n', " "))

# How the tutorial shows an id that is no word: padding, start, unknown.
_NO_WORD = "#"


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """Words by rank, under the conventions that the data set's ids were made with."""

    ranks: Mapping[str, int]
    """Word -> rank, 1 for the most frequent: Keras's word index."""
    num_tokens: int
    """Ids are below it; words beyond are unknown."""
    conventions: ImdbOptions
    """Start id, unknown id, offset, num_words and skip_top."""
    source: Path
    """The file that the ranks came from."""
    _words: Mapping[int, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_words", {rank: word for word, rank in self.ranks.items()})

    def decode(self, ids: npt.ArrayLike) -> str:
        """The words of one row, int [n], with "#" for padding, start, unknown and unlisted ids."""
        reserved = {0, self.conventions.start_char, self.conventions.oov_char}
        offset = self.conventions.index_from
        return " ".join(
            _NO_WORD if token in reserved else self._words.get(token - offset, _NO_WORD)
            for token in np.asarray(ids).tolist()
        )

    def encode(self, text: str) -> Int32Array:
        """The ids of a text, int32 [n]: start, then a word each, unlisted words as unknown.

        Words are found as Keras's Tokenizer finds them: lower case, punctuation as spaces.
        """
        rules = self.conventions
        words = text.lower().translate(_SEPARATORS).split(" ")
        unlisted = -1 - rules.index_from
        ids = [self.ranks.get(word, unlisted) + rules.index_from for word in words if word]
        if rules.start_char is not None:
            ids.insert(0, rules.start_char)
        encoded = np.asarray(ids, np.int64)
        limit = min(self.num_tokens, rules.num_words or self.num_tokens)
        known = (encoded >= rules.skip_top) & (encoded < limit)
        if rules.oov_char is None:
            return encoded[known].astype(np.int32)
        return np.where(known, encoded, rules.oov_char).astype(np.int32)


def find_word_index(npz: Path) -> tuple[Path | None, str]:
    """The word index beside an imdb.npz, else in Keras's cache, and a sentence that says which."""
    places = list(dict.fromkeys([npz.parent / WORD_INDEX_NAME, cached_file(WORD_INDEX_NAME)]))
    for place in places:
        if place.is_file():
            return place, f"words from {place}"
    looked = " nor at ".join(str(place) for place in places)
    return None, f"no word index at {looked}: pass --word-index FILE to see words"


def read_word_index(path: str | Path) -> dict[str, int]:
    """Reads Keras's imdb_word_index.json: {word: rank}, ranks from 1 and no rank twice.

    Raises:
        InputError: no such file, or anything else in it.
    """
    path = Path(path)
    try:
        ranks = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Give a word index in Keras's format.") from error
    # Text that is not UTF-8 and text that is not JSON both raise a ValueError.
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(
            f"{path} is not readable JSON: {error}. Give a word index in Keras's format."
        ) from error
    if not isinstance(ranks, dict) or not ranks:
        raise InputError(f'{path} is not of the form {{"word": rank}}. Give Keras\'s word index.')
    for word, rank in ranks.items():
        if type(rank) is not int or rank < 1:
            raise InputError(
                f"{path}: the rank of {word!r} is {rank!r}. Ranks are whole numbers from 1."
            )
    if len(set(ranks.values())) != len(ranks):
        raise InputError(f"{path}: some ranks stand for several words. Give each word its own.")
    return ranks
