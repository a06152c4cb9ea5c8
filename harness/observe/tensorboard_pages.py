"""TensorBoard's pages beside the curves: Custom Scalars, Text, Graphs, HParams and Histograms."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar_summary
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api_pb2, summary, summary_v2
from tensorboard.plugins.text.summary_v2 import text_pb

from harness.files import json_text
from harness.observe.event_file import EventFile
from harness.observe.run_files import RESOLVED, resolved_config
from harness.records import Distribution, LayerInfo, RunStart

CATEGORY = "What the machine does"
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
_TYPES = {
    bool: api_pb2.DATA_TYPE_BOOL,
    int: api_pb2.DATA_TYPE_FLOAT64,
    float: api_pb2.DATA_TYPE_FLOAT64,
    str: api_pb2.DATA_TYPE_STRING,
}


def write_run_pages(file: EventFile, run: RunStart) -> None:
    """Writes the pages of a run that starts now.

    Raises:
        OSError: naming the file, when it cannot be written.
    """
    settings = run_settings(run)
    config = resolved_config(run)
    environment = config.pop(RESOLVED)
    folder = Path(run.run_dir)
    name = f"{folder.name} ({folder.parent})"  # the page cuts off long names
    for page in (
        _layout(),
        _text("run/settings", config),
        _text("run/environment", environment),
        _experiment(run, settings),
        summary_v2.hparams_pb(settings, trial_id=name),
    ):
        file.summary(run.start_step, page)
    file.graph(run.start_step, _graph(run.layers))


def _layout() -> tf.compat.v1.Summary:
    """The layout of the Custom Scalars page, the same for every run: TensorBoard shows it once."""
    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=patterns))
        for title, patterns in CHARTS.items()
    ]
    category = layout_pb2.Category(title=CATEGORY, chart=charts)
    return custom_scalar_summary.pb(layout_pb2.Layout(category=[category]))


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


def _text(tag: str, content: Mapping[str, Any]) -> Any:
    """JSON on the Text page."""
    return text_pb(tag, textwrap.indent(json_text(content, indent=2), "    "))  # Markdown: as it is


def run_settings(run: RunStart) -> dict[str, Setting]:
    """The settings of a run's row on the HParams page, every `auto` resolved."""
    groups = [
        run.config[name] for name in ("model", "optimizer", "execution") if name in run.config
    ]
    built = run.config.get("data", {}).get("build", {})
    return {
        **{name: _setting(value) for group in groups for name, value in group.items()},
        **({"ngrams": built["ngrams"]} if "ngrams" in built else {}),
        "num_tokens": run.dataset.num_tokens,
        **{name: choice.value for name, choice in run.choices.items()},
        "batch_size": run.batch_size,
        "learning_rate": run.learning_rate,
        "epochs": run.epochs,
        "task": run.task.name,
        "dataset": run.dataset.name,
    }


def _setting(value: Any) -> Setting:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return value if isinstance(value, Setting) else str(value)


def _experiment(run: RunStart, settings: Mapping[str, Setting]) -> Any:
    """The page's columns; it takes the last value of each metric's tag.

    The messages are the plugin's own (tensorboard/plugins/hparams/summary_v2.py). It reads the
    columns from any one run, and each row from the start and the end of a run's session.
    """
    held_out = ("test", "validation") if run.dataset.test_rows else ("validation",)
    metrics = {
        **{f"{rows}/{name}": f"{rows} {name}" for rows in held_out for name in run.metrics},
        "throughput/examples_per_second": "examples/s",
        **{f"{rows}/loss": f"{rows} loss" for rows in held_out},
        "throughput/data_wait_fraction": "data wait",
    }
    # No domains: the page would filter by them and hide runs with other values than this one's.
    return summary.experiment_pb(
        hparam_infos=[
            api_pb2.HParamInfo(name=name, type=_TYPES[type(value)], differs=name in FIRST)
            for name, value in settings.items()
        ],
        metric_infos=[
            summary_v2.Metric(tag, display_name=shown).as_proto() for tag, shown in metrics.items()
        ],
    )


def session_end(*, done: bool) -> Any:
    """The end of a row's run, now: `done`, or failed."""
    return summary.session_end_pb(api_pb2.STATUS_SUCCESS if done else api_pb2.STATUS_FAILURE)


def histograms(prefix: str, distributions: Iterable[Distribution]) -> tf.compat.v1.Summary:
    """One histogram for each, tagged `PREFIX/NAME`: float64 [bins, 3], as the plugin wants them, of
    left edge, right edge and count."""
    page = tf.compat.v1.Summary()
    # TensorBoard's message, carried over as bytes into TensorFlow's of the same format.
    described = histogram_metadata.create_summary_metadata(display_name=None, description=None)
    for distribution in distributions:
        edges = distribution.edges
        bins = np.stack([edges[:-1], edges[1:], distribution.counts], axis=1)
        value = page.value.add(
            tag=f"{prefix}/{distribution.name}", tensor=tf.make_tensor_proto(bins, tf.float64)
        )
        value.metadata.MergeFromString(described.SerializeToString())
    return page
