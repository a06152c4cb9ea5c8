"""What a model's outputs are: logits, or the probabilities that its last activation makes."""

import re
from typing import Any, Literal

import keras
import tensorflow as tf

from harness.base.checks import require
from harness.model.layers import anywhere, calling
from harness.model.network import is_functional

Head = Literal["sigmoid", "softmax", "linear"]
_LINEAR = re.compile(
    "Add(N|V2)?|BatchMatMulV[23]|BiasAdd|BroadcastTo|Cast|Conv2D|Einsum|ExpandDims|GatherNd|GatherV2|"
    "Identity|MatMul|Mean|Mul|Neg|Pad(V2)?|Reshape|(Sparse)?SegmentSum(V2)?|SelectV2|Slice|SplitV?|"
    "Squeeze|StopGradient|StridedSlice|Sub|Sum|Tile|Transpose|Unpack|UnsortedSegmentSum"
)
"""TensorFlow's operations whose results are linear in what one of their inputs is linear in."""
_PRODUCT = "multi_hot_forward/"  # The scope of a MultiHotDense layer's product


def head_of(model: keras.Model, kind: str | None) -> Head:
    """Returns the model's last activation, else the task's, else a softmax for several outputs."""
    if kind == "regression":
        return "linear"
    last = model.layers[-1] if is_functional(model) else None
    found = getattr(getattr(last, "activation", None), "__name__", None)
    if found == "sigmoid":
        return "sigmoid"
    if found == "softmax" or kind in ("multi_class", "multinomial"):
        return "softmax"
    several = is_functional(model) and model.outputs[0].shape[-1] not in (None, 1)
    return "softmax" if several and kind in (None, "auto") else "sigmoid"


def logits_of(
    model: keras.Model, inputs: Any, head: Head, *, from_logits: bool | None = None
) -> tf.Tensor:
    """Returns float32 logits, or the outputs of a regression, by TensorFlow's own operations. Of
    probabilities these are what Keras knows as their logits, or else computed: near 0 and 1 they
    lose digits. `from_logits` is what the loss took outputs for that do not tell themselves; None
    if that is not known."""
    with calling(anywhere()):
        outputs = model(inputs, training=False)
    known = outputs if head == "linear" else logits_behind(outputs, head)
    numbers = tf.cast(outputs if known is None else known, tf.float32)
    if known is not None or from_logits or are_logits(outputs):
        return numbers
    require(
        from_logits is not None,
        f"the model {model.name!r} ends in {behind_casts(outputs).type}, and no loss is known that "
        "says whether that gives probabilities; name the run folder that it was trained in with a "
        "loss of Keras's, or use harness.Trainer with harness.Task(loss=...)",
    )
    epsilon = keras.config.epsilon()
    shares = tf.clip_by_value(numbers, epsilon, 1 - epsilon)
    return tf.math.log(shares) - (tf.math.log1p(-shares) if head == "sigmoid" else 0.0)


def logits_behind(outputs: tf.Tensor, head: str) -> tf.Tensor | None:
    """Returns what a model's last operation made probabilities of, if that is `head`. Keras stores
    it as an attribute of the result; that of TensorFlow's own operations is known in a trace."""
    logits = getattr(outputs, "_keras_logits", None)
    if not hasattr(outputs, "op"):
        return logits
    operation = behind_casts(outputs)
    if operation.type.lower() != head:
        return None
    return operation.inputs[0] if logits is None else logits


def are_logits(outputs: tf.Tensor) -> bool:
    """Whether traced outputs are linear in a weight, as those of a Dense layer are: nothing bounds
    them, as it does probabilities. True for tensors that are not traced, too."""
    if not hasattr(outputs, "op"):
        return True
    left, seen = [outputs], {outputs.ref()}
    while left:
        tensor = left.pop()
        operation = tensor.op
        parts = [part for part in operation.inputs if part.dtype.is_floating]
        if operation.type == "ReadVariableOp":
            return True
        if operation.type in ("ConcatV2", "Pack"):
            parts = parts[:1] if all(map(are_logits, parts)) else []
        elif operation.type == "IdentityN":  # a function with a gradient of its own
            parts = [operation.inputs[tensor.value_index]]
        elif operation.type == "RealDiv" and parts[1].shape.rank == 0:
            parts = parts[:1]
        elif not (_LINEAR.fullmatch(operation.type) or _PRODUCT in operation.name):
            parts = []
        left += [part for part in parts if part.ref() not in seen]
        seen.update(part.ref() for part in parts)
    return False


def are_cast(probabilities: tf.Tensor) -> bool:
    """Whether Keras does not see the logits behind probabilities, as something casts these."""
    if hasattr(probabilities, "_keras_logits"):
        return False
    return behind_casts(probabilities) is not probabilities.op


def behind_casts(tensor: tf.Tensor) -> tf.Operation:
    operation = tensor.op
    while operation.type in ("Cast", "Identity"):
        operation = operation.inputs[0].op
    return operation
