"""The parts of a training step, and which of them an operation belongs to, by its name scopes."""

import re

INPUT = "input"
OTHER_OPERATIONS = "other operations"
BETWEEN_OPERATIONS = "between operations"
HOST = "host"

PARTS = {
    INPUT: "waiting for batches, reading one",
    "first layer, forward": "product, bias, activation",
    "first layer, backward": "",
    "dense layers, forward": "with dropout and the head",
    "dense layers, backward": "",
    "loss": "with the sums for metrics",
    "all-reduce": "of the gradients",
    "optimizer": "with loss scaling, if any",
    OTHER_OPERATIONS: "copies, and what has no scope",
    BETWEEN_OPERATIONS: "in the compiled program",
    HOST: "Python, TensorFlow's runtime",
}
"""In the order in which they are shown, each with what is in it."""

SCOPED = tuple(
    part for part in PARTS if part not in (INPUT, OTHER_OPERATIONS, BETWEEN_OPERATIONS, HOST)
)
"""Those that operations are given to by their scopes alone."""

_FIRST_LAYER = re.compile(r"(^|/)multi_hot_(dense|index|forward|backward)(_\d+)?/")
_NETWORK = re.compile(r"(^|/)multi_hot_logits(_\d+)?/")
_SCOPE = re.compile(r"(?:^|/)(input|loss|loss_scale|optimizer|all_reduce)(?:_\d+)?/")
_PART_OF_SCOPE = {"all_reduce": "all-reduce", "loss_scale": "optimizer"}
_BACKWARD = re.compile(r"(^|/)(gradient_tape|multi_hot_backward(_\d+)?)/")

CONTAINERS = {"while", "conditional", "call"}
"""Opcodes of operations that last as long as those inside them."""


def part_of(path: str) -> str:
    """The part that an operation with these name scopes belongs to.

    The scopes are those of the layers (their Keras names), of `TrainingStep`, of `Replica.update`
    and of the multi-hot product. The gradient of an operation carries its scopes behind
    `gradient_tape/`.
    """
    direction = "backward" if _BACKWARD.search(path) else "forward"
    if _FIRST_LAYER.search(path):
        return f"first layer, {direction}"
    if _NETWORK.search(path):
        return f"dense layers, {direction}"
    scope = _SCOPE.search(path)
    if scope is None:
        return OTHER_OPERATIONS
    return _PART_OF_SCOPE.get(scope[1], scope[1])
