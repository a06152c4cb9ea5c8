"""Names and texts that would steer a terminal, and paths that no file can have."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.data import store
from harness.data.ragged import RaggedSets
from harness.data.vocabulary import Vocabulary
from tests.harness.cli.runs import Result, call

ESCAPES = "\x1b[2Jred\x9b31m\x07\r\x7f\udc9b"
SHOWN = r"\x1b[2Jred\x9b31m\x07\r\x7f\udc9b"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saves a data set with escape sequences in its name, words and classes."""
    folder = tmp_path_factory.mktemp("odd") / "store"
    rows, labels = [[1, 4, 5, 5]] * 50, np.arange(50) % 2
    sets = RaggedSets.from_lists(rows, labels=labels, num_tokens=6, name=f"data\n{ESCAPES}")
    store.save(sets, folder, held_out_rows=10)
    Vocabulary(
        ids={"word": 4, "wo\x1b[31mrd": 5},
        num_tokens=6,
        start_id=1,
        unknown_id=2,
        class_names=(f"bad{ESCAPES}", f"good{ESCAPES}"),
    ).save(folder / "vocabulary.json")
    return folder


def check(result: Result, *parts: str) -> None:
    assert (result.code, result.err) == (0, "")
    assert all(letter.isprintable() for letter in result.out.replace("\n", "")), ascii(result.out)
    flat = "".join(line.strip("│ ") for line in result.out.splitlines())
    assert all(part in flat for part in parts), result.out


def test_names_are_printed_escaped(odd: Path, tmp_path: Path) -> None:
    check(
        call("data", "info", "--data", odd), f"data\\n{SHOWN}", f"0 (bad{SHOWN})", r"wo\x1b[31mrd"
    )
    folder = tmp_path / "run\x1b[31m"
    flags = ("--batch-size", "10", "--implementation", "gather", "--run-dir", folder)
    network = ("--hidden-units", "4", "--dropout", "0")
    result = call("train", "--data", odd, *network, *flags, "--epochs", "1")
    check(result, f"data\\n{SHOWN}: 40 rows", r"run\x1b[31m")
    check(call("evaluate", "--model", folder), f"data\\n{SHOWN}", r"run\x1b[31m")
    result = call("predict", "--model", folder, "--texts", f"a word{ESCAPES}", "x" * 1000)
    assert "1 of 2 texts are not UTF-8" in result.err  # by the last letter
    check(replace(result, err=""), r"word\x1b[2Jred", r"good\x1b[2Jred")
