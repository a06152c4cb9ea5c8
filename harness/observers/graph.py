"""The network for TensorBoard's Graphs page: a node a layer, with its shape, type and parameters.

TensorBoard's own conversion of a Keras model loses the inputs of a layer that takes them by name,
and knows no mixed precision; so the graph is written as one of operations.
"""

from collections.abc import Sequence

import tensorflow as tf

from harness.records import LayerInfo


def network_graph(layers: Sequence[LayerInfo]) -> tf.compat.v1.GraphDef:
    """The layers as nodes, each with an edge from every layer that it takes its input from."""
    graph = tf.compat.v1.GraphDef()
    for layer in layers:
        node = graph.node.add(name=layer.name, op=layer.kind, input=layer.inputs)
        node.attr["dtype"].type = tf.as_dtype(layer.dtype).as_datatype_enum
        node.attr["parameters"].i = layer.num_parameters
        shape = tf.TensorShape(layer.output_shape).as_proto()
        node.attr["_output_shapes"].list.shape.append(shape)  # what the page writes on the edges
    return graph
