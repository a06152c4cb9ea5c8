"""What TensorBoard's Custom Scalars page opens on: the four charts that matter, in one category."""

import tensorflow as tf
from tensorboard.plugins.custom_scalar import metadata
from tensorboard.plugins.custom_scalar.layout_pb2 import Category, Chart, Layout
from tensorboard.plugins.custom_scalar.layout_pb2 import MultilineChartContent as Lines

CATEGORY = "What the machine does"
CHARTS = {
    "throughput, examples/s": (r"throughput/examples_per_second$",),
    "data wait, share of the time": (r"throughput/data_wait_fraction$",),
    "GPU utilization, %": (r"gpu/\d+/utilization_percent$",),
    "loss": (r"train/loss$", r"validation/loss$"),
}
"""Title and the patterns of the tags that the chart draws, matched from the tag's start."""


def layout_summary() -> tf.compat.v1.Summary:
    """The page's layout. It is the same for every run, so TensorBoard shows it once for many."""
    charts = [
        Chart(title=title, multiline=Lines(tag=patterns)) for title, patterns in CHARTS.items()
    ]
    layout = Layout(category=[Category(title=CATEGORY, chart=charts)])
    summary = tf.compat.v1.Summary()
    value = summary.value.add(
        tag=metadata.CONFIG_SUMMARY_TAG,
        tensor=tf.make_tensor_proto(layout.SerializeToString(), dtype=tf.string),
    )
    value.metadata.plugin_data.plugin_name = metadata.PLUGIN_NAME
    return summary
