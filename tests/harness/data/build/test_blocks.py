"""Blocks in files, and the processes that make them: none is left behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import harness
from harness.base.errors import InputError, LostWorkerError
from harness.data.build import building
from harness.data.build.blocks import NumberedBlock, numbered_block, save_numbered
from harness.data.readers.records import Block, Kind
from harness.data.tokens import Tokenization

ROOT = Path(__file__).resolve().parents[4]


SETS = harness.RaggedSets(
    values=np.array([3, 1, 5]),
    row_splits=np.array([0, 2, 3]),
    num_tokens=6,
    weights=np.array([1, 0.5, 2], np.float32),
)


def block_of(kind: Kind, contents: Any, labels: list[Any]) -> Block:
    is_multi_label = isinstance(labels[0], list)
    return Block(
        kind=kind, contents=contents, labels=labels, is_multi_label=is_multi_label, part="test"
    )


@pytest.mark.parametrize(
    "block",
    [
        block_of("texts", ["a b a", "", "c"], ["x", "y", "x"]),
        block_of("tokens", [["New York", "a b"], ["c"]], [["x"], []]),
        block_of("sets", SETS, ["x", "y"]),
    ],
)
def test_a_block_is_read_as_it_was_saved(tmp_path: Path, block: Block) -> None:
    expected = numbered_block(block, Tokenization())
    save_numbered(block, tmp_path / "0.arrow", Tokenization())
    found = NumberedBlock.load(tmp_path / "0.arrow")
    for name in ("part", "kind", "is_multi_label"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("digests", "values", "row_splits", "weights"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.labels.strings() == expected.labels.strings()
    assert (found.tokens is None) == (expected.tokens is None)
    if found.tokens is not None and expected.tokens is not None:
        assert found.tokens.equals(expected.tokens)
    content = (tmp_path / "0.arrow").read_bytes()
    (tmp_path / "0.arrow").write_bytes(content[:-100])
    with pytest.raises(InputError, match=r"0\.arrow is damaged, or not a block of rows"):
        NumberedBlock.load(tmp_path / "0.arrow")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of texts that processes divide by white space."""
    monkeypatch.setattr(building, "_PYTHON_BYTES", 0)
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "good film,a\nbad film,b\nshort\n,b\n" * 5)
    return path


def children() -> list[psutil.Process]:
    """Returns the processes that multiprocessing started, but for its tracker of resources."""
    return [
        child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())
    ]


def test_processes_build_as_threads_do(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, notes = [], []
    for most in (0, 1 << 30):
        monkeypatch.setattr(building, "_PYTHON_BYTES", most)
        found.append(harness.load(table, tokenizer="whitespace").train.fingerprint)
        notes.append(capsys.readouterr().err)
        assert children() == []
    assert found[0] == found[1]
    assert notes[0] == notes[1]
    assert f"{table}, line 5: empty text (5 in all)" in notes[0]
    monkeypatch.setattr(building, "_PYTHON_BYTES", 0)
    with pytest.raises(InputError, match=r"line 4: too few columns\. Correct it"):
        harness.load(table, tokenizer="whitespace", strict=True)


def test_a_process_that_is_killed_is_told_in_one_message(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: Any) -> None:
        while not (started := children()):
            pass
        for child in started:
            child.kill()

    original = building.in_order

    def in_order(*arguments: Any, **options: Any) -> Any:
        for result in original(*arguments, **options):
            kill()
            yield result

    monkeypatch.setattr("harness.data.readers.table.BLOCK_BYTES", 20)
    monkeypatch.setattr(building, "in_order", in_order)
    with pytest.raises(LostWorkerError, match=r"that read .*rows\.csv was ended from outside"):
        harness.load(table, tokenizer="whitespace")


def test_a_script_that_loads_at_once_is_not_run_again(table: Path) -> None:
    """`multiprocessing` would run a script without a main guard again in each process."""
    script = table.parent / "script.py"
    script.write_text(
        "print('once')\n"
        "import harness\n"
        "from harness.data.build import building\n"
        "building._PYTHON_BYTES = 0\n"
        f"print(harness.load({str(table)!r}, tokenizer='whitespace').train.num_rows)\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.split() == ["once", "12"]
