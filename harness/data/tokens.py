"""Texts as tokens: words or characters by one of several tokenizers, and runs of them (n-grams).

Letters: B rows, N tokens of all rows together.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from harness.base.checks import require, require_choice, require_count
from harness.base.errors import InputError
from harness.base.quiet import quiet_import
from harness.data.options import MAX_NGRAMS
from harness.data.ragged import Array, RaggedSets, splits_of

if TYPE_CHECKING:
    import pyarrow

Tokenizer = Literal["keras", "punctuation", "whitespace", "scikit-learn", "characters", "list"]

# Characters that Keras's Tokenizer turns into spaces, and the other half of Windows's line breaks.
SEPARATORS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n\r'
# Tables of bytes: Python translates bytes six times as fast as strings. In UTF-8, no separator and
# no ASCII capital is part of another character.
_TO_SPACES = {
    "keras": bytes.maketrans(SEPARATORS.encode(), b" " * len(SEPARATORS)),
    "punctuation": bytes.maketrans(b"\t\n\r", b"   "),
}
_MARKS = [mark.encode() for mark in SEPARATORS if not mark.isspace()]
# What stands for white space among characters, and for a text's beginning and end, as in
# SentencePiece: so a run of characters tells whether a word begins or ends in it.
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_WORD = re.compile(r"(?u)\b\w\w+\b")


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokenization:
    """How a text is divided into tokens."""

    tokenizer: Tokenizer = "keras"  # as in `BuildOptions`; `list`: a text is a JSON list of strings
    ngrams: int = 1  # length in words of the longest runs that are tokens too

    def __post_init__(self) -> None:
        require_choice("--tokenizer", self.tokenizer, get_args(Tokenizer))
        require_count("--ngrams", self.ngrams, most=MAX_NGRAMS)
        require(
            self.ngrams == 1 or self.tokenizer != "list",
            f"--ngrams is {self.ngrams}, and strings in a list have no order. Leave it out.",
        )

    def tokens(self, text: str) -> list[str]:
        """Returns the words of a text in their order, then its runs of two words, and so on."""
        words = self.words(text)
        found = list(words)
        for length in range(2, self.ngrams + 1):
            runs = (words[start : start + length] for start in range(len(words) - length + 1))
            found += map(self.separator.join, runs)
        return found

    @property
    def separator(self) -> str:
        """What stands between the tokens of a run."""
        return "" if self.tokenizer == "characters" else " "

    def words(self, text: str) -> list[str]:
        if self.tokenizer in _TO_SPACES:
            content = self._contents(text.lower()).translate(_TO_SPACES[self.tokenizer])
            return [word for word in content.decode(errors="surrogatepass").split(" ") if word]
        if self.tokenizer == "whitespace":
            return text.split()
        if self.tokenizer == "scikit-learn":
            return _WORD.findall(text.lower())
        if self.tokenizer == "characters":
            words = text.lower().split()
            return list(SPACE.join(["", *words, ""])) if words else []
        try:
            items = json.loads(text)
        except (ValueError, RecursionError):
            items = None
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise InputError(
                f'{text:.100} is not a list of strings as JSON. Give one, as in ["red", "green"].'
            )
        return [item for item in items if item]

    def _contents(self, text: str) -> bytes:
        content = text.encode(errors="surrogatepass")
        if self.tokenizer == "punctuation":  # four times as fast as a regular expression
            for mark in _MARKS:
                if mark in content:
                    content = content.replace(mark, b" " + mark + b" ")
        return content


@dataclass(frozen=True, kw_only=True, eq=False)
class Numbered:
    """Rows of tokens."""

    tokens: pyarrow.LargeBinaryArray  # distinct tokens in UTF-8, as they first appear; none for ids
    sets: RaggedSets  # each token's place in `tokens`, or ids


def numbered(texts: Iterable[str], tokenization: Tokenization) -> Numbered:
    """Returns the `tokenization.tokens` of each text, apart from their order."""
    if tokenization.tokenizer == "list":
        return numbered_rows(map(tokenization.words, texts))
    found = _numbered_words(texts, tokenization)
    return found if tokenization.ngrams == 1 else _with_runs(found, tokenization)


def _numbered_words(texts: Iterable[str], tokenization: Tokenization) -> Numbered:
    """Numbers words through Arrow, three times as fast as `numbered_rows`."""
    import pyarrow
    from pyarrow.compute import binary_slice

    to_spaces = _TO_SPACES.get(tokenization.tokenizer)
    if to_spaces is not None:
        texts = (text if text.isascii() else text.lower() for text in texts)
    else:
        texts = (" ".join(tokenization.words(text)) for text in texts)
    contents = [tokenization._contents(text) for text in texts]
    contents.append(b"")  # a space behind the last one, too
    joined = b" ".join(contents)
    joined = joined if to_spaces is None else joined.translate(to_spaces.lower())
    # Each word keeps the space behind it, so that the words adjoin, as in Arrow's arrays.
    word_ends = np.flatnonzero(np.frombuffer(joined, np.uint8) == ord(" ")) + 1
    offsets = np.concatenate([[0], word_ends])
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(joined)]
    words = pyarrow.LargeBinaryArray.from_buffers(pyarrow.large_binary(), len(word_ends), buffers)
    found = words.dictionary_encode()
    text_ends = np.cumsum([0, *(len(content) + 1 for content in contents[:-1])])
    row_splits = np.searchsorted(offsets, text_ends)
    tokens, values = binary_slice(found.dictionary, 0, -1), found.indices.to_numpy()
    empty = tokens.index(b"").as_py()  # between two spaces
    if empty >= 0:
        is_empty = values == empty
        row_splits = row_splits - np.searchsorted(np.flatnonzero(is_empty), row_splits)
        values = values[~is_empty]
        values -= values > empty
        tokens = pyarrow.concat_arrays([tokens[:empty], tokens[empty + 1 :]])
    return _numbered(tokens, values, row_splits)


def _numbered(tokens: pyarrow.LargeBinaryArray, values: Array, row_splits: Array) -> Numbered:
    sets = RaggedSets(values=values, row_splits=row_splits, num_tokens=max(1, len(tokens)))
    return Numbered(tokens=tokens, sets=sets)


def numbered_rows(rows: Iterable[Sequence[str]]) -> Numbered:
    """Returns rows of strings as numbered tokens."""
    import pyarrow

    encoded = [[token.encode(errors="surrogatepass") for token in row] for row in rows]
    lists = pyarrow.array(encoded, pyarrow.large_list(pyarrow.large_binary()))
    found = lists.values.dictionary_encode()
    return _numbered(found.dictionary, found.indices.to_numpy(), lists.offsets.to_numpy())


def _with_runs(found: Numbered, tokenization: Tokenization) -> Numbered:
    """Adds the runs of up to `ngrams` words to rows of words: row by row, the words, then the runs
    of two words, and so on. They are found by pairs of numbers, so that only distinct runs become
    strings."""
    import pyarrow
    from pyarrow.compute import binary_join_element_wise

    words, tokens = found.sets.values.astype(np.int64), found.tokens
    rows = np.repeat(np.arange(found.sets.num_rows), found.sets.lengths)
    starting = words  # the number of the run of the last length that starts at each word
    parts = [(found.sets.values, rows)]
    between = pyarrow.scalar(tokenization.separator.encode(), tokens.type)
    for behind in range(1, tokenization.ngrams):
        starts = np.flatnonzero(rows[behind:] == rows[: rows.size - behind])
        pairs = pyarrow.array(starting[starts] << 32 | words[starts + behind]).dictionary_encode()
        distinct = pairs.dictionary.to_numpy()  # in order of first appearance
        heads, tails = tokens.take(distinct >> 32), tokens.take(distinct & 0xFFFFFFFF)
        made = binary_join_element_wise(heads, tails, between)
        runs = pairs.indices.to_numpy() + np.int32(len(tokens))
        tokens = pyarrow.concat_arrays([tokens, made])
        starting = np.full(words.size, -1)
        starting[starts] = runs
        parts.append((runs, rows[starts]))
    values, rows = (np.concatenate(part) for part in zip(*parts, strict=True))
    splits = splits_of(np.bincount(rows, minlength=found.sets.num_rows))
    return _numbered(tokens, values[np.argsort(rows, kind="stable")], splits)


def hashed(tokens: Sequence[str] | Sequence[bytes], hash_bits: int) -> npt.NDArray[np.int32]:
    """Returns TensorFlow's hashes of tokens, as an exported model has them, int32 [N]."""
    with quiet_import():
        import tensorflow as tf

    with tf.device("/CPU:0"):
        ids = tf.strings.to_hash_bucket_fast(
            tf.constant(tokens, tf.string, [len(tokens)]), 1 << hash_bits
        )
        found: npt.NDArray[np.int32] = ids.numpy().astype(np.int32)
    return found
