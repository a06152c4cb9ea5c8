"""The cause of a step that cannot be compiled: one message with the name of the layer."""

import contextlib
import re
import traceback
from collections.abc import Iterator

import keras
import tensorflow as tf

from harness.base.errors import InputError, own_words
from harness.base.memory import OutOfMemoryError

_KINDS = {
    keras.layers.Layer: "layer",
    keras.optimizers.Optimizer: "optimizer",
    keras.losses.Loss: "loss",
    keras.metrics.Metric: "metric",
}
_NODE = re.compile(r"\{\{(?:function_)?node ([^}]+)\}\}")
_OF_UNKNOWN_SHAPE = {"Where", "Range", "Slice", "StridedSlice"}
"""TensorFlow's operations whose results may have a shape that depends on numbers."""
_REMEDY = "compute with Keras's and TensorFlow's operations on numbers, in tensors of known shapes"


@contextlib.contextmanager
def naming_failed_layer(model: keras.Model) -> Iterator[None]:
    """Turns an error in the block, where a step is traced and compiled, into an InputError that
    names the Keras object whose code failed, or a layer of the model; or into an OutOfMemoryError.
    An error in no such object passes unchanged."""
    try:
        with own_words():
            yield
    except InputError:
        raise
    except tf.errors.ResourceExhaustedError as error:
        reason = str(error).partition(" [Op:")[0]
        raise OutOfMemoryError(
            f"{reason} Set a smaller --batch-size, or use fewer units"
        ) from error
    except (AttributeError, TypeError, ValueError, NotImplementedError, tf.errors.OpError) as error:
        culprit = _in_traceback(error) or _in_message(str(error), model)
        if culprit is None and "No registered" not in str(error):
            raise
        # Keras names the call that failed, and then prints the reason in bold.
        lines = re.sub(r"\x1b\[\d*m|Exception encountered .*", "", str(error)).split("\n")
        lines = [*filter(str.strip, lines), type(error).__name__]
        reason = next((line for line in lines if "No registered" in line), lines[0])
        what = f"the {culprit or 'model'} cannot be compiled"
        raise InputError(f"{what}: {reason:.300}; {_REMEDY}") from error


def require_known_shapes(model: keras.Model) -> None:
    """Raises InputError if an operation in the present graph, the body of a loop, makes a tensor
    whose shape depends on numbers: there XLA ends the process ("Check failed: buffer != nullptr").
    Tensors may follow from control flow, whose results' shapes TensorFlow forgets and XLA knows."""
    for operation in tf.compat.v1.get_default_graph().get_operations():
        shapes = [tensor.shape for tensor in [*operation.inputs, *operation.outputs]]
        unknown = [shape for shape in shapes if not shape.is_fully_defined()]
        is_made_here = unknown and shapes.index(unknown[0]) >= len(operation.inputs)
        if operation.type in _OF_UNKNOWN_SHAPE and is_made_here:
            culprit = _in_message(f"{{{{node {operation.name}}}}}", model)
            raise InputError(
                f"the {culprit or 'model'} has a tensor whose shape depends on numbers "
                f"({operation.type}, {unknown[0]}), as by tf.boolean_mask or tf.where, and XLA "
                "cannot compile it in a loop of several steps; multiply by a mask instead, or set "
                "steps_per_dispatch=1"
            )


def _in_traceback(error: BaseException) -> str | None:
    """Describes the innermost Keras object, other than a model, whose method was running."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        running = frame.f_locals.get("self")
        word = next((word for kind, word in _KINDS.items() if isinstance(running, kind)), None)
        if word is not None and not isinstance(running, keras.Model):
            kind = type(running).__name__
            name = getattr(running, "name", None) or kind
            return f"{word} {name!r} ({kind})"
    return None


def _in_message(message: str, model: keras.Model) -> str | None:
    """Describes the layer in whose scope the message's operation is."""
    layers = {layer.name for layer in model._flatten_layers(include_self=False)}
    for path in _NODE.findall(message):
        for scope in reversed(path.split("/")):
            for name in (scope, re.sub(r"_\d+$", "", scope)):
                if name in layers:
                    return f"layer {name!r}"
    return None
