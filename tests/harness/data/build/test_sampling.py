"""Samples of texts: train rows alone, of bounded size, whatever the source."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import harness
from harness.base.errors import InputError
from harness.data.build import sampling
from harness.data.build.sampling import Sample, sample_of
from harness.data.options import BuildOptions
from harness.data.readers.formats import open_source
from harness.data.readers.records import Problems


def write_rows(path: Path, rows: list[tuple[str, Any]]) -> Path:
    lines = (json.dumps({"text": text, "label": label}) for text, label in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def texts_of(sample: Sample) -> list[str]:
    problems = Problems()
    return [text for _, text, _, part in sample.rows(problems) if part == "train"]


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    num_rows=st.integers(30, 200),
    least=st.integers(10, 20),
    most=st.integers(1, 2_000),
    seed=st.integers(0, 3),
    has_test_rows=st.booleans(),
)
def test_rows_are_some_of_those_that_a_build_trains_on(
    tmp_path: Path, num_rows: int, least: int, most: int, seed: int, *, has_test_rows: bool
) -> None:
    rows = [(f"only {row} {'x' * (row % 7)}", "ab"[row % 2]) for row in range(num_rows)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    options: dict[str, Any] = {"test_split": 0.3}
    if has_test_rows:
        options = {"test_data": str(write_rows(tmp_path / "test.jsonl", rows[:9]))}
    data = harness.load(path, split_seed=seed, num_tokens=10_000, **options)
    assert data.vocabulary is not None
    number_of = {f"{row}": row for row in range(num_rows)}
    of_train = [
        next(number_of[word] for word in data.vocabulary.decode(row).split() if word in number_of)
        for row in data.train
    ]
    build = BuildOptions(**options)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampling, "_LEAST", least)
        patched.setattr("harness.data.readers.records.BLOCK_BYTES", 1_000)
        sample = sample_of(open_source(path, build), build, seed=seed, most=most)
    found = texts_of(sample)
    assert [rows[of_train[place]][0] for place in sample.places] == found
    assert sample.num_train_rows == data.train.num_rows
    assert (np.diff(sample.places) > 0).all()
    size = sum(map(len, found))
    is_all = len(found) == len(of_train)
    assert len(found) >= min(least, len(of_train))
    assert size <= most or len(found) == least or is_all
    assert is_all or size > most / 5  # some were dropped that would have fit


def test_rows_of_several_classes_and_faulty_ones(tmp_path: Path) -> None:
    rows: list[tuple[str, Any]] = [("a b", ["x", "y"]), ("c", []), ("d", ["y"])]
    path = write_rows(tmp_path / "rows.jsonl", rows * 10)
    with path.open("a") as file:
        file.write("no JSON\n")
    for strict in (False, True):
        options = BuildOptions(strict=strict)
        source = open_source(path, options)
        if strict:
            with pytest.raises(InputError, match="line 31: not a JSON object"):
                sample_of(source, options, seed=0, most=1_000)
            continue
        sample = sample_of(source, options, seed=0, most=1_000)
        assert sample.is_multi_label
        assert list(sample.class_names) == ["x", "y"]
        of_train = [labels for *_, labels, part in sample.rows(Problems()) if part == "train"]
        assert len(of_train) == sample.num_train_rows == 24
        assert {tuple(labels) for labels in of_train} == {("x", "y"), (), ("y",)}
