"""Texts judged by a network that has learned two words."""

import dataclasses
import io
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from harness.cli.predict import blocks_of_texts
from harness.data.vocabulary import Vocabulary
from tests.harness.cli.runs import Result, call, write_npz

# "good" is rarer than IMDB's 10,000 words: the limit is the model's own.
WORDS = {"the": 1, "film": 2, "good": 20_000, "bad": 4, "was": 5}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run on 200 reviews: class 1 says "good", class 0 says "bad"."""
    place = tmp_path_factory.mktemp("words")
    (place / "imdb_word_index.json").write_text(json.dumps(WORDS))
    labels = np.random.default_rng().permutation(200) % 2
    rows = [[1, 2, 5, 20_000 if label else 4][number % 2 :] for number, label in enumerate(labels)]
    path = write_npz(
        place / "imdb.npz",
        x_train=rows[:160],
        y_train=labels[:160],
        x_test=rows[160:],
        y_test=labels[160:],
    )
    result = call(
        *("train", "--data", path, "--split", "standard", "--num-words", "30000"),
        *("--hidden-units", "8", "--dropout", "0", "--batch-size", "10", "--epochs", "10"),
        *("--learning-rate", "0.05", "--implementation", "gather", "--run-dir", place / "run"),
    )
    assert (result.code, result.err) == (0, "")
    return place / "run"


def judge(model: Path, *texts: str) -> Result:
    return call("predict", "--model", model, *(("--texts", *texts) if texts else ()))


def rows(result: Result) -> list[list[str]]:
    assert (result.code, result.err) == (0, "")
    lines = [line for line in result.out.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_texts(model: Path) -> None:
    # Brackets are text, not the markup of the terminal.
    good, bad = rows(judge(model, "The film was GOOD!", "[/b] a [red] bad film"))
    assert good[:3] == ["The film was GOOD!", "4 of 4", "positive"]
    assert bad[:3] == ["[/b] a [red] bad film", "2 of 5", "negative"]
    assert float(good[3]) > 0.9
    assert float(bad[3]) > 0.9


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_every_line_of_standard_input_is_a_line(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(monkeypatch, b"\xef\xbb\xbfgood film\n\nbad \xff \x1b[31m bad\t film\r\n\0 good")
    result = judge(model)
    assert result.code == 0
    lines = [line.split("\t") for line in result.out.splitlines()]
    assert [line[0] for line in lines] == ["positive", "", "negative", "positive"]
    assert [line[2] for line in lines] == ["2/2", "0/0", "3/6", "1/2"]
    shown = ["good film", "", "bad \ufffd \\x1b[31m bad\\t film", "\\x00 good"]
    assert [line[3] for line in lines] == shown
    assert "note: 1 of 4 texts are blank and were not judged" in result.err
    assert "note: 1 of 4 texts are not UTF-8" in result.err


def test_json_of_files(model: Path, tmp_path: Path) -> None:
    long = "good " * 100_000
    (tmp_path / "a").write_text(f"{long}\n\n")
    (tmp_path / "b").write_text("a bad film")
    files = ("--files", tmp_path / "a", tmp_path / "b", "--json", "--explain", "2")
    result = call("predict", "--model", model, *files)
    first, blank, last = (json.loads(line) for line in result.out.splitlines())
    assert (first["text"], first["labels"]) == (long, ["positive"])
    assert (blank["index"], blank["labels"], blank["probabilities"]) == (1, [], None)
    assert (last["index"], last["labels"], last["known_words"]) == (2, ["negative"], 2)
    assert last["explanation"][0][0] == "bad"
    assert last["explanation"][0][1] > 1
    assert sum(last["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert last["probability"] == last["probabilities"]["negative"]
    result = call("predict", "--model", model, "--files", tmp_path / "none")
    assert (result.code, result.out) == (2, "")
    (tmp_path / "wide").write_text("good", encoding="utf-16")
    (tmp_path / "table.csv").write_text("text,label\n")
    for name, fact in (("wide", "encoded in UTF-16"), ("table.csv", "is a table")):
        result = call("predict", "--model", model, "--files", tmp_path / name)
        assert (result.code, result.out, fact in result.err) == (2, "", True)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    result = call("predict", "--model", model, "--files", tmp_path / "a", tmp_path / "pipe")
    assert (result.code, result.out) == (2, "")
    assert "pipe is not a regular file" in result.err


def test_the_vocabulary_in_the_folder_counts(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "run")
    ids = {word: rank + 3 for word, rank in WORDS.items()}
    words = Vocabulary(ids=ids, num_tokens=30_000, start_id=1, unknown_id=2)
    words.save(tmp_path / "run" / "vocabulary.json")
    result = call("predict", "--model", tmp_path / "run", "--texts", "a good film")
    assert rows(result)[0][:3] == ["a good film", "2 of 3", "1"]
    dataclasses.replace(words, num_tokens=30_001).save(tmp_path / "run" / "vocabulary.json")
    result = call("predict", "--model", tmp_path / "run", "--texts", "a good film")
    assert result.code == 2
    assert "has ids below 30001, but" in result.err


def test_no_vocabulary(model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "model.keras", tmp_path)
    result = call("predict", "--model", tmp_path / "model.keras", "--texts", "good")
    assert (result.code, result.out) == (2, "")
    assert f"no vocabulary.json lies beside {tmp_path / 'model.keras'}" in result.err


def test_bytes_that_python_could_not_decode_in_an_argument() -> None:
    """With LC_ALL=C and PYTHONUTF8=0 Python decodes none beyond ASCII, though they are UTF-8."""
    text = b"\xc3\xa9 a\xffb".decode("ascii", errors="surrogateescape")
    assert next(blocks_of_texts([text], [], Counter())) == ["\u00e9 a\ufffdb"]
