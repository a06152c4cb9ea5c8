"""The grid: its cells, the order in which they are measured, and going on after an interruption."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.bench.rows import Cell, Pair, Results, Row
from harness.config.bench import AXES, GridConfig
from harness.errors import InputError


def cells(grid: GridConfig, *, rows: int) -> tuple[Cell, ...]:
    """Every combination of the axes, the last axis running fastest.

    Args:
        grid: checked already as far as it goes without the data.
        rows: of the data set, to train on.

    Raises:
        InputError: when a batch is larger than the data set.
    """
    too_large = [size for size in grid.batch_size if size > rows]
    if too_large:
        raise InputError(
            f"--batch-size names {', '.join(map(str, too_large))}, but the data set has {rows} "
            f"rows to train on; leave out what is above {rows}"
        )
    points = itertools.product(*(map(str, getattr(grid, axis)) for axis in AXES))
    return tuple(
        Cell(batch_size=int(size), **dict(zip(AXES[1:], others, strict=True)))
        for size, *others in points
    )


def schedule(planned: Sequence[Cell], repeats: int) -> Iterator[tuple[Cell, int]]:
    """Each cell once a repeat, in an order that alternates: what drifts favours no cell."""
    for repeat in range(repeats):
        for cell in planned if repeat % 2 == 0 else reversed(planned):
            yield cell, repeat


def remaining(planned: Sequence[Cell], repeats: int, results: Results) -> list[tuple[Cell, int]]:
    """What of the schedule is still to do; a cell that ran out of memory once would again."""
    measured: tuple[Row | Pair, ...] = (*results.rows, *results.pairs)
    done = {(one.cell, one.repeat) for one in measured}
    ended = {row.cell for row in results.rows if row.status == "out of memory"}
    return [
        (cell, repeat)
        for cell, repeat in schedule(planned, repeats)
        if (cell, repeat) not in done and cell not in ended
    ]


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Checks that a sweep is resumed with the settings that it began with.

    Args:
        before: `config` of the results file.
        now: that of this command, as JSON reads it back.

    Raises:
        InputError: naming the settings that differ.
    """
    free = {"resume", "overwrite", "bench_dir", "plot", "tensorboard", "repeats"}
    free |= {"fail_if_slower"}
    differing = sorted(name for name in now.keys() - free if before.get(name) != now[name])
    if differing:
        raise InputError(
            f"the sweep cannot be resumed with other settings: [{'], ['.join(differing)}] differ; "
            "give those that it began with, or another --bench-dir"
        )
