"""`harness data info` and `harness data convert`: look at a data set; keep it to load fast."""

import dataclasses
import shlex

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.config import DataConvertConfig, DataInfoConfig
from harness.data import store
from harness.data.info import DatasetInfo, explore
from harness.data.ragged import RaggedSets
from harness.data.sources import load_configured

_BAR_WIDTH = 40


def info(config: DataInfoConfig, console: Console | None = None) -> int:
    """Prints what the tutorial explores before it trains.

    Repeated ids are kept, whatever the settings say: lengths are those of the data as read.
    """
    console = console or Console()
    found = explore(
        load_configured(dataclasses.replace(config.data, unique=False)), num_bins=config.num_bins
    )
    console.print(_figures(found))
    console.print(_histogram(found))
    # As text, in which brackets are no markup; paths in one piece, the row wrapped.
    if found.decoded_row is not None:
        console.print(
            Text(f"the first row ({found.vocabulary_note}; # is a start, unknown or padding id):"),
            soft_wrap=True,
        )
        console.print(Text(found.decoded_row))
    else:
        console.print(Text(found.vocabulary_note), soft_wrap=True)
    return 0


def convert(config: DataConvertConfig, console: Console | None = None) -> int:
    """Writes a data set in the harness's own memory-mappable format.

    The held-out rows come first, and the folder remembers how many they are.
    """
    console = console or Console()
    dataset = load_configured(config.data)
    sets = RaggedSets.concatenate([dataset.test, dataset.train], name=dataset.name)
    store.save(sets, config.out, held_out_rows=dataset.test.num_rows)
    console.print(
        Text(f"wrote {sets.num_rows:,} rows ({sets.nnz:,} ids) to {config.out}"), soft_wrap=True
    )
    console.print(Text(f"train with --data {shlex.quote(config.out)}"), soft_wrap=True)
    return 0


def _figures(found: DatasetInfo) -> Table:
    table = Table(title=Text(found.name), show_header=False, title_justify="left")
    rows = {
        "rows": f"{found.train_rows:,} to train on, {found.test_rows:,} to test on",
        "categories": ", ".join(f"{label}: {rows:,}" for label, rows in found.categories),
        "unique ids": f"{found.unique_ids:,} of {found.num_tokens:,}",
        "ids": f"{found.nnz:,}",
        "ids per row": f"{found.mean_length:.3f} on average, deviation "
        f"{found.length_deviation:.3f}, from {found.min_length:,} to {found.max_length:,}",
        "ids per row, unique": f"{found.mean_unique_length:.3f} on average, at most "
        f"{found.max_unique_length:,}",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _histogram(found: DatasetInfo) -> Table:
    table = Table(title="rows by length", title_justify="left", box=None)
    table.add_column("ids", justify="right")
    table.add_column("rows", justify="right")
    table.add_column("")
    most = max(found.histogram_counts)
    edges = found.histogram_edges
    for left, right, count in zip(edges, edges[1:], found.histogram_counts, strict=False):
        bar = "█" * round(_BAR_WIDTH * count / most)
        table.add_row(f"{left:,.0f} - {right:,.0f}", f"{count:,}", bar)
    return table
