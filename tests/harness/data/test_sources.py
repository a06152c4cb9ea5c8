"""The one entry: names and paths, and options that must apply to them."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.config import DataConfig, ImdbOptions, SyntheticOptions
from harness.data import store
from harness.data.ragged import RaggedSets
from harness.data.sources import load, load_configured
from harness.errors import InputError

WriteNpz = Callable[..., Path]
SMALL = SyntheticOptions(synthetic_rows=50, synthetic_tokens=200)
SMALL_NPZ = ImdbOptions(held_out_rows=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = RaggedSets(
        values=np.arange(20) % 7,
        row_splits=np.arange(0, 21, 2),
        labels=np.arange(10) % 2,
        num_tokens=9,
        name="ten",
    )
    store.save(rows, tmp_path / "ten")
    return tmp_path / "ten"


def test_the_synthetic_corpus() -> None:
    dataset = load("synthetic", synthetic=SMALL)
    assert (dataset.train.num_rows, dataset.test.num_rows) == (40, 10)
    assert (dataset.name, dataset.num_tokens, dataset.num_classes) == ("synthetic", 200, 2)
    assert dataset.is_unique
    assert dataset.vocabulary is None
    assert "no words" in dataset.vocabulary_note
    assert dataset.test_comes_first


def test_repeated_ids_stay_when_asked() -> None:
    dataset = load("synthetic", synthetic=SMALL, unique=False)
    assert not dataset.is_unique
    unique = load("synthetic", synthetic=SMALL)
    np.testing.assert_array_equal(dataset.train.unique().values, unique.train.values)


def test_a_file_in_kerass_format(write_npz: WriteNpz, keras_home: Path) -> None:
    path = write_npz()
    (path.parent / "imdb_word_index.json").write_text('{"good": 1, "bad": 2}')
    dataset = load(str(path), imdb=SMALL_NPZ)
    assert (dataset.train.num_rows, dataset.test.num_rows) == (5, 2)
    assert dataset.name == "reviews"
    assert dataset.vocabulary is not None
    assert dataset.vocabulary.decode([1, 4, 5]) == "# good bad"
    assert str(path.parent) in dataset.vocabulary_note
    standard = load(str(path), imdb=ImdbOptions(split="standard"))
    assert (standard.train.num_rows, standard.test.num_rows) == (4, 3)
    assert not standard.test_comes_first


def test_imdb_is_kerass_cached_file(write_npz: WriteNpz, keras_home: Path) -> None:
    cached = keras_home / "datasets" / "imdb.npz"
    cached.parent.mkdir(parents=True)
    write_npz().rename(cached)
    dataset = load("imdb", imdb=SMALL_NPZ)
    assert dataset.name == "imdb"
    assert dataset.train.num_rows == 5
    assert "pass --word-index FILE" in dataset.vocabulary_note


def test_a_folder_of_our_own_format(folder: Path) -> None:
    dataset = load(str(folder))
    assert (dataset.train.num_rows, dataset.test.num_rows) == (8, 2)
    assert dataset.test.row(0).tolist() == [0, 1]
    assert dataset.name == "ten"


def test_a_named_word_index_serves_a_folder(folder: Path, tmp_path: Path) -> None:
    words = tmp_path / "words.json"
    words.write_text('{"good": 1}')
    dataset = load(str(folder), word_index=words)
    assert dataset.vocabulary is not None
    assert dataset.vocabulary.decode([4]) == "good"
    assert dataset.vocabulary_note == f"words from {words}"


def test_num_tokens_may_be_raised_but_not_below_the_ids(folder: Path) -> None:
    assert load(str(folder), num_tokens=100).train.num_tokens == 100
    with pytest.raises(InputError, match=r"ten: row 2 holds id 5, outside \[0, 5\)"):
        load(str(folder), num_tokens=5)
    with pytest.raises(InputError, match=r"outside \[0, 50\).*raise num_tokens"):
        load("synthetic", synthetic=SMALL, num_tokens=50)


def test_a_missing_path(tmp_path: Path) -> None:
    path = tmp_path / "absent.npz"
    with pytest.raises(InputError, match=rf"No file or folder {path}\. Give an imdb\.npz"):
        load(str(path))


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not an archive")
    with pytest.raises(InputError, match=r"truncated or not an .npz file"):
        load(str(path))


def test_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"meta\.json is missing"):
        load(str(tmp_path))


def test_a_single_row_cannot_be_held_out() -> None:
    with pytest.raises(InputError, match="cannot split off 1 of 1 rows"):
        load("synthetic", synthetic=SyntheticOptions(synthetic_rows=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imdb": ImdbOptions()}, "conventions of Keras's imdb.npz do not apply"),
        ({"word_index": "words.json"}, "Word indexes do not apply"),
    ],
)
def test_options_that_do_not_apply_to_the_synthetic_corpus(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"{message} to --data synthetic. Leave them out."):
        load("synthetic", synthetic=SMALL, **options)


def test_options_that_do_not_apply_to_a_file(write_npz: WriteNpz, folder: Path) -> None:
    with pytest.raises(InputError, match=r"options of the synthetic corpus do not apply"):
        load(str(write_npz()), synthetic=SMALL)
    with pytest.raises(InputError, match=r"conventions of Keras's imdb.npz do not apply"):
        load(str(folder), imdb=ImdbOptions())


def test_the_settings_of_a_run_reach_the_data(write_npz: WriteNpz, keras_home: Path) -> None:
    path = write_npz()
    options = ImdbOptions(
        split="standard",
        num_words=9,
        skip_top=1,
        maxlen=5,
        start_char=0,
        oov_char=8,
        index_from=4,
        shuffle_seed=3,
    )
    config = DataConfig(data=str(path), imdb=options, unique=False)
    configured, direct = load_configured(config), load(str(path), imdb=options, unique=False)
    np.testing.assert_array_equal(configured.train.values, direct.train.values)
    np.testing.assert_array_equal(configured.test.values, direct.test.values)
    rows = load_configured(
        DataConfig(synthetic=SyntheticOptions(synthetic_rows=20, synthetic_seed=4))
    )
    same = load("synthetic", synthetic=SyntheticOptions(synthetic_rows=20, synthetic_seed=4))
    np.testing.assert_array_equal(rows.train.values, same.train.values)


def test_a_setting_that_nobody_touched_is_not_refused(folder: Path) -> None:
    assert load_configured(DataConfig(data=str(folder))).train.num_rows == 8


def test_a_changed_setting_that_does_not_apply_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"conventions of Keras's imdb.npz do not apply"):
        load_configured(DataConfig(imdb=ImdbOptions(num_words=500)))
    with pytest.raises(InputError, match=r"options of the synthetic corpus do not apply"):
        load_configured(DataConfig(data=str(folder), synthetic=SyntheticOptions(synthetic_seed=1)))


def test_no_tensorflow_is_needed() -> None:
    program = """
import sys
from harness.data.info import explore
from harness.data.sources import load
from harness.config import SyntheticOptions
explore(load("synthetic", synthetic=SyntheticOptions(synthetic_rows=10)))
print(sorted({"tensorflow", "keras"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
