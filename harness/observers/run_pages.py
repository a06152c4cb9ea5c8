"""What TensorBoard shows of a run beside its curves, written once when it starts."""

from pathlib import Path

from tensorboard.plugins.text.summary_v2 import text_pb

from harness.observers.event_file import EventFile
from harness.observers.graph import network_graph
from harness.observers.hparams import METRICS, experiment, run_settings, session_start
from harness.observers.layout import layout_summary
from harness.observers.run_text import environment_table, settings_table
from harness.records import RunStart


def write_run_pages(file: EventFile, run: RunStart, *, start_seconds: float) -> None:
    """Writes the pages Custom Scalars, Text, Graphs and HParams; `start_seconds` since the epoch.

    Raises:
        OSError: naming the file, when it cannot be written.
    """
    settings = run_settings(run)
    folder = Path(run.run_dir)
    name = f"{folder.name} ({folder.parent})"  # the page cuts off what is long
    for summary in (
        layout_summary(),
        text_pb("run/settings", settings_table(run)),
        text_pb("run/environment", environment_table(run)),
        experiment(settings, METRICS),
        session_start(settings, name=name, start_seconds=start_seconds),
    ):
        file.summary(run.start_step, summary)
    file.graph(run.start_step, network_graph(run.layers))
