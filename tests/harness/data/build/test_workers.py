"""Processes that tokenize: the same answers in the same order, and none is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil

from harness.data.build.workers import Workers, tokenized
from harness.data.tokens import Tokenization

ROOT = Path(__file__).resolve().parents[4]


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children()}


def test_processes_answer_as_one_does() -> None:
    before = children()
    tokenization = Tokenization(ngrams=2)
    blocks = [[f"text {number} of many", "words"] for number in range(9)]
    given = [*blocks, None, [["New York", "a b"], ["c"]]]
    with Workers(tokenization, processes=3) as workers:
        found = list(workers.map(given))
        assert len(children() - before) in range(1, 4)
    assert children() == before
    assert found[-2] is None
    for rows, answer in zip(given, found, strict=True):
        if rows is not None:
            assert answer is not None
            expected, digests = tokenized(rows, tokenization)
            assert answer[0].tokens == expected.tokens
            np.testing.assert_array_equal(answer[0].values, expected.values)
            assert answer[1] == digests
    assert found[-1] is not None
    assert found[-1][0].tokens == ["New York", "a b", "c"]


def test_a_script_that_loads_at_once_is_not_run_again(tmp_path: Path) -> None:
    """As `multiprocessing` would run it in each process, without the guard of its main module."""
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\n"
        "from harness.data.build.workers import Workers\n"
        "from harness.data.tokens import Tokenization\n"
        "with Workers(Tokenization(), processes=2) as workers:\n"
        "    print(sum(len(found[1]) for found in workers.map([['a b'], ['c']])))\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout.split(), done.stderr) == (["once", "2"], "")
