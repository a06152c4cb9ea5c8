"""TensorBoard's pages beside the curves: Custom Scalars, Text, Graphs, HParams and Histograms.

The functions that take no folder write to the event file whose `at` is entered.
"""

import contextlib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api_pb2, summary_v2
from tensorboard.plugins.hparams import summary as hparams_summary

from harness.files import json_text
from harness.observe.event_file import EventFile
from harness.observe.run_files import RESOLVED, resolved_config
from harness.records import Distribution, LayerInfo, RunStart

CHARTS = {
    "throughput, examples/s": (r"throughput/examples_per_second$",),
    "data wait, share of the time": (r"throughput/data_wait_fraction$",),
    "GPU utilization, %": (r"gpu/\d+/utilization_percent$",),
    "loss": (r"train/loss$", r"validation/loss$"),
}
"""The charts of the Custom Scalars page: title, and patterns of the tags, from their start."""

FIRST = ("batch_size", "hidden_units", "implementation", "learning_rate", "precision")
"""Settings that are columns by default: the HParams page shows five, and sorts those that are
marked as differing between runs before the others."""

Setting = bool | int | float | str


def write_run_pages(run: RunStart) -> None:
    """Writes the pages of a run that starts now."""
    config = resolved_config(run)
    for tag, content in (("run/environment", config.pop(RESOLVED)), ("run/settings", config)):
        text = json_text(content, indent=2)
        tf.summary.text(tag, textwrap.indent(text, "    "))  # code in Markdown: shown as it is
    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=patterns))
        for title, patterns in CHARTS.items()
    ]
    category = layout_pb2.Category(title="What the machine does", chart=charts)
    _write(custom_scalar.pb(layout_pb2.Layout(category=[category])))
    tf.summary.graph(_graph(run.layers))
    settings = _settings(run)
    _write_columns(run, settings)
    folder = Path(run.run_dir)
    summary_v2.hparams(settings, trial_id=f"{folder.name} ({folder.parent})")  # the end is cut off


def _graph(layers: Sequence[LayerInfo]) -> tf.compat.v1.GraphDef:
    """The layers as nodes, each with an edge from every layer that it takes its input from.

    TensorBoard's own conversion of a Keras model loses inputs by name and knows no mixed precision.
    """
    graph = tf.compat.v1.GraphDef()
    for layer in layers:
        node = graph.node.add(name=layer.name, op=layer.kind, input=layer.inputs)
        node.attr["dtype"].type = tf.as_dtype(layer.dtype).as_datatype_enum
        node.attr["parameters"].i = layer.num_parameters
        shape = tf.TensorShape(layer.output_shape).as_proto()
        node.attr["_output_shapes"].list.shape.append(shape)  # shown on the edges
    return graph


def _settings(run: RunStart) -> dict[str, Setting]:
    """The settings of a run's row on the HParams page, every `auto` resolved."""
    groups = [run.config.get(name, {}) for name in ("model", "optimizer", "execution")]
    settings: dict[str, Any] = {
        **{name: value for group in groups for name, value in group.items()},
        **{name: choice.value for name, choice in run.choices.items()},
        "batch_size": run.batch_size,
        "learning_rate": run.learning_rate,
        "epochs": run.epochs,
        "task": run.task.name,
        "dataset": run.dataset.name,
    }
    for name, value in settings.items():
        if isinstance(value, list | tuple):
            settings[name] = " ".join(map(str, value))
        elif not isinstance(value, Setting):
            settings[name] = str(value)
    return settings


def _write_columns(run: RunStart, settings: Mapping[str, Setting]) -> None:
    """Writes the columns of the HParams page, which it reads from any one run; a metric's value is
    the last one of its tag."""
    held_out = ("test", "validation") if run.dataset.test_rows else ("validation",)
    metrics = {
        **{f"{rows}/{name}": f"{rows} {name}" for rows in held_out for name in run.metrics},
        "throughput/examples_per_second": "examples/s",
        **{f"{rows}/loss": f"{rows} loss" for rows in held_out},
        "throughput/data_wait_fraction": "data wait",
    }
    types = {bool: api_pb2.DATA_TYPE_BOOL, str: api_pb2.DATA_TYPE_STRING}  # others are numbers
    # No domains: the page would filter by them and hide runs with other values than this one's.
    columns = [
        api_pb2.HParamInfo(
            name=name,
            type=types.get(type(value), api_pb2.DATA_TYPE_FLOAT64),
            differs=name in FIRST,
        )
        for name, value in settings.items()
    ]
    shown = [summary_v2.Metric(tag, display_name=name).as_proto() for tag, name in metrics.items()]
    _write(hparams_summary.experiment_pb(columns, shown))


def write_session_end(*, done: bool) -> None:
    """Marks the run's row of the HParams page as ended now: `done`, or failed."""
    status = api_pb2.STATUS_SUCCESS if done else api_pb2.STATUS_FAILURE
    _write(hparams_summary.session_end_pb(status))


def write_histograms(prefix: str, distributions: Iterable[Distribution]) -> None:
    """Writes a histogram tagged `PREFIX/NAME` for each distribution: float64 [bins, 3] of left
    edge, right edge and count, as `tf.summary.histogram` writes what it has counted itself."""
    metadata = histogram_metadata.create_summary_metadata(display_name=None, description=None)
    for one in distributions:
        bins = np.stack([one.edges[:-1], one.edges[1:], one.counts], axis=1)
        tf.summary.write(f"{prefix}/{one.name}", tf.constant(bins, tf.float64), metadata=metadata)


def write_hparams_row(
    folder: Path,
    settings: Mapping[str, Setting],
    scalars: Iterable[tuple[int, Mapping[str, float]]],
    *,
    done: bool = True,
) -> None:
    """Writes one row of an HParams page, named after `folder`: its settings, and values by tag at
    some steps, of which the page shows each tag's last one.

    TensorBoard makes the columns from the rows, those that differ first.

    Raises:
        OSError: naming the folder, when it cannot be written to.
    """
    with contextlib.suppress(RuntimeError):  # TensorFlow already holds its devices
        tf.config.set_visible_devices([], "GPU")  # none is needed, and each would take memory
    with contextlib.closing(EventFile(folder)) as file:
        with file.at(0):
            summary_v2.hparams(dict(settings), trial_id=folder.name)
        for step, values in scalars:
            file.scalars(step, values)
        with file.at(0):
            write_session_end(done=done)


def _write(message: Any) -> None:
    """Writes a `Summary` message of one of TensorBoard's plugins."""
    tf.summary.experimental.write_raw_pb(message.SerializeToString())
