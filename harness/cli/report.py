"""`harness report`: a page about a run, in one file that any browser shows."""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from harness.base.checks import require, require_extra
from harness.base.errors import printable
from harness.base.quiet import quiet_import
from harness.cli.evaluate import HeldOutRows, load_rows


@dataclass(frozen=True, kw_only=True)
class ReportConfig(HeldOutRows):
    """Write report.html into a run folder: throughput, GPUs and the choices that were made, then
    learning curves, ROC, precision and recall, confusion, the words that weigh most, and the worst
    mistakes on the test rows."""

    run: tyro.conf.Positional[str]
    """The run folder."""


def report(config: ReportConfig, *, given: Set[str] = frozenset()) -> int:
    with quiet_import():
        from harness.cli.saved_model import load_saved_model
        from harness.tools.report.page import write_report
    require_extra("report", "a report", "jinja2", "matplotlib")
    folder = Path(config.run)
    require(folder.is_dir(), f"{folder} is not a folder; name the folder of a run")
    saved = load_saved_model(config.run, batch_size=config.batch_size)
    data, source = load_rows(config, saved, given)
    words = saved.vocabulary or data.vocabulary
    path = write_report(folder, saved.trainer, data, source, words)
    Console().out(printable(f"report written to {path}", one_line=True), highlight=False)
    return 0
