"""Ids as words and text as ids, by Keras's conventions."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.vocabulary import Vocabulary

WORDS = {"the": 1, "film": 2, "was": 3, "brilliant": 4, "dull": 5, "don't": 6}


@pytest.fixture(scope="module")
def word_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words") / "words.json"
    path.write_text(json.dumps(WORDS))
    return path


@pytest.mark.parametrize(("num_tokens", "expected"), [(100, [1, 4, 5, 6, 7]), (7, [1, 4, 5, 6, 2])])
def test_encode_follows_the_conventions(
    word_index: Path, tmp_path: Path, num_tokens: int, expected: list[int]
) -> None:
    words = Vocabulary.from_word_index(word_index, num_tokens=num_tokens)
    assert words.encode("the film was brilliant").tolist() == expected
    # As the tutorial shows rows.
    shown = "brilliant" if num_tokens == 100 else "#"
    assert words.decode([1, 4, 5, 2, 6, 7, 0, 0]) == f"# the film # was {shown} # #"
    words.save(tmp_path / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert loaded.num_tokens == num_tokens
    assert loaded.encode("the film was brilliant").tolist() == expected
    assert loaded.decode(range(100)) == words.decode(range(100))


@pytest.mark.usefixtures("logical_devices")
@given(text=st.text(st.sampled_from("The film's\t\nwas, -dull_ÄÖß!?<br/>don't`~"), max_size=40))
def test_words_are_found_as_kerass_tokenizer_finds_them(text: str) -> None:
    from keras.src.legacy.preprocessing.text import text_to_word_sequence

    words = text_to_word_sequence(text)
    ids = {word: number for number, word in enumerate(dict.fromkeys(words))}
    known = Vocabulary(ids=ids, num_tokens=1000)
    assert known.encode(text).tolist() == [ids[word] for word in words]


@pytest.mark.parametrize(
    "conventions",
    [
        {},
        {"start_id": 1, "unknown_id": 2},
        {"start_id": 1, "ngrams": 2},
        {"unknown_id": 2, "tokenizer": "whitespace", "ngrams": 3},
    ],
    ids=str,
)
@given(texts=st.lists(st.text("ab c!A"), min_size=1, max_size=6))
def test_many_texts_have_the_ids_of_each(texts: list[str], conventions: dict[str, Any]) -> None:
    ids = {word: token for token, word in enumerate(["a", "b", "a b", "ab", "A"], 4)}
    vocabulary = Vocabulary(ids=ids, num_tokens=9, **conventions)
    expected = []
    for text in texts:
        row = [vocabulary.start_id]
        row += [ids.get(t, vocabulary.unknown_id) for t in vocabulary.tokens(text)]
        expected.append([token for token in row if token is not None])
    assert [row.tolist() for row in vocabulary.encode_all(texts)] == expected


def test_vocabularies_differ_where_an_id_means_something_else() -> None:
    ids = {"a": 4, "b": 5, "c": 6}
    mine = Vocabulary(ids=ids, num_tokens=7, class_names=("no", "yes"))
    fewer = Vocabulary(ids={"a": 4}, num_tokens=5, unknown_id=2)
    assert mine.difference(mine) == mine.difference(fewer) == fewer.difference(mine) == ""
    for changes, why in (
        ({"ids": {"b": 4, "a": 5}}, "the id of"),
        ({"ids": {"d": 4}}, "no word in common"),
        ({"tokenizer": "whitespace"}, "its tokenizer is whitespace, not keras"),
        ({"class_names": ("yes", "no")}, "its classes are yes, no, not no, yes"),
        ({"weighting": "count"}, "its weighting is count, not binary"),
    ):
        given: dict[str, Any] = {"ids": ids, "num_tokens": 7, **changes}
        assert why in mine.difference(Vocabulary(**given))
