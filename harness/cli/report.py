"""`harness report`: a page about a run, in one file that any browser shows."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from harness.base.errors import InputError, printable
from harness.base.quiet import quiet_import
from harness.cli.evaluate import HeldOutRows, load_rows
from harness.data.options import DataConfig

if TYPE_CHECKING:
    from harness.data.sources import Dataset
    from harness.data.vocabulary import Vocabulary
    from harness.trainer.trainer import Trainer

_MAX_REREAD = 20_000_000
"""Ids up to which the data is loaded again, so that texts are shown in their own order."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig(HeldOutRows):
    """Write report.html into a run folder: learning curves, ROC, precision and recall, calibration,
    confusion, throughput, the words that weigh most, and the worst mistakes on the test rows."""

    run: tyro.conf.Positional[str]
    """The run folder."""


def report(config: ReportConfig) -> int:
    """Runs the command; returns its exit code.

    Raises:
        InputError: when there is no such run, it does not fit the data, or the extra `report` is
            not installed.
    """
    console = Console()
    with quiet_import():
        from harness.cli.saved_model import load_saved_model
        from harness.tools.report.page import check_installed
        from harness.trainer.environment import warn_of_gpus
    check_installed()
    folder = Path(config.run)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the folder of a run")
    warn_of_gpus(Console(stderr=True))
    saved = load_saved_model(config.run, batch_size=config.batch_size)
    data, source = load_rows(config, saved)
    words = saved.vocabulary or data.vocabulary
    write_with_texts(folder, saved.trainer, data, source, words, console)
    return 0


def write_with_texts(
    folder: Path,
    trainer: Trainer,
    data: Dataset,
    source: DataConfig,
    vocabulary: Vocabulary | None,
    console: Console,
) -> None:
    """Writes the report of a run.

    Args:
        folder: of the run.
        trainer: of its model.
        data: with the test rows.
        source: what the data was loaded by.
        vocabulary: of the ids.
        console: where to say what was written.
    """
    with quiet_import():
        from harness.data.sources import load_configured
        from harness.tools.report.page import write_report

    texts = data.test
    is_small = data.train.nnz + data.test.nnz <= _MAX_REREAD
    if vocabulary is not None and texts.is_unique and texts.weights is None and is_small:
        # With each id once they are sorted; texts are read in their own order, which rows with
        # weights have lost. What there is to note about the data was printed with it.
        with contextlib.redirect_stderr(io.StringIO()):
            texts = load_configured(replace(source, unique=False)).test
    path = write_report(folder, trainer, data.test, vocabulary=vocabulary, texts=texts)
    shown = printable(str(path), one_line=True)
    console.print(f"report written to {shown}", soft_wrap=True, markup=False, highlight=False)
