"""`harness data`: builds a data set of texts, tables and archives, shows one, or converts it."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

import harness
from harness.base.checks import Checked, Whole
from harness.base.errors import printable
from harness.base.reading import MAX_UNPACKED_BYTES
from harness.base.terminal import progress_line
from harness.data.options import BuildOptions, DataConfig, Seed

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_LISTED_CLASSES = 12
_MAX_NAME = 100


@dataclass(frozen=True, kw_only=True)
class DataInfoConfig:
    """Show what a data set holds: classes, ids, lengths, and its first row in words."""

    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True, kw_only=True)
class DataConvertConfig:
    """Write a data set in the harness's own format, which loads at once and needs no pickle."""

    out: str
    """Folder to write."""
    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True, kw_only=True)
class DataBuildConfig(Checked):
    """Build a data set of texts, a table, or an archive, which then loads at once."""

    source: tyro.conf.Positional[str]
    """A CSV, TSV, JSONL, Parquet or svmlight file; or a folder, tar or zip of texts, with a folder
    for each class, in train and test if it is split."""
    output: str
    """Folder to write."""
    build: BuildOptions = field(default_factory=BuildOptions)
    unique: bool = True
    """Keep each id of a row once; the multi-hot vector is the same."""
    split_seed: Seed = 0
    """Seed for drawing test rows, if the source has none of its own."""
    max_data_bytes: Annotated[int, Whole(1, 2**62)] = MAX_UNPACKED_BYTES
    """The most bytes that an archive or a Parquet file may unpack to. A small file may be made to
    fill any disk; raise the limit for a large one that you trust."""


def info(config: DataInfoConfig) -> int:
    """Prints the figures that the tutorial explores before it trains."""
    from harness.data.sources import load_configured

    console = Console()
    # With repeated ids, whatever the settings say: lengths are those of the data as read.
    dataset = load_configured(replace(config.data, unique=False))
    console.print(_figures(dataset))
    # Print as text, in which brackets are no markup; keep paths in one piece, but wrap the row.
    if dataset.vocabulary is None or not dataset.vocabulary.takes_texts:
        console.out(printable(dataset.vocabulary_note))
        return 0
    reserved = "# is a start, unknown or padding id"
    console.out(printable(f"the first test row ({dataset.vocabulary_note}; {reserved}):"))
    console.print(Text(printable(dataset.vocabulary.decode(dataset.test.row(0)))))
    return 0


def convert(config: DataConvertConfig) -> int:
    from harness.data.sources import load_configured

    console = Console()
    dataset = load_configured(config.data)
    dataset.save(config.out)
    num_rows, num_ids = (sum(getattr(p, n) for p in dataset.parts) for n in ("num_rows", "nnz"))
    console.out(printable(f"wrote {num_rows:,} rows ({num_ids:,} ids) to {config.out}"))
    console.out(printable(f"train with --data {shlex.quote(config.out)}"))
    return 0


def _figures(dataset: harness.Dataset) -> Table:
    import numpy as np

    lengths = np.concatenate([part.lengths for part in dataset.parts])
    unique = [part.unique() for part in dataset.parts]
    unique_lengths = np.concatenate([part.lengths for part in unique])
    # Nothing is allocated by num_tokens and num_classes, which a small file may set to 2^31.
    num_unique = np.unique(np.concatenate([part.values for part in unique])).size
    uses = zip(dataset.parts, ("train", "test", "validate"), strict=False)
    rows = ", ".join(f"{part.num_rows:,} to {use} on" for part, use in uses)
    labels = [p.labels if p.label_sets is None else p.label_sets.values for p in dataset.parts]
    present, counts = np.unique(np.concatenate(labels), return_counts=True)
    rows_of = dict(zip(present.tolist(), counts.tolist(), strict=True))
    names = dataset.vocabulary.class_names if dataset.vocabulary else ()
    if dataset.num_classes <= _MAX_LISTED_CLASSES:
        rows_of = {n: rows_of.get(n, 0) for n in range(dataset.num_classes)}
    classes = {f"{n} ({names[n]})" if n < len(names) else str(n): k for n, k in rows_of.items()}
    figures = {
        "rows": rows,
        "labels" if dataset.is_multi_label else "classes": _listed(classes, dataset.num_classes),
        "unique ids": f"{num_unique:,} of {dataset.num_tokens:,}",
        "ids": f"{lengths.sum():,}",
        "ids per row": f"{lengths.mean():.3f} on average, deviation {lengths.std():.3f}, median "
        f"{np.median(lengths):,.0f}, from {lengths.min():,} to {lengths.max():,}",
        "ids per row, unique": f"{unique_lengths.mean():.3f} on average, at most "
        f"{unique_lengths.max():,}",
    }
    return facts_table(figures, title=dataset.name)


def facts_table(facts: Mapping[str, str], *, title: str = "") -> Table:
    shown = Text(printable(title, most=_MAX_NAME, one_line=True))
    table = Table(title=shown if title else None, show_header=False, title_justify="left")
    for name, text in facts.items():
        table.add_row(name, Text(printable(text, one_line=True), overflow="fold"))
    return table


def _listed(rows_of: Mapping[str, int], num_classes: int) -> str:
    if num_classes <= _MAX_LISTED_CLASSES:
        return ", ".join(f"{printable(n, most=_MAX_NAME)}: {rows:,}" for n, rows in rows_of.items())
    present = [rows for rows in rows_of.values() if rows]
    text = f"{num_classes:,}, of {min(present, default=0):,} to {max(present, default=0):,} rows"
    empty = num_classes - len(present)
    return f"{text}; {empty:,} without a row" if empty else text


def build(config: DataBuildConfig) -> int:
    from harness.data.build.building import build as build_data
    from harness.data.readers.formats import open_source
    from harness.data.store import new_folder

    console = Console()
    begin = time.perf_counter()
    source = open_source(Path(config.source), config.build, max_data_bytes=config.max_data_bytes)
    with new_folder(Path(config.output)) as folder, progress_line(console) as progress:
        built = build_data(
            source,
            config.build,
            folder,
            unique=config.unique,
            seed=config.split_seed,
            progress=progress,
        )
    rate = f"{built['text_bytes'] / 1e6:,.1f} MB in {time.perf_counter() - begin:,.1f} s"
    rows_of = built["rows_of_classes"]
    share = built["num_unknown"] / max(1, built["num_ids"])
    facts = {
        "rows": f"{built['train_rows']:,} to train on, {built['test_rows']:,} to test on",
        "labels" if built["multi_label"] else "classes": _listed(rows_of, len(rows_of)),
        "ids": f"{built['num_tokens']:,}",
        "tokens": f"{built['num_ids']:,}, of which {share:.1%} are not in the vocabulary",
    }
    console.print(facts_table(facts, title=built["source"]))
    for line in (
        *(f"note: {note}" for note in built["notes"]),
        f"wrote {config.output} ({rate})",
        f"train with: harness train --data {shlex.quote(config.output)}",
    ):
        console.out(printable(line, one_line=True), highlight=False)
    return 0
