"""A run's curves, settings and network for TensorBoard, on its pages Scalars, Custom Scalars, Text,
Graphs, HParams and Histograms."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api_pb2, summary_v2
from tensorboard.plugins.hparams import summary as hparams_summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

from harness.base.files import json_text
from harness.base.reading import damage
from harness.run import records
from harness.run.observers.run_files import EVENT_FILES, RESOLVED, resolved_config
from harness.run.tf_errors import os_errors
from kernels.files import replacing


class TensorBoardObserver(records.Observer):
    """Writes an event file into a folder, in place of those that are there. A resumed run keeps the
    events up to its first step, and adds a file for those after it."""

    def __init__(self, folder: Path) -> None:
        """`folder` belongs to the run alone."""
        self._folder = folder
        self._writer: Any = None
        self._run: records.RunStart  # from `RunStart` on
        self._evaluated: dict[str, float] = {}  # the values of the last evaluation, by tag

    def tell(self, record: records.Record) -> None:
        match record:
            case records.RunStart():
                self._start(record)
            case records.Window():
                self._write(record.step, scalars(_values_of(record)))
            case records.Epoch(evaluation=records.Evaluation() as found):
                self._evaluated = {f"validation/{n}": value for n, value in found.values.items()}
                if found.step > self._run.start_step:  # else it was before the run was resumed
                    self._write(found.step, scalars(self._evaluated))
            case records.Inspection():
                values = {"precision/non_finite_gradient_fraction": record.non_finite_fraction}
                if record.underflow_fraction is not None:
                    values["precision/underflow_fraction"] = record.underflow_fraction
                histograms = [
                    *(histogram(f"weights/{found.name}", found) for found in record.weights),
                    *(histogram(f"gradients/{found.name}", found) for found in record.gradients),
                ]
                self._write(record.step, scalars(values), *histograms)
            case records.Summary():
                self._end(record)

    def _start(self, run: records.RunStart) -> None:
        self._run = run
        if run.start_step > 0:
            drop_events_after(self._folder, run.start_step)
        else:
            for path in self._folder.glob(EVENT_FILES):
                path.unlink()
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"{seconds:010}.{socket.gethostname()}.{os.getpid()}.{rest:09}.v2"
        with os_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / EVENT_FILES.replace("*", name)
            self._writer = tf.io.TFRecordWriter(str(path))
        self._record(file_version="brain.Event:2")
        self._write(run.start_step, *run_pages(run))
        # The Graphs page shows the last graph of a run.
        self._record(graph_def=run.graph)

    def _end(self, summary: records.Summary) -> None:
        """Adds the evaluations of the saved model that are new, and marks the run as ended."""
        new: dict[str, float] = {}
        for rows in ("test", "validation"):
            values = getattr(summary, rows)
            known = {f"{rows}/{name}": values.get(name) for name in ("loss", *self._run.metrics)}
            found = {tag: value for tag, value in known.items() if value is not None}
            if found != self._evaluated:
                new |= found
        # The HParams page shows it as a failure otherwise.
        done = not (summary.interrupted or summary.diverged)
        status = api_pb2.STATUS_SUCCESS if done else api_pb2.STATUS_FAILURE
        self._write(summary.steps, scalars(new), hparams_summary.session_end_pb(status))

    def close(self) -> None:
        if self._writer is not None:
            with os_errors(self._folder):
                self._writer.close()

    def _write(self, step: int, *summaries: Any) -> None:
        """Writes `Summary` messages of TensorBoard's plugins at `step`, all in one record."""
        merged = Summary()
        for summary in summaries:
            # As bytes: some are of TensorFlow's class of that name, others of TensorBoard's.
            merged.MergeFromString(summary.SerializeToString())
        self._record(step=step, summary=merged)

    def _record(self, **fields: Any) -> None:
        """Writes a record and flushes it: `tf.summary` would ignore one that cannot be written."""
        event = Event(wall_time=time.time(), **fields)
        with os_errors(self._folder):
            self._writer.write(event.SerializeToString())
            self._writer.flush()


def drop_events_after(folder: Path, step: int) -> None:
    """Removes the events after `step` from the event files in `folder`, whole or not at all, and a
    torn last record. Otherwise TensorBoard would draw twice the steps that a resumed run repeats.
    This also removes HParams: the resumed run writes its own, and TensorBoard shows the first."""
    for index, found in enumerate(sorted(folder.glob(EVENT_FILES))):
        # TensorBoard reads files in the order of their names, which begin with the time. A number
        # sorts before the next file, even if the clock was set back.
        path = found.rename(folder / EVENT_FILES.replace("*", f"{index:010}.v2"))
        with (
            os_errors(path),
            replacing(path) as beside,
            tf.io.TFRecordWriter(str(beside)) as writer,
            contextlib.suppress(tf.errors.DataLossError),  # torn: the run was killed as it wrote
        ):
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                remedy = "Remove it to resume without its records."
                with damage(path, what="an event file of TensorBoard", remedy=remedy):
                    event = Event.FromString(record)
                is_hparams = any(v.tag.startswith("_hparams_/") for v in event.summary.value)
                if event.step <= step and not is_hparams:
                    writer.write(record)


def _values_of(window: records.Window) -> dict[str, float]:
    values = {
        "train/loss": window.loss,
        **{f"train/{name}": value for name, value in window.metrics.items()},
        "throughput/steps_per_second": window.steps_per_second,
        "throughput/examples_per_second": window.examples_per_second,
        "throughput/tokens_per_second": window.tokens / window.seconds,
        "throughput/step_time_ms": 1e3 * window.seconds / window.num_steps,
        "throughput/data_wait_fraction": window.data_wait_seconds / window.seconds,
        **{tag: spread.mean for tag, spread in window.telemetry.items()},
    }
    if window.loss_scale is not None:
        values["precision/loss_scale"] = window.loss_scale
        values["precision/skipped_steps"] = window.skipped_steps
    return values


def run_pages(run: records.RunStart) -> list[Summary]:
    config = resolved_config(run)
    environment = config.pop(RESOLVED)
    folder = Path(run.run_dir)
    name = f"{folder.name} ({folder.parent})"  # the page cuts off long names
    return [
        custom_scalar.pb(_layout(run)),
        text_pb("run/settings", f"```json\n{json_text(config, indent=2)}\n```"),
        text_pb("run/environment", f"```json\n{json_text(environment, indent=2)}\n```"),
        summary_v2.hparams_pb(_settings(run, config), trial_id=name),
    ]


def _layout(run: records.RunStart) -> layout_pb2.Layout:
    """Returns the charts of the Custom Scalars page, each with a pattern that matches its tags."""
    charts = {
        name: f"(train|validation|test)/{re.escape(name)}$" for name in ("loss", *run.metrics)
    }
    charts["throughput, examples/s"] = r"throughput/examples_per_second$"
    charts["data wait, share of the time"] = r"throughput/data_wait_fraction$"
    if any("GPU" in device for device in run.devices):
        charts["GPU utilization, %"] = r"gpu/\d+/utilization_percent$"
    shown = [{"title": title, "multiline": {"tag": [tag]}} for title, tag in charts.items()]
    return layout_pb2.Layout(category=[{"title": "Training", "chart": shown}])


def _settings(run: records.RunStart, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of a run's row on the HParams page, every `auto` resolved."""
    built = config.get("data", {}).get("build", {})
    settings: dict[str, Any] = {
        **config.get("model", {}),
        **config["optimizer"],
        **config["execution"],
        **({"ngrams": built["ngrams"]} if "ngrams" in built else {}),
        "num_tokens": run.dataset.num_tokens,
        "learning_rate": run.learning_rate,
        "epochs": run.epochs,
        "task": run.task.name,
        "dataset": run.dataset.name,
    }
    for name, value in settings.items():
        if isinstance(value, list | tuple):
            settings[name] = " ".join(map(str, value))
        elif not isinstance(value, bool | int | float | str):
            settings[name] = str(value)
    return settings


def scalars(values: Mapping[str, float]) -> Summary:
    return Summary(value=[scalar_pb(tag, value).value[0] for tag, value in values.items()])


def histogram(tag: str, distribution: records.Distribution) -> Summary:
    """Returns a histogram with the bins of `distribution`, which `tf.summary.histogram` would count
    anew: float64 [bins, 3] of left edge, right edge and count."""
    edges, counts = distribution.edges, distribution.counts
    bins = make_tensor_proto(np.stack([edges[:-1], edges[1:], counts], axis=1), np.float64)
    metadata = histogram_metadata.create_summary_metadata(display_name=None, description=None)
    return Summary(value=[Summary.Value(tag=tag, tensor=bins, metadata=metadata)])
