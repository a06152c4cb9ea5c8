"""TensorBoard's pages besides the curves: Custom Scalars, Text, Graphs, HParams and Histograms."""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalar
from tensorboard.plugins.histogram import metadata as histogram_metadata
from tensorboard.plugins.hparams import api_pb2, summary_v2
from tensorboard.plugins.hparams import summary as hparams_summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

from harness.run.observers.run_files import RESOLVED, resolved_config
from harness.run.records import Distribution, LayerInfo, RunStart

# The settings that are columns by default: the HParams page shows five, and those marked as
# differing between runs come first.
FIRST = ("batch_size", "hidden_units", "implementation", "learning_rate", "precision")

Setting = bool | int | float | str


def run_pages(run: RunStart) -> list[Summary]:
    """Returns the pages of a run that starts now, except the graph."""
    config = resolved_config(run)
    environment = config.pop(RESOLVED)
    settings, folder = _settings(run), Path(run.run_dir)
    name = f"{folder.name} ({folder.parent})"  # the page cuts off long names
    return [
        custom_scalar.pb(_layout(run)),
        _text("run/settings", config),
        _text("run/environment", environment),
        _columns(run, settings),
        summary_v2.hparams_pb(settings, trial_id=name),
    ]


def _layout(run: RunStart) -> layout_pb2.Layout:
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


def _text(tag: str, content: Mapping[str, Any]) -> Summary:
    """Returns a Markdown table of the values in groups, such as `execution.precision`."""
    rows = "".join(f"| {_cell(name)} | {_cell(value)} |\n" for name, value in _flat(content))
    return text_pb(tag, f"| name | value |\n| --- | --- |\n{rows}")


def _flat(content: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping) and value.keys() == {"name", "why"}:
            yield f"{group}{name}", f"{value['name']} ({value['why']})"
        elif isinstance(value, Mapping):
            yield from _flat(value, f"{group}{name}.")
        else:
            yield f"{group}{name}", value


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"([\\`*_{}\[\]|])", r"\\\1", html.escape(text)).replace("\n", " ")


def graph(layers: Sequence[LayerInfo]) -> tf.compat.v1.GraphDef:
    """Returns the layers as nodes, with edges from those that they take their input from.
    TensorBoard's own conversion of a Keras model loses inputs by name and knows no mixed
    precision."""
    nodes = tf.compat.v1.GraphDef()
    for layer in layers:
        node = nodes.node.add(name=layer.name, op=layer.kind, input=layer.inputs)
        node.attr["dtype"].type = tf.as_dtype(layer.dtype).as_datatype_enum
        node.attr["parameters"].i = layer.num_parameters
        shape = tf.TensorShape(layer.output_shape).as_proto()
        node.attr["_output_shapes"].list.shape.append(shape)  # shown on the edges
    return nodes


def _settings(run: RunStart) -> dict[str, Setting]:
    """Returns the settings of a run's row on the HParams page, every `auto` resolved."""
    groups = [run.config.get(name, {}) for name in ("model", "optimizer", "execution")]
    built = run.config.get("data", {}).get("build", {})
    settings: dict[str, Any] = {
        **{name: value for group in groups for name, value in group.items()},
        **({"ngrams": built["ngrams"]} if "ngrams" in built else {}),
        "num_tokens": run.dataset.num_tokens,
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


def _columns(run: RunStart, settings: Mapping[str, Setting]) -> Summary:
    """Returns the columns of the HParams page, which shows the last point of a metric's tag."""
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
            name=name, type=types.get(type(value), api_pb2.DATA_TYPE_FLOAT64), differs=name in FIRST
        )
        for name, value in settings.items()
    ]
    shown = [summary_v2.Metric(tag, display_name=name).as_proto() for tag, name in metrics.items()]
    return hparams_summary.experiment_pb(columns, shown)


def session_end(*, done: bool) -> Summary:
    """Returns a message that a row's run on the HParams page ends now: `done`, or failed."""
    status = api_pb2.STATUS_SUCCESS if done else api_pb2.STATUS_FAILURE
    return hparams_summary.session_end_pb(status)


def scalars(values: Mapping[str, float]) -> Summary:
    return Summary(value=[scalar_pb(tag, value).value[0] for tag, value in values.items()])


def histogram(tag: str, distribution: Distribution) -> Summary:
    """Returns a histogram with the bins of `distribution`, which `tf.summary.histogram` would count
    anew: float64 [bins, 3] of left edge, right edge and count."""
    edges, counts = distribution.edges, distribution.counts
    bins = make_tensor_proto(np.stack([edges[:-1], edges[1:], counts], axis=1), np.float64)
    metadata = histogram_metadata.create_summary_metadata(display_name=None, description=None)
    return Summary(value=[Summary.Value(tag=tag, tensor=bins, metadata=metadata)])
