"""Data sets of sources: every row has the ids that its text has, and what is wrong is counted."""

import csv
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import harness
from harness.base.errors import InputError
from harness.data.build import building
from harness.data.build.building import BlockCounts, build, most_frequent
from harness.data.options import BuildOptions
from harness.data.readers.formats import open_source
from harness.data.tokens import Tokenization

WORDS = st.lists(st.sampled_from(["good", "Bad", "film,", "it's", "été", "x"]), max_size=6)
ROWS = st.lists(st.tuples(WORDS.map(" ".join), st.sampled_from("ab")), min_size=6, max_size=30)
BLOCKS = st.lists(
    st.dictionaries(st.text("abcdé", max_size=2), st.integers(0, 4)), min_size=1, max_size=6
)


def write_csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(train=ROWS, test=ROWS, ngrams=st.integers(1, 2), limit=st.integers(5, 12))
def test_rows_and_vocabulary_are_those_of_the_texts(
    tmp_path: Path, train: list[Any], test: list[Any], ngrams: int, limit: int
) -> None:
    if len({label for _, label in train}) < 2 or not {label for _, label in test}:
        return
    sources = write_csv(tmp_path / "a.csv", train), write_csv(tmp_path / "b.csv", test)
    data = harness.load(
        sources[0], test_data=str(sources[1]), ngrams=ngrams, num_tokens=limit, unique=False
    )
    tokenization = Tokenization(ngrams=ngrams)
    counts: Counter[str] = Counter()
    for text, _ in train:
        counts.update(tokenization.tokens(text))
    vocabulary = data.vocabulary
    assert vocabulary is not None
    # Of equally frequent ones, runs come behind the words of their block.
    ranked = [counts[token] for token in vocabulary.ids]
    assert ranked == sorted(counts.values(), reverse=True)[: limit - 4]
    assert list(vocabulary.ids.values()) == list(range(4, 4 + len(ranked)))
    assert data.num_tokens == 4 + len(ranked)
    for part, rows in ((data.train, train), (data.test, test)):
        expected = [
            (sorted(vocabulary.encode(text).tolist()), "ab".index(label)) for text, label in rows
        ]
        found = [
            (sorted(part.row(index).tolist()), int(part.labels[index]))
            for index in range(part.num_rows)
        ]
        assert found == expected


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(train=ROWS, limit=st.integers(5, 8), weighting=st.sampled_from(["binary", "tf_idf"]))
def test_unknown_words_are_left_out(
    tmp_path: Path, train: list[Any], limit: int, weighting: Any
) -> None:
    """The rows are those of texts without the words that have no id."""
    if len({label for _, label in train}) < 2:
        return
    how = {"weighting": weighting, "normalize": "l2", "num_tokens": limit, "unknown": "drop"}
    path = write_csv(tmp_path / "a.csv", [*train, *train])
    other = write_csv(tmp_path / "b.csv", train)
    data = harness.load(path, test_data=str(other), **how)
    assert data.vocabulary is not None
    assert data.vocabulary.unknown_id is None
    known = [
        (" ".join(w for w in Tokenization().tokens(text) if w in data.vocabulary.ids), label)
        for text, label in train
    ]
    path = write_csv(tmp_path / "c.csv", [*known, *known])
    without = harness.load(path, test_data=str(write_csv(tmp_path / "d.csv", known)), **how)
    for part, expected in ((data.train, without.train), (data.test, without.test)):
        np.testing.assert_array_equal(part.values, expected.values)
        np.testing.assert_array_equal(part.row_splits, expected.row_splits)
        np.testing.assert_array_equal(part.weights, expected.weights)


def test_what_is_wrong_is_counted_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = write_csv(tmp_path / "train.csv", [("a b", "yes"), ("c", "no"), ("b", "yes")])
    test = tmp_path / "test.csv"
    test.write_bytes(b"text,label\na b,yes\nnew,perhaps\nc \xff,no\nshort\n")
    options: dict[str, Any] = {"test_data": str(test)}
    data = harness.load(train, **options)
    assert (data.train.num_rows, data.test.num_rows) == (3, 2)
    notes = capsys.readouterr().err
    for said in (
        "as in the class perhaps: test label that no train row has",
        "test row that is a train row as well",
        "test.csv, line 4: invalid UTF-8",
        "test.csv, line 5: too few columns",
        "text from column text, labels from column label",
    ):
        assert said in notes
    with pytest.raises(InputError, match=r"line 4: invalid UTF-8, .* UTF-8\. Correct it"):
        harness.load(train, **options, strict=True)
    test.write_text("text,label\nnew,perhaps\n")
    known = "no test row has a class of the train rows. Those have no, yes, the test rows perhaps"
    with pytest.raises(InputError, match=known):
        harness.load(train, **options)
    # Others are not drawn in their place.
    for rows, why in (("bad,\n", "empty label"), ("", "it is empty")):
        test.write_text("text,label\n" + rows)
        with pytest.raises(InputError, match=rf"no row to test on that can be used \({why}\)"):
            harness.load(train, **options)


def test_words_that_are_hashed_need_no_vocabulary(tmp_path: Path) -> None:
    rows = [("a good film", "yes"), ("bad", "no")] * 3
    path = write_csv(tmp_path / "rows.csv", rows)
    data = harness.load(path, hash_bits=5, test_data=str(path))
    assert data.num_tokens == data.train.num_tokens == 2**5
    assert data.vocabulary is not None
    for row, (text, _) in enumerate(rows):
        assert set(data.test.row(row)) == set(data.vocabulary.encode(text))


def test_tokens_are_counted_in_the_summary(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", [("a b b", "yes"), ("c", "no"), ("b", "yes")])
    test = write_csv(tmp_path / "test.csv", [("a new new word", "no")])
    for unknown in ("id", "drop"):
        options = BuildOptions(test_data=str(test), num_tokens=6, unknown=unknown)
        found = build(open_source(train, options), options, tmp_path / unknown)
        assert (found["num_ids"], found["num_unknown"]) == (9, 4)  # two words have an id: b, a
        assert (found["num_tokens"], found["train_rows"], found["test_rows"]) == (6, 3, 1)


def test_labels_and_words_that_may_mean_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ("a", "b", "a|b", "B", "nan", "a,c")
    texts = ("\u8fd9\u90e8\u7535\u5f71\u5f88\u597d\u770b" * 2, "good")
    for text in texts:
        harness.load(write_csv(tmp_path / "rows.csv", [(text, label) for label in labels] * 3))
        notes = capsys.readouterr().err
        for said in (
            "the label a|b is taken for one class. If it stands for several, set --label-separator",
            "the label nan is taken for a class",
            "different classes: B, b",
        ):
            assert notes.count(said) == 1
        assert "a,c" not in notes
        assert ("more than 36 bytes" in notes) == (text == texts[0])


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([("a", "x")], {}, "1 rows that can be used"),
        ([("a", "x"), ("b", "x"), ("c", "x")], {}, "the class x alone to train on"),
        ([("a", "x"), ("b", "y")], {"label_column": ""}, "has no labels"),
        ([("a", "x"), ("b", "y")], {"hash_bits": 4, "num_tokens": 9}, "keeps no words"),
        ([("a", "x"), ("b", "y")], {"colour": "red"}, "unknown setting 'colour'; `--help-all`"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_told(
    tmp_path: Path, rows: list[tuple[str, str]], options: dict[str, Any], message: str
) -> None:
    path = write_csv(tmp_path / "rows.csv", rows)
    with pytest.raises(InputError, match=message):
        harness.load(path, **options)


def test_test_rows_are_drawn_by_class(tmp_path: Path) -> None:
    rows = [(f"text {number}", "rare" if number < 20 else "common") for number in range(100)]
    path = write_csv(tmp_path / "sorted.csv", rows)
    data = harness.load(path, test_split=0.3)
    assert np.bincount(data.test.labels).tolist() == [24, 6]
    again = harness.load(path, test_split=0.3)
    assert again.train.fingerprint == data.train.fingerprint
    other = harness.load(path, test_split=0.3, split_seed=1)
    words = [made.vocabulary.ids for made in (data, again, other) if made.vocabulary]
    assert words[0] == words[1] != words[2]


def test_lists_of_strings_and_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "baskets.jsonl"
    rows = [
        {"items": ["New York", "x,y"], "tags": ["b", "a"]},
        {"items": ["x,y"], "tags": ["c"]},
        {"items": [], "tags": ["a"]},
        {"items": ["z", "z"], "tags": []},
        {"items": ["z"], "tags": ["c", "b"]},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    data = harness.load(path, test_split=0.2)
    assert data.is_multi_label
    assert data.vocabulary is not None
    assert list(data.vocabulary.class_names) == ["a", "b", "c"]
    assert data.vocabulary.tokenizer == "list"
    assert data.vocabulary.encode('["x,y", "unseen"]').tolist()[1] == 2
    found = []
    for part in (data.test, data.train):
        assert part.label_sets is not None
        for index in range(part.num_rows):
            names = [data.vocabulary.class_names[n] for n in part.label_sets.row(index)]
            found.append((data.vocabulary.decode(part.row(index)), names))
    assert sorted(names for _, names in found) == [[], ["a"], ["b", "a"], ["c"], ["c", "b"]]
    with pytest.raises(InputError, match=r"lists of strings.*ngrams cannot apply"):
        harness.load(path, ngrams=2)


def test_ids_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "rows.svm"
    path.write_text("+1 3:1 9:1\n-1 4:1\n+1 9:1\n-1 3:1 4:1\n")
    data = harness.load(path)
    assert (data.num_tokens, data.train.num_rows) == (10, 3)
    assert data.vocabulary is not None
    assert list(data.vocabulary.class_names) == ["-1", "1"]
    assert not data.vocabulary.takes_texts
    assert harness.load(path, num_tokens=50).num_tokens == 50
    for options, message in (
        ({"num_tokens": 9}, "has the id 9, but num_tokens is 9"),
        ({"tokenizer": "whitespace", "min_count": 2}, "tokenizer, min_count cannot apply"),
    ):
        with pytest.raises(InputError, match=message):
            harness.load(path, **options)
    path.write_text("1 3:2.5 9:1\n0 4:1\n1 9:1\n0 3:1 4:1\n")
    weighted = harness.load(path, test_split=0.5)
    found = []
    for part in (weighted.test, weighted.train):
        assert part.weights is not None
        found += list(zip(part.values.tolist(), part.weights.tolist(), strict=True))
    assert sorted(found) == [(3, 1.0), (3, 2.5), (4, 1.0), (4, 1.0), (9, 1.0), (9, 1.0)]
    with pytest.raises(InputError, match="dict is no data that can be loaded"):
        harness.load({})


def test_values_of_ids_become_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rows of a block whose values are all 1 get weights, too; equal rows have equal
    weights."""
    path, other = tmp_path / "rows.svm", tmp_path / "other.svm"
    path.write_text("0 3:0.5 9:2\n1 4:1\n")
    other.write_text("0 3:1 9:1\n1 4:1\n1 9:1 9:1\n")
    data = harness.load(path, test_data=str(other))
    assert data.train.weights is not None
    assert (data.train.values.tolist(), data.train.weights.tolist()) == ([3, 9, 4], [0.5, 2, 1])
    assert data.test.weights is not None
    assert (data.test.values.tolist(), data.test.weights.tolist()) == ([3, 9, 4, 9], [1] * 4)
    assert "test row that is a train row as well" in capsys.readouterr().err


def test_memory_does_not_grow_with_the_source(tmp_path: Path) -> None:
    """Python and NumPy allocate only some blocks of 4 MB at once, for 80 MB of text."""
    path = tmp_path / "rows.csv"
    with path.open("w") as file:
        file.write("text,label\n")
        for number in range(40_000):
            file.write(f"{'some words and more ' * 100}{number},{'ab'[number % 2]}\n")
    write_csv(tmp_path / "few.csv", [("a b", "yn"[row % 2]) for row in range(10)])
    harness.load(tmp_path / "few.csv", use_cache=False)  # which imports what is imported late
    tracemalloc.start()
    try:
        data = harness.load(path, use_cache=False)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert data.train.num_rows == 32_000
    assert peak < 130_000_000  # 70 to 95, as threads run


@pytest.mark.parametrize(("weighting", "normalize"), [("count", "l2"), ("tf_idf", "none")])
def test_ids_have_the_weights_of_keras(tmp_path: Path, weighting: str, normalize: str) -> None:
    texts = ["a b a", "b c", "a", "c c c d", "b unseen unseen a", ""]
    path, test = tmp_path / "train.csv", tmp_path / "test.csv"
    write_csv(path, [(text, "yn"[row % 2]) for row, text in enumerate(texts[:4])])
    write_csv(test, [(text, "y") for text in texts[4:]])
    data = harness.load(
        path,
        test_data=str(test),
        tokenizer="whitespace",
        weighting=weighting,
        normalize=normalize,
    )
    vocabulary = data.vocabulary
    assert vocabulary is not None
    layer = keras.layers.TextVectorization(
        output_mode=weighting, standardize=None, max_tokens=len(vocabulary.ids) + 1
    )
    layer.adapt(texts[:4])
    words = [vocabulary.unknown_id, *(vocabulary.ids[w] for w in layer.get_vocabulary()[1:])]
    for part, written in ((data.train, texts[:4]), (data.test, texts[4:])):
        assert part.weights is not None
        expected = np.asarray(layer(written), np.float64)
        if normalize == "l2":
            expected /= np.maximum(np.linalg.norm(expected, axis=1, keepdims=True), 1e-12)
        found = np.zeros([part.num_rows, data.num_tokens])
        rows = np.repeat(np.arange(part.num_rows), part.lengths)
        found[rows, part.values] = part.weights
        np.testing.assert_allclose(found[:, words], expected, rtol=1e-5, atol=1e-7)


def counts_of(blocks: list[dict[str, int]]) -> list[BlockCounts]:
    return [
        (
            pyarrow.array([token.encode() for token in block], pyarrow.large_binary()),
            np.array(list(block.values()), np.int64),
        )
        for block in blocks
    ]


@given(blocks=BLOCKS, most=st.integers(1, 20), min_count=st.integers(1, 3), added=st.integers(0, 9))
def test_the_most_frequent_tokens_are_those_of_a_counter(
    blocks: list[dict[str, int]], most: int, min_count: int, added: int
) -> None:
    expected: Counter[str] = Counter()
    for block in blocks:
        for token, count in block.items():
            if count:
                expected[token] += count  # in the order in which they appear
    kept = [token for token, count in expected.most_common() if count >= min_count][:most]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(building, "_LEAST_ADDED", added)
        assert most_frequent(counts_of(blocks), most=most, min_count=min_count) == kept


def test_what_is_frequent_is_counted_also_where_rare_tokens_are_forgotten(
    imdb_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs of words of real reviews, of which a tenth is in memory."""
    data = harness.load(imdb_path, unique=False)
    blocks = []
    for start in range(0, 1_000, 50):
        rows = data.train[np.arange(start, start + 50)]
        pairs = zip(rows.values[:-1].tolist(), rows.values[1:].tolist(), strict=True)
        blocks.append(dict(Counter(f"{one} {other}" for one, other in pairs)))
    exact = most_frequent(counts_of(blocks), most=1_000)
    num_distinct = len(set().union(*blocks))
    monkeypatch.setattr(building, "_LEAST_ADDED", 0)
    monkeypatch.setattr(building, "_MOST_COUNTED", num_distinct // 10)
    found = most_frequent(counts_of(blocks), most=1_000)
    assert found[:100] == exact[:100]
    assert len({*found} & {*exact}) > 950
