"""Processes that tokenize: the same answers in the same order, and none is left behind."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from harness.base.errors import InputError, LostWorkerError
from harness.data.build.blocks import NumberedBlock, numbered_block
from harness.data.build.workers import Workers
from harness.data.readers.formats import open_source
from harness.data.readers.records import Block, Problems
from harness.data.tokens import Tokenization

ROOT = Path(__file__).resolve().parents[4]


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children()}


def test_processes_answer_as_one_does(tmp_path: Path) -> None:
    before = children()
    tokenization = Tokenization(ngrams=2)
    blocks = [Block(texts=[f"text {number} of many", "words"], labels="ab") for number in range(9)]
    blocks.append(Block(tokens=[["New York", "a b"], ["c"]], labels=["a", ["b", "c"]]))
    paths = [tmp_path / f"{number}.npz" for number in range(10)]
    given = list(zip(blocks, paths, strict=True))
    with Workers(tokenization, where="here", processes=3) as workers:
        found = list(workers.map(given))
        assert len(children() - before) in range(1, 4)
        again = list(workers.map(given))  # from the files
    assert children() == before
    for block, path, *facts in zip(blocks, paths, found, again, strict=True):
        expected = numbered_block(block, tokenization)
        saved = NumberedBlock.load(path)
        assert saved.tokens is not None
        assert expected.tokens is not None
        assert saved.tokens.equals(expected.tokens)
        np.testing.assert_array_equal(saved.values, expected.values)
        for noted in facts:
            np.testing.assert_array_equal(noted.digests, expected.facts.digests)
            assert noted.labels.strings() == expected.facts.labels.strings()
            assert noted.kind == expected.facts.kind
    assert found[-1].is_multi_label


def test_problems_of_unread_blocks_come_back(tmp_path: Path) -> None:
    """The problems come from the processes, and from the files of an interrupted build."""
    table = tmp_path / "rows.csv"
    table.write_text("text,label\ngood,a\nshort\n,b\nfine,a\n\nshort\n")
    source = open_source(table)
    paths = [tmp_path / f"{number}.npz" for number in range(20)]
    given = list(zip(source.blocks(Problems(), block_bytes=8), paths, strict=False))
    assert len(given) > 3
    with Workers(Tokenization(), where="here", processes=2) as workers:
        for _ in range(2):
            problems = Problems()
            for facts in workers.map(given):
                problems.merge(facts.problems)
            assert problems.counts == {"too few columns": 2, "empty text": 1}
            assert problems.first == {
                "too few columns": f"{table}, line 3",
                "empty text": f"{table}, line 4",
            }
    for path in paths:
        path.unlink(missing_ok=True)
    with (
        Workers(Tokenization(), where="here", processes=2, strict=True) as workers,
        pytest.raises(InputError, match="line 3: too few columns"),
    ):
        list(workers.map(given))


def test_a_process_that_is_killed_is_told_in_one_message(tmp_path: Path) -> None:
    with Workers(Tokenization(), where="here", processes=2) as workers:
        block = Block(texts=["a"], labels=["b"])
        list(workers.map([(block, tmp_path / "0.npz")]))
        for process in psutil.Process().children():
            process.kill()
        with pytest.raises(LostWorkerError, match="that read here was ended from outside"):
            list(workers.map([(block, tmp_path / f"{number}.npz") for number in range(1, 5)]))


def test_a_script_that_loads_at_once_is_not_run_again(tmp_path: Path) -> None:
    """`multiprocessing` would run a script without a main guard again in each process."""
    script = tmp_path / "script.py"
    script.write_text(
        "print('once')\n"
        "from harness.data.build.workers import Workers\n"
        "from harness.data.tokens import Tokenization\n"
        "from harness.data.readers.records import Block\n"
        "from pathlib import Path\n"
        "block = Block(texts=['a b'], labels=['c'])\n"
        "with Workers(Tokenization(), where='here', processes=2) as workers:\n"
        f"    print(sum(f.num_rows for f in workers.map([(block, Path('{tmp_path}/0.npz'))])))\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout.split(), done.stderr) == (["once", "1"], "")
