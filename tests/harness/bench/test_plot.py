"""The picture of a sweep can be drawn from whatever a sweep may hold."""

import dataclasses
from pathlib import Path

import pytest

from harness.bench.plot import draw
from tests.harness.bench.samples import CELL, results, row

LARGE = dataclasses.replace(CELL, batch_size=4096)
NATIVE = dataclasses.replace(CELL, implementation="native")


@pytest.mark.parametrize(
    "rows",
    [
        [row(CELL, 0)],
        [row(CELL, 0), row(LARGE, 0, 3e5), row(LARGE, 1, 4e5)],
        [row(CELL, 0), row(LARGE, 0, None), row(NATIVE, 0)],
        [row(CELL, 0, None)],
    ],
)
def test_it_is_drawn(rows: list, tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    draw(results(*rows), path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]
