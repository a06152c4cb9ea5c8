"""The whole network in NumPy float64: loss, hits and gradients of one batch, as obvious as can be.

Letters: B rows, V num_tokens, H units, K outputs.
"""

from dataclasses import dataclass

import numpy as np

from harness.data.ragged import RaggedSets
from tests.kernels.multi_hot import reference


@dataclass(frozen=True, kw_only=True)
class Result:
    loss: np.ndarray
    """The loss of each row, [B]."""
    hits: np.ndarray
    """Whether each row is predicted right, bool [B]."""
    gradients: list[np.ndarray]
    """The gradients of the mean loss, in the order of the weights."""


def forward_backward(weights: list[np.ndarray], sets: RaggedSets) -> Result:
    """Computes a ReLU network and its gradients; `weights` are kernel, bias, kernel, bias ... of
    its layers."""
    weights = [w.astype(np.float64) for w in weights]
    kernels, biases = weights[::2], weights[1::2]
    inputs = [reference.multi_hot(sets.values, sets.row_splits, num_tokens=sets.num_tokens)]
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        inputs.append(np.maximum(inputs[-1] @ kernel + bias, 0))
    logits = inputs[-1] @ kernels[-1] + biases[-1]
    loss, hits, delta = _head(logits, sets.labels)
    delta = delta / sets.num_rows
    gradients: list[np.ndarray] = []
    for kernel, given in zip(reversed(kernels), reversed(inputs), strict=True):
        gradients = [given.T @ delta, delta.sum(axis=0), *gradients]
        delta = (delta @ kernel.T) * (given > 0)
    return Result(loss=loss, hits=hits, gradients=gradients)


def _head(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loss [B], hits [B] and the loss's gradient to the logits [B, K]."""
    if logits.shape[1] == 1:
        z = logits[:, 0]
        loss = np.logaddexp(0, z) - labels * z
        return loss, (z > 0) == (labels == 1), (1 / (1 + np.exp(-z)) - labels)[:, None]
    log_probabilities = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    rows = np.arange(len(labels))
    delta = np.exp(log_probabilities)
    delta[rows, labels] -= 1
    return -log_probabilities[rows, labels], logits.argmax(axis=1) == labels, delta
