"""`harness data build`: makes a data set of texts, tables and archives."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from harness.base.checks import require_count
from harness.base.errors import printable
from harness.base.reading import MAX_UNPACKED_BYTES
from harness.cli.data import facts_table
from harness.data.options import BuildOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.data.build.summary import Built
    from harness.data.readers.records import Source

_MAX_LISTED_CLASSES = 12
_MAX_NAME = 40


@dataclass(frozen=True, kw_only=True)
class DataBuildConfig:
    """Build a data set of texts, a table, or an archive, which then loads at once."""

    source: tyro.conf.Positional[str]
    """A CSV, TSV, JSONL, Parquet or svmlight file; or a folder, tar or zip of texts, with a folder
    for each class, in train and test if it is split."""
    output: str
    """Folder to write."""
    build: BuildOptions = field(default_factory=BuildOptions)
    unique: bool = True
    """Keep each id of a row once; the multi-hot vector is the same."""
    split_seed: int = 0
    """Seed for drawing test rows, if the source has none of its own."""
    max_data_bytes: int = MAX_UNPACKED_BYTES
    """The most bytes that an archive or a Parquet file may unpack to. A small file may be made to
    fill any disk; raise the limit for a large one that you trust."""

    def __post_init__(self) -> None:
        require_count("--split-seed", self.split_seed, least=0, most=2**32 - 1)
        require_count("--max-data-bytes", self.max_data_bytes, most=2**62)


def build(config: DataBuildConfig) -> int:
    from harness.data.build.building import build_folder

    console = Console()
    begin = time.perf_counter()
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[read]}")
    num_read = 0
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as shown:
        task = shown.add_task("reading", total=None, read="")

        def started(source: Source) -> Callable[[int], None]:
            shown.update(task, total=source.num_bytes())
            return advance

        def advance(num_bytes: int) -> None:
            nonlocal num_read
            num_read += num_bytes
            shown.update(task, advance=num_bytes, read=f"{num_read / 1e6:,.0f} MB")

        built = build_folder(
            Path(config.source),
            config.build,
            Path(config.output),
            unique=config.unique,
            seed=config.split_seed,
            max_data_bytes=config.max_data_bytes,
            started=started,
        )
    seconds = time.perf_counter() - begin
    console.print(_table(built))
    for note in built.notes():
        console.out(printable(f"note: {note}", one_line=True), highlight=False)
    rate = f"{num_read / 1e6:,.1f} MB in {seconds:,.1f} s"
    console.out(printable(f"wrote {config.output} ({rate})", one_line=True), highlight=False)
    out = shlex.quote(config.output)
    console.out(printable(f"train with: harness train --data {out}", one_line=True))
    return 0


def _table(built: Built) -> Table:
    classes = list(built.rows_of_classes.items())
    listed = [f"{printable(n, most=_MAX_NAME)}: {count:,}" for n, count in classes]
    if len(listed) > _MAX_LISTED_CLASSES:
        counts = [count for _, count in classes]
        listed = [f"{len(classes):,}, of {min(counts):,} to {max(counts):,} rows"]
    share = built.num_unknown / max(1, built.num_ids)
    facts = {
        "rows": f"{built.train_rows:,} to train on, {built.test_rows:,} to test on",
        "labels" if built.multi_label else "classes": ", ".join(listed),
        "ids": f"{built.num_tokens:,}",
        "tokens": f"{built.num_ids:,}, of which {share:.1%} are not in the vocabulary",
    }
    return facts_table(facts, title=built.source)
