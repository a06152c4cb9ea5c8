"""Ids as words and text as ids, by Keras's conventions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config import ImdbOptions
from harness.data.imdb import load_imdb
from harness.data.vocabulary import Vocabulary, find_word_index, read_word_index
from harness.errors import InputError

WORDS = {"the": 1, "film": 2, "was": 3, "brilliant": 4, "dull": 5, "don't": 6}


def vocabulary(num_tokens: int = 100, **conventions: Any) -> Vocabulary:
    return Vocabulary(
        ranks=WORDS,
        num_tokens=num_tokens,
        conventions=ImdbOptions(**conventions),
        source=Path("words.json"),
    )


def test_decode_shows_rows_as_the_tutorial_does() -> None:
    assert vocabulary().decode([1, 4, 5, 2, 6, 7, 0, 0]) == "# the film # was brilliant # #"


def test_decode_shows_ids_without_a_word_as_unknown() -> None:
    assert vocabulary().decode(np.array([3, 99, -1], np.int32)) == "# # #"


def test_encode_gives_start_words_and_unknown() -> None:
    encoded = vocabulary().encode('The FILM, was "truly" brilliant!\n')
    assert encoded.dtype == np.int32
    assert encoded.tolist() == [1, 4, 5, 6, 2, 7]


@pytest.mark.parametrize(
    ("conventions", "expected"),
    [
        ({"num_words": 6}, [1, 4, 5, 2, 2]),
        ({"skip_top": 5}, [2, 2, 5, 6, 7]),
        ({"start_char": None}, [4, 5, 6, 7]),
        ({"oov_char": None, "num_words": 6}, [1, 4, 5]),
        ({"index_from": 10, "oov_char": 8}, [1, 11, 12, 13, 14]),
        ({"num_words": None}, [1, 4, 5, 6, 7]),
    ],
    ids=str,
)
def test_encode_follows_the_conventions(conventions: dict[str, Any], expected: list[int]) -> None:
    assert vocabulary(**conventions).encode("the film was brilliant").tolist() == expected


def test_no_encoded_id_reaches_num_tokens() -> None:
    encoded = vocabulary(num_tokens=7, num_words=None).encode("the film was brilliant")
    assert encoded.tolist() == [1, 4, 5, 6, 2]


def test_an_empty_text_is_a_start() -> None:
    assert vocabulary().encode(" ... ").tolist() == [1]


@given(st.lists(st.sampled_from([word for word in WORDS if "'" not in word])))
def test_encode_undoes_decode(words: list[str]) -> None:
    row = [1, *(WORDS[word] + 3 for word in words)]
    assert vocabulary().encode(vocabulary().decode(row)).tolist() == row


@pytest.mark.usefixtures("logical_devices")
@given(text=st.text(st.sampled_from("The film's\t\nwas, -dull_ÄÖß!?<br/>don't`~"), max_size=40))
def test_words_are_found_as_kerass_tokenizer_finds_them(text: str) -> None:
    from keras.src.legacy.preprocessing.text import text_to_word_sequence

    words = text_to_word_sequence(text)
    ranks = {word: rank for rank, word in enumerate(dict.fromkeys(words), 1)}
    known = Vocabulary(
        ranks=ranks, num_tokens=1000, conventions=ImdbOptions(), source=Path("words.json")
    )
    assert known.encode(text).tolist() == [1, *(ranks[word] + 3 for word in words)]


def test_a_real_review_reads_as_published(imdb_path: Path, keras_home: Path) -> None:
    path, note = find_word_index(imdb_path)
    if path is None:
        pytest.skip(f"needs the real word index: {note}")
    _, test = load_imdb(imdb_path)
    words = Vocabulary(
        ranks=read_word_index(path),
        num_tokens=test.num_tokens,
        conventions=ImdbOptions(),
        source=path,
    )
    review = test.row(0)
    text = words.decode(review)
    assert text.startswith("# this film was just brilliant casting location scenery")
    known = review[review > 2]
    assert words.encode(words.decode(known)).tolist() == [1, *known.tolist()]


def test_the_word_index_is_found_beside_the_file_then_in_kerass_cache(
    tmp_path: Path, keras_home: Path
) -> None:
    npz = tmp_path / "imdb.npz"
    beside = tmp_path / "imdb_word_index.json"
    cached = keras_home / "datasets" / "imdb_word_index.json"
    found, note = find_word_index(npz)
    assert found is None
    assert note == f"no word index at {beside} nor at {cached}: pass --word-index FILE to see words"
    cached.parent.mkdir(parents=True)
    cached.write_text("{}")
    assert find_word_index(npz) == (cached, f"words from {cached}")
    beside.write_text("{}")
    assert find_word_index(npz) == (beside, f"words from {beside}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable JSON"),
        (b'{"the": 1,', "not readable JSON"),
        (b"\xff\xfe{}", "not readable JSON"),
        (b"[" * 100_000, "not readable JSON"),
        (b"[1]", "not of the form"),
        (b"{}", "not of the form"),
        (b'{"the": "1"}', "the rank of 'the' is '1'"),
        (b'{"the": 0}', "the rank of 'the' is 0"),
        (b'{"the": true}', "the rank of 'the' is True"),
        (b'{"the": 1, "a": 1}', "some ranks stand for several words"),
    ],
)
def test_a_word_index_that_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "words.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_word_index(path)


def test_a_word_index_that_is_right(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps(WORDS))
    assert read_word_index(path) == WORDS


@pytest.mark.parametrize(
    ("name", "message"), [("absent.json", "no such file"), ("", "not readable")]
)
def test_a_word_index_that_is_no_file(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_word_index(tmp_path / name)
