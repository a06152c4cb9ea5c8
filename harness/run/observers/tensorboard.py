"""A run's curves, settings and network for TensorBoard, on its pages Scalars, Custom Scalars, Text,
Graphs, HParams and Histograms."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence, Set
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

from harness.base.reading import damage
from harness.base.terminal import markdown_table
from harness.run import records
from harness.run.observers.run_files import EVENT_FILES, RESOLVED, resolved_config
from harness.run.tf_errors import os_errors
from kernels.files import replacing

# The settings that the HParams page shows first, in this order.
_FIRST = ("batch_size", "precision", "implementation", "replicas", "learning_rate")
_RATES = [name for name, kind in vars(records.Rates).items() if isinstance(kind, property)]
# The charts of the Custom Scalars page besides those of the loss and metrics.
_CHARTS = {
    "Learning": {"learning rate": "train/learning_rate", "gradient norm": "train/gradient_norm"},
    "Throughput": {
        "examples/s": "throughput/examples_per_second",
        "step time, ms": "throughput/step_time_ms",
        "data wait, share of the time": "throughput/data_wait_fraction",
    },
    "GPUs": {
        "utilization, %": r"~gpu/\d+/utilization_percent",
        "memory, GiB": r"~gpu/\d+/memory_used_gib",
        "power, W": r"~gpu/\d+/power_watts",
    },
}


class TensorBoardObserver(records.Observer):
    """Writes an event file into a folder, in place of those that are there. A resumed run keeps the
    events up to its first step, and adds a file for those after it."""

    def __init__(self, folder: Path) -> None:
        """`folder` belongs to the run alone."""
        self._folder = folder
        self._writer: Any = None
        self._run: records.RunStart  # from `RunStart` on
        self._evaluated: dict[str, float] = {}  # the values of the last evaluation, by tag
        self._drawn: set[str] = set()  # the tags of all scalars so far

    def tell(self, record: records.Record) -> None:
        match record:
            case records.RunStart():
                self._start(record)
            case records.Window():
                self._draw(record.step, _values_of(record))
            case records.Stretch():
                rates = {f"throughput/{name}": getattr(record, name) for name in _RATES}
                self._draw(record.step, {**rates, "train/learning_rate": record.learning_rate})
            case records.Epoch(evaluation=records.Evaluation() as found):
                self._evaluated = {f"validation/{n}": value for n, value in found.values.items()}
                if found.step > self._run.start_step:  # else it was before the run was resumed
                    self._draw(found.step, self._evaluated)
            case records.Inspection():
                values = {
                    "train/gradient_norm": record.gradient_norm,
                    "precision/non_finite_gradient_fraction": record.non_finite_fraction,
                }
                histograms = [
                    *(histogram(f"weights/{found.name}", found) for found in record.weights),
                    *(histogram(f"gradients/{found.name}", found) for found in record.gradients),
                ]
                self._draw(record.step, values, *histograms)
            case records.Summary():
                self._end(record)

    def _start(self, run: records.RunStart) -> None:
        self._run = run
        if run.start_step > 0:
            self._drawn = drop_events_after(self._folder, run.start_step)
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
        new: dict[str, float | None] = {}
        for rows in ("test", "validation"):
            values = getattr(summary, rows)
            known = {f"{rows}/{name}": values.get(name) for name in ("loss", *self._run.metrics)}
            found = {tag: value for tag, value in known.items() if value is not None}
            if found != self._evaluated:
                new |= found
        # The HParams page shows it as a failure otherwise.
        done = not (summary.interrupted or summary.diverged)
        status = api_pb2.STATUS_SUCCESS if done else api_pb2.STATUS_FAILURE
        new |= _figures_of(summary)
        self._draw(summary.steps, new, hparams_summary.session_end_pb(status))

    def close(self) -> None:
        if self._writer is not None:
            with os_errors(self._folder):
                self._writer.close()

    def _draw(self, step: int, values: Mapping[str, float | None], *summaries: Any) -> None:
        """Writes scalars, but for None, and other summaries. A chart joins the Custom Scalars page
        with its first scalar, so that none is empty: TensorBoard shows the last layout."""
        found = {tag: value for tag, value in values.items() if value is not None}
        if not self._drawn >= found.keys():
            self._drawn |= found.keys()
            summaries += (custom_scalar.pb(_layout(self._run.metrics, self._drawn)),)
        self._write(step, scalars(found), *summaries)

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


def drop_events_after(folder: Path, step: int) -> set[str]:
    """Removes the events after `step` from the event files in `folder`, whole or not at all, and a
    torn last record. Otherwise TensorBoard would draw twice the steps that a resumed run repeats.
    This also removes HParams: the resumed run writes its own, and TensorBoard shows the first.
    Returns the tags that are left."""
    tags = set()
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
                written = {value.tag for value in event.summary.value}
                is_hparams = any(tag.startswith("_hparams_/") for tag in written)
                if event.step <= step and not is_hparams:
                    writer.write(record)
                    tags |= written
    return tags


def _values_of(window: records.Window) -> dict[str, float | None]:
    return {
        "train/loss": window.loss,
        **{f"train/{name}": value for name, value in window.metrics.items()},
        "precision/loss_scale": window.loss_scale,
        "precision/skipped_steps": None if window.loss_scale is None else window.skipped_steps,
        # TensorBoard sorts groups of tags by name: `~gpu` and `~host` come last.
        **{
            f"~{tag}".replace("_bytes", "_gib"): spread.mean / (2**30 if "_bytes" in tag else 1)
            for tag, spread in window.telemetry.items()
        },
    }


def _figures_of(summary: records.Summary) -> dict[str, float | None]:
    """Returns the throughput of the whole run, for the HParams page: curves end with a moment's."""
    busy = [v for gpu in summary.gpus for n, v in gpu.items() if n == "utilization_percent"]
    rate = summary.steps_per_second
    return {
        "~summary/examples_per_second": summary.examples_per_second,
        "~summary/step_time_ms": None if rate is None else 1e3 / rate,
        "~summary/gpu_utilization_percent": sum(busy) / len(busy) if busy else None,
    }


def run_pages(run: records.RunStart) -> list[Summary]:
    config = resolved_config(run)
    environment = config.pop(RESOLVED)
    reasons = {"task": run.task, **run.choices}
    chosen = [(name, choice.name, choice.why) for name, choice in reasons.items()]
    others = [(*row, "") for row in _rows(config) if row[0].split(".")[-1] not in reasons]
    known = {*reasons, "replicas_why"}
    facts = {n: v for n, v in environment.items() if n not in known and v not in (None, [])}
    rows = ((name, _text(value), why) for name, value, why in (*chosen, *others))
    machine = ((name, _text(value)) for name, value in _rows(facts))
    settings, folder = _settings(run, config), Path(run.run_dir)
    # TensorBoard sorts the columns of settings by these names, but shows others.
    columns = {f"{place} {name}": name for place, name in enumerate(_FIRST, 1)}
    columns |= {name: name for name in settings if name not in _FIRST}
    kinds = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}
    types = {name: kinds.get(type(v), api_pb2.DATA_TYPE_FLOAT64) for name, v in settings.items()}
    shown = [
        api_pb2.HParamInfo(name=column, display_name=name.replace("_", " "), type=types[name])
        for column, name in columns.items()
    ]
    figures = [summary_v2.Metric(tag, display_name=name).as_proto() for tag, name in _figures(run)]
    settings |= {column: settings[name] for column, name in columns.items()}
    return [
        text_pb("run/settings", markdown_table(("what", "value", "why"), rows)),
        text_pb("run/environment", markdown_table(("what", "value"), machine)),
        hparams_summary.experiment_pb(shown, figures),
        # The page cuts off long names.
        summary_v2.hparams_pb(settings, trial_id=f"{folder.name} ({folder.parent})"),
    ]


def _layout(metrics: Sequence[str], drawn: Set[str]) -> layout_pb2.Layout:
    """Returns the charts of the Custom Scalars page that have a scalar in `drawn`, each with a
    pattern that matches its tags."""
    parts = {n: f"(train|validation|test)/{re.escape(n)}" for n in ("loss", *metrics)}
    layout = layout_pb2.Layout()
    for title, charts in {**_CHARTS, "Learning": parts | _CHARTS["Learning"]}.items():
        tags = {n: t for n, t in charts.items() if any(re.fullmatch(t, one) for one in drawn)}
        chart = [{"title": n, "multiline": {"tag": [f"{t}$"]}} for n, t in tags.items()]
        if chart:
            layout.category.add(title=title, chart=chart)
    return layout


def _figures(run: records.RunStart) -> Iterator[tuple[str, str]]:
    """Yields the tags and names of the columns of results on the HParams page, which shows the
    last value of each, and at first five of them."""
    yield "~summary/examples_per_second", "examples/s"
    yield "~summary/step_time_ms", "step ms"
    if any("GPU" in device for device in run.devices):
        yield "~summary/gpu_utilization_percent", "GPU utilization, %"
    rows = {"test": run.dataset.test_rows, "validation": run.dataset.validation_rows, "train": 1}
    for part in (part for part, num_rows in rows.items() if num_rows):
        for name in (*run.metrics[:1], "loss", *run.metrics[1:]):
            yield f"{part}/{name}", f"{part} {name}"
    yield "throughput/data_wait_fraction", "data wait"


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
    plain = (bool, int, float, str)
    return {name: v if isinstance(v, plain) else _text(v) for name, v in settings.items()}


def _rows(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of nested mappings, each with its path, as in `data.build.ngrams`."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    """Returns a value on one line."""
    words = map(str, value) if isinstance(value, list | tuple) else str(value).split()
    return " ".join(words)


def scalars(values: Mapping[str, float]) -> Summary:
    return Summary(value=[scalar_pb(tag, value).value[0] for tag, value in values.items()])


def histogram(tag: str, distribution: records.Distribution) -> Summary:
    """Returns a histogram with the bins of `distribution`, which `tf.summary.histogram` would count
    anew: float64 [bins, 3] of left edge, right edge and count."""
    edges, counts = distribution.edges, distribution.counts
    bins = make_tensor_proto(np.stack([edges[:-1], edges[1:], counts], axis=1), np.float64)
    metadata = histogram_metadata.create_summary_metadata(display_name=None, description=None)
    return Summary(value=[Summary.Value(tag=tag, tensor=bins, metadata=metadata)])
