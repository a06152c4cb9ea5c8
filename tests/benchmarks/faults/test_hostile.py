"""Hostile files: they repeat themselves, the formats refuse them, and every kind of failure is
noticed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults.hostile import Trial
from benchmarks.faults.hostile_formats import FORMATS, Format
from harness.base.errors import InputError

_VALID = '{"a": [1, 2, 3], "b": {"c": "text"}}'


def _refuse(_: Path) -> None:
    raise InputError("a.json is another one. Restore it.")


@pytest.mark.parametrize(
    ("then", "failure"),
    [
        (_refuse, None),
        (lambda _: {}["a"], "KeyError: 'a'"),
        (lambda _: None, "another answer is believed"),
        (lambda _: print("a warning"), "it prints a warning"),
        (lambda folder: (folder / "more").write_text(""), "a file was changed"),
        (lambda _: np.ones(140_000_000), "it takes 1,"),
    ],
    ids=["careful", "traceback", "believes", "prints", "writes", "memory"],
)
def test_what_is_noticed(
    tmp_path: Path, then: Callable[[Path], object], failure: str | None
) -> None:
    """A reader reads the valid file, and does something else with every other."""

    def read(folder: Path) -> str:
        path = folder / "a.json"
        if not path.is_file() or path.read_text() != _VALID:
            then(folder)
        return json.dumps(path.read_bytes().decode(errors="replace"))

    def write(folder: Path) -> None:
        (folder / "a.json").write_text(_VALID)

    trial = Trial(
        "a", Format(targets=("a.json",), write=write, read=read, is_checked=True), tmp_path
    )
    found = {trial.run(5, index) for index in range(2)}
    assert all(
        outcome == ("failed" if failure else "refused") and (failure or "") in (said or "")
        for outcome, said in found
    )


def test_a_store_with_a_right_checksum_is_read(tmp_path: Path) -> None:
    """With a wrong one, all would be refused."""
    trial = Trial("sealed store", FORMATS["sealed store"], tmp_path)
    assert {trial.run(5, index) for index in range(30)} == {("answered", None), ("refused", None)}
