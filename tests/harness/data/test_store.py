"""The harness's own format: saved data is read back, and broken data gives one message."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.base.errors import InputError
from harness.data import store
from harness.data.examples import Examples
from harness.data.ragged import RaggedSets


def some_sets(**changes: Any) -> RaggedSets:
    fields: dict[str, Any] = {
        "values": [3, 3, 3, 7],
        "row_splits": [0, 2, 2, 4],
        "labels": [0, 1, 2],
        "num_tokens": 8,
        "name": "some",
        "num_classes": 3,
    }
    return RaggedSets(**(fields | changes))


def several_labels() -> RaggedSets:
    """Returns rows with several classes, with none and with one."""
    label_sets = RaggedSets(values=[0, 2, 1], row_splits=[0, 2, 2, 3], num_tokens=3)
    return RaggedSets(
        values=[3, 1, 3, 7],
        row_splits=[0, 2, 2, 4],
        label_sets=label_sets,
        num_tokens=8,
        num_classes=3,
        name="several",
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "new" / "sets"
    store.save(some_sets(), folder)
    return folder


@pytest.mark.parametrize(
    "sets",
    [
        some_sets(),
        some_sets().unique(),
        some_sets(values=np.array([], int), row_splits=[0, 0, 0, 0]),
        several_labels(),
        several_labels().unique(),
        some_sets(weights=[0.5, -2, 3, 0]),
        several_labels().with_weights(),
    ],
)
def test_what_is_saved_is_read_back(tmp_path: Path, sets: RaggedSets) -> None:
    store.save(sets, tmp_path / "sets")
    loaded, _ = store.load(tmp_path / "sets")
    assert loaded.fingerprint == sets.fingerprint
    assert (loaded.label_sets is None) == (sets.label_sets is None)
    np.testing.assert_array_equal(loaded.weights, sets.weights)
    for part in ("values", "row_splits", "labels"):
        np.testing.assert_array_equal(getattr(loaded, part), getattr(sets, part))
        assert not getattr(loaded, part).flags.writeable
    for field in ("num_tokens", "name", "num_classes", "is_unique"):
        assert getattr(loaded, field) == getattr(sets, field)


def test_labels_of_several_classes_are_checked_like_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "sets"
    store.save(several_labels(), folder)
    values, splits = (folder / f"label_{name}.npy" for name in ("values", "splits"))
    content = values.read_bytes()
    values.write_bytes(content[:-4] + b"\0" * 4)
    for missing in (None, values, splits):
        if missing:
            missing.unlink()
        with pytest.raises(InputError, match="its files do not agree"):
            store.load(folder)


def forge(folder: Path, field: str, value: Any) -> None:
    """Changes a field of meta.json, with a checksum that is right for it."""
    path = folder / "meta.json"
    sets, _ = store.load(folder)
    meta = json.loads(path.read_text()) | {field: value}
    path.write_text(json.dumps(meta | {"checksum": store.checksum(meta, sets)}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("held_out_rows", "abc", r"meta.json: held_out_rows is 'abc'; it must be a whole number"),
        ("held_out_rows", True, "held_out_rows is True; it must be a whole number"),
        ("held_out_rows", 1.5, "held_out_rows is 1.5; it must be a whole number"),
        ("held_out_rows", 3, "its files do not agree. Save it again"),
        ("name", None, "name is None; it must be a text"),
        ("name", ["a"], r"name is \['a'\]; it must be a text"),
        ("is_unique", "no", "is_unique is 'no'; it must be true or false"),
        ("is_unique", True, "its files do not agree. Save it again"),  # a row has an id twice
        ("rows", 4, "its files do not agree. Save it again"),
        ("nnz", "4", "its files do not agree. Save it again"),
        ("num_tokens", None, "its files do not agree. Save it again"),
        ("held_out_rows", -1, "its files do not agree. Save it again"),
    ],
)
def test_a_right_checksum_makes_no_field_right(
    saved: Path, field: str, value: object, message: str
) -> None:
    forge(saved, field, value)
    with pytest.raises(InputError, match=message):
        store.load(saved)


def test_rows_may_begin_with_any_id_when_their_ids_ascend(tmp_path: Path) -> None:
    rows = some_sets(values=[3, 7, 3, 7], row_splits=[0, 0, 2, 4])
    store.save(rows, tmp_path / "sets")
    forge(tmp_path / "sets", "is_unique", True)
    assert store.load(tmp_path / "sets")[0].is_unique


def test_a_file_that_is_cut_short_after_it_was_mapped_is_said(saved: Path) -> None:
    sets, _ = store.load(saved)
    sets.check_files()
    part, _ = sets.split(1)  # a view of the same file
    os.truncate(saved / "values.npy", 8)
    for rows in (sets, part):
        with pytest.raises(InputError, match=r"values.npy was changed while in use"):
            Examples.of(rows)


@pytest.mark.parametrize("held_out_rows", [-1, 3, 4])
def test_rows_held_out_leave_some_to_train_on(tmp_path: Path, held_out_rows: int) -> None:
    message = f"held_out_rows is {held_out_rows} of 3 rows. Choose from 0 to 2"
    with pytest.raises(InputError, match=message):
        store.save(some_sets(), tmp_path / "sets", held_out_rows=held_out_rows)
    assert not list(tmp_path.iterdir())


def test_rows_without_labels_do_not_become_rows_of_class_0(tmp_path: Path) -> None:
    rows = RaggedSets(values=[1], row_splits=[0, 1], num_tokens=2, name="bare")
    with pytest.raises(InputError, match="bare: rows without labels cannot be saved"):
        store.save(rows, tmp_path / "sets")
