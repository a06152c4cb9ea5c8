"""TensorBoard's HParams page: a table of runs, their settings and their figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboard.plugins.hparams import summary_v2

from harness.observe.event_file import EventFile
from harness.observe.tensorboard_pages import Setting, session_end


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A run: a row of the table."""

    name: str
    """Of its folder."""
    settings: Mapping[str, Setting]
    scalars: Sequence[tuple[int, Mapping[str, float]]]
    """Values by tag, at a step each; the table shows each tag's last one."""
    done: bool = True
    """False: it failed."""


def write_table(
    folder: Path,
    *,
    domains: Mapping[str, Any],
    metrics: Mapping[str, str],
    rows: Iterable[TableRow],
) -> None:
    """Writes event files into `folder`: the table's columns, and a run for each row.

    Args:
        folder: of the event files.
        domains: `Discrete`, `IntInterval` or `RealInterval` of TensorBoard's plugin, by setting.
        metrics: tags, and their names on the page.
        rows: of the table.

    Raises:
        OSError: when a file cannot be written, naming it.
    """
    hparams = [summary_v2.HParam(name, domain) for name, domain in domains.items()]
    columns = [summary_v2.Metric(tag, display_name=shown) for tag, shown in metrics.items()]
    experiment = EventFile(folder)
    experiment.summary(0, summary_v2.hparams_config_pb(hparams, columns))
    experiment.close()
    for row in rows:
        run = EventFile(folder / row.name)
        run.summary(0, summary_v2.hparams_pb(dict(row.settings), trial_id=row.name))
        for step, values in row.scalars:
            run.scalars(step, values)
        run.summary(0, session_end(done=row.done))
        run.close()
