"""Distributions for TensorBoard's Histograms and Distributions pages."""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram import metadata

from harness.records import Distribution


def histograms_summary(prefix: str, distributions: Iterable[Distribution]) -> tf.compat.v1.Summary:
    """One histogram for each, tagged `PREFIX/NAME`: float64 [bins, 3], as the plugin wants them, of
    left edge, right edge and count."""
    summary = tf.compat.v1.Summary()
    # TensorBoard's message, carried over as bytes into TensorFlow's of the same format.
    described = metadata.create_summary_metadata(display_name=None, description=None)
    for distribution in distributions:
        edges = distribution.edges
        bins = np.stack([edges[:-1], edges[1:], distribution.counts], axis=1)
        value = summary.value.add(
            tag=f"{prefix}/{distribution.name}", tensor=tf.make_tensor_proto(bins, tf.float64)
        )
        value.metadata.MergeFromString(described.SerializeToString())
    return summary
