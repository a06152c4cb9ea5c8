"""Tokens of texts: one by one, in numbered blocks, and as other libraries find them."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import InputError
from harness.data.tokens import Numbered, Tokenization, hashed, numbered, numbered_rows
from harness.data.vocabulary import Vocabulary

TOKENIZATIONS = [
    Tokenization(),
    Tokenization(ngrams=3),
    Tokenization(tokenizer="punctuation", ngrams=2),
    Tokenization(tokenizer="whitespace", ngrams=2),
    Tokenization(tokenizer="scikit-learn", ngrams=2),
    Tokenization(tokenizer="characters", ngrams=3),
]
TEXTS = st.lists(st.text(alphabet="aBé_1 ,.\t\n\xa0\r'İ-") | st.text(), min_size=1, max_size=5)


def strings(found: Numbered) -> list[str]:
    return [token.decode(errors="surrogatepass") for token in found.tokens.to_pylist()]


@pytest.mark.parametrize("tokenization", TOKENIZATIONS, ids=str)
@given(texts=TEXTS)
def test_blocks_hold_the_tokens_of_each_text(texts: list[str], tokenization: Tokenization) -> None:
    found = numbered(texts, tokenization)
    assert found.sets.values.dtype == np.int32
    assert len(set(strings(found))) == len(found.tokens)
    assert len(found.sets.row_splits) == len(texts) + 1
    for text, start, stop in zip(
        texts, found.sets.row_splits, found.sets.row_splits[1:], strict=False
    ):
        expected = tokenization.tokens(text)
        row = [strings(found)[place] for place in found.sets.values[start:stop]]
        assert row == expected


def test_line_breaks_of_windows_are_no_part_of_words() -> None:
    for tokenizer in ("keras", "punctuation", "whitespace", "scikit-learn"):
        assert Tokenization(tokenizer=tokenizer).words("dull\r\nplot") == ["dull", "plot"]


def test_words_are_those_of_scikit_learn() -> None:
    text = "I don't like it at all: 3 stars, naïve_1 plot"
    pattern = re.compile(r"(?u)\b\w\w+\b")  # the token_pattern of its vectorizers
    found = Tokenization(tokenizer="scikit-learn").tokens(text)
    assert found == pattern.findall(text.lower())
    assert found == ["don", "like", "it", "at", "all", "stars", "naïve_1", "plot"]


def test_rows_of_strings_keep_what_they_hold() -> None:
    found = numbered_rows([["New York", "a b"], [], ["", "a b"]])
    rows = np.split(found.sets.values, found.sets.row_splits[1:-1])
    assert [[strings(found)[place] for place in row] for row in rows] == [
        ["New York", "a b"],
        [],
        ["", "a b"],
    ]


def test_a_list_of_strings_is_a_text_in_json() -> None:
    tokenization = Tokenization(tokenizer="list")
    assert tokenization.tokens('["New York", "x,y"]') == ["New York", "x,y"]
    for wrong in ("New York", "[1]", '{"a": 1}', "[" * 100_000):
        with pytest.raises(InputError, match="not a list of strings as JSON"):
            tokenization.tokens(wrong)
    with pytest.raises(InputError, match="have no order"):
        Tokenization(tokenizer="list", ngrams=2)


def test_hashed_vocabularies_have_an_id_for_every_token() -> None:
    vocabulary = Vocabulary(ids={}, num_tokens=1 << 10, hash_bits=10, ngrams=2)
    ids = vocabulary.encode("a good film")
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(
        ids, hashed(["a", "good", "film", "a good", "good film"], hash_bits=10)
    )
    assert set(vocabulary.words_of("a good film").values()) <= {
        *("a", "good", "film", "a good", "good film")
    }
    rows = vocabulary.encode_all(["a good film", "", "good"])
    assert [len(row) for row in rows] == [5, 0, 1]
    # The example in TensorFlow's documentation, modulo a power of two.
    assert hashed(["Hello", "TensorFlow", "2.x"], hash_bits=30).tolist() == [
        *(845881479, 675971790, 553180573)
    ]
    with pytest.raises(InputError, match="beside hashes of 10 bits"):
        Vocabulary(ids={"a": 1}, num_tokens=1 << 10, hash_bits=10)
