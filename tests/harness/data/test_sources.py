"""The one entry: names and paths, splits, and options that must apply to them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.base.errors import InputError
from harness.data import store
from harness.data.options import DataConfig, ImdbOptions
from harness.data.ragged import RaggedSets
from harness.data.sources import Dataset, load, load_configured

WriteNpz = Callable[..., Path]
SMALL_NPZ = ImdbOptions(held_out_rows=2)


def test_the_word_index_is_found_beside_the_file_then_in_kerass_cache(
    write_npz: WriteNpz, keras_home: Path
) -> None:
    path = write_npz()
    beside = path.parent / "imdb_word_index.json"
    cached = keras_home / "datasets" / "imdb_word_index.json"

    def note() -> str:
        return load(path, imdb=SMALL_NPZ).vocabulary_note

    assert note() == f"no words at {beside} nor at {cached}: pass --word-index FILE to see them"
    cached.parent.mkdir(parents=True)
    for place in (cached, beside):
        place.write_text('{"good": 1}')
        assert note() == f"words from {place}"


def as_rows(dataset: Dataset) -> list[list[list[int]]]:
    return [[part.row(i).tolist() for i in range(part.num_rows)] for part in dataset.parts]


def test_a_saved_data_set_keeps_its_split_and_its_words(
    write_npz: WriteNpz, keras_home: Path, tmp_path: Path
) -> None:
    path = write_npz()
    (tmp_path / "imdb_word_index.json").write_text('{"good": 1, "bad": 2}')
    dataset = load(path, imdb=SMALL_NPZ)
    dataset.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert as_rows(again) == as_rows(dataset)
    assert again.vocabulary is not None
    assert again.vocabulary.encode("bad, good").tolist() == [1, 5, 4]
    assert str(tmp_path / "saved" / "vocabulary.json") in again.vocabulary_note
    with pytest.raises(InputError, match="give validation_split to the training"):
        load(path, imdb=SMALL_NPZ, validation_split=0.5).save(tmp_path / "other")


@pytest.fixture
def sorted_folder(tmp_path: Path) -> Path:
    """Saves 1,000 rows of one id each, sorted by class: 100 of class 0, 300 of 1, 600 of 2."""
    labels = np.repeat([0, 1, 2], [100, 300, 600])
    rows = RaggedSets.from_lists(
        np.arange(1000)[:, None], labels=labels, num_classes=3, name="sorted"
    )
    store.save(rows, tmp_path / "sorted")
    store.save(rows, tmp_path / "recorded", held_out_rows=50)
    return tmp_path / "sorted"


def test_rows_without_a_split_are_held_out_by_class(sorted_folder: Path) -> None:
    dataset = load(sorted_folder)
    assert np.bincount(dataset.test.labels).tolist() == [20, 60, 120]
    held_out = dataset.test.values.tolist()
    assert sorted(held_out + dataset.train.values.tolist()) == list(range(1000))
    assert held_out == load(sorted_folder).test.values.tolist()
    configured = load_configured(DataConfig(data=str(sorted_folder)), tells=False)
    assert held_out == configured.test.values.tolist()
    assert held_out != load(sorted_folder, split_seed=1).test.values.tolist()
    recorded = load(sorted_folder.with_name("recorded"))
    assert recorded.test.values.tolist() == list(range(50))


def test_validation_rows_are_drawn_from_the_training_rows(sorted_folder: Path) -> None:
    whole, dataset = load(sorted_folder), load(sorted_folder, validation_split=0.1)
    assert whole.validation is None
    assert dataset.validation is not None
    assert dataset.test.values.tolist() == whole.test.values.tolist()
    assert np.bincount(dataset.validation.labels).tolist() == [8, 24, 48]
    kept = {*dataset.validation.values.tolist(), *dataset.train.values.tolist()}
    assert kept == set(whole.train.values.tolist())
    assert dataset.train.num_rows == 720


def test_the_last_rows_of_each_class_may_be_the_validation_rows(sorted_folder: Path) -> None:
    whole = load(sorted_folder).train
    dataset = load(sorted_folder, validation_split=0.1, validation_rows="last")
    assert dataset.validation is not None
    assert np.bincount(dataset.validation.labels).tolist() == [8, 24, 48]
    for label in range(3):
        rows = [part.take(np.flatnonzero(part.labels == label)) for part in dataset.parts]
        of_class = whole.take(np.flatnonzero(whole.labels == label)).values.tolist()
        assert rows[0].values.tolist() + rows[2].values.tolist() == of_class
    with pytest.raises(InputError, match="validation_rows is 'first'; it must be"):
        load(sorted_folder, validation_split=0.1, validation_rows="first")


def test_an_option_of_synthetic_data_by_its_own_name() -> None:
    assert load("synthetic", synthetic_rows=100).train.num_rows == 80
