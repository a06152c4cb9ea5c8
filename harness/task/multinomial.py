"""The multinomial likelihood of the items of each row, given as ragged sets.

Letters: B rows, V items, N length of the ids' buffer, D units before the last layer, S samples.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from harness.base.errors import InputError
from harness.model.dropout import random_bits
from kernels.multi_hot.registry import Problem
from kernels.multi_hot.segments import find_entries


@keras.saving.register_keras_serializable(package="harness")
class Multinomial(keras.losses.Loss):
    """The negative log-likelihood of a row's items T, drawn from the softmax of its logits z:
    `|T| * logsumexp(z) - sum(z[i] for i in T)`, as in Liang et al., "Variational Autoencoders for
    Collaborative Filtering", 2018, equation 2.

    Of labels that are ragged sets, no [B, V] array is made but the logits. In Keras's own `fit` the
    loss takes 0 and 1 for each item, [B, V].
    """

    from_logits = True

    def __init__(self, *, num_samples: int | None = None, **kwargs: Any) -> None:
        """Args:
        num_samples: S, the items that a training step draws to estimate the logsumexp, in place of
            computing all V logits; at most V. The model must end in a Dense layer without
            activation, and labels must be ragged sets. An evaluation takes all items. The estimate
            of `sum(exp(z))` is unbiased: a row's own items count once, and each other one that was
            drawn V / S times (Bengio and Senécal, "Adaptive importance sampling to accelerate
            training of a neural probabilistic language model", 2008).
        **kwargs: arguments of `keras.losses.Loss`.
        """
        super().__init__(**{"name": "multinomial", **kwargs})
        if num_samples is not None and num_samples < 1:
            raise InputError(f"num_samples is {num_samples}; give at least 1, or None for all")
        self.num_samples = num_samples

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the losses of rows, [B], of 0 and 1 for each item, [B, V], and logits, [B, V]."""
        return -keras.ops.sum(y_true * keras.ops.log_softmax(y_pred), axis=-1)

    def of_labels(self, labels: Any, logits: tf.Tensor, *, sampled: bool) -> tf.Tensor:
        """Returns the losses of rows, float32 [B], of ragged sets, or of 0 and 1 for each item;
        with `sampled` and if the loss has samples, estimates."""
        if not isinstance(labels, Mapping):
            if sampled and self.num_samples is not None:
                raise InputError(
                    "the labels are 0 and 1 for each item, but a Multinomial of num_samples takes "
                    "ragged sets; give RaggedSets, or lists of items"
                )
            return self.call(tf.cast(labels, tf.float32), logits)
        of = self.of_samples if sampled and self.num_samples is not None else self.of_sets
        return of(labels, logits)

    def of_sets(self, sets: Mapping[str, tf.Tensor], logits: tf.Tensor) -> tf.Tensor:
        """Returns the losses of rows, float32 [B].

        Args:
            sets: the rows' items: `values` int32 [N], of which those behind `row_splits[-1]` do not
                count, and `row_splits` int32 [B + 1]. A repeated item of a row counts once.
            logits: float32 [B, V].
        """
        targets = _targets(sets, logits.shape[1])
        own = tf.gather_nd(logits, tf.stack([targets.rows, targets.ids], axis=1))
        return targets.number * tf.reduce_logsumexp(logits, axis=1) - targets.total(own)

    def of_samples(self, sets: Mapping[str, tf.Tensor], logits: tf.Tensor) -> tf.Tensor:
        """Returns estimates of `of_sets` by S items, float32 [B]. XLA then drops the product that
        the logits come from, since nothing else reads it."""
        last = _last_product(logits)
        num_items, num_samples = logits.shape[1], self.num_samples
        if num_samples > num_items:
            raise InputError(f"num_samples is {num_samples}, and there are {num_items} items")
        targets = _targets(sets, num_items)
        drawn = _drawn(num_samples, num_items, last.inputs)
        kernels, biases = last.of_items(tf.concat([targets.ids, drawn], axis=0))
        size = tf.shape(targets.ids)[0]
        inputs = tf.gather(last.inputs, targets.rows)
        own = tf.reduce_sum(inputs * kernels[:size], axis=1) + biases[:size]
        others = tf.matmul(last.inputs, kernels[size:], transpose_b=True) + biases[size:]
        # Each item that was drawn counts `times`; what a row's own items count beyond 1 is taken
        # off.
        times = num_items / num_samples
        counts = tf.math.unsorted_segment_sum(tf.ones([num_samples]), drawn, num_items)
        highest = tf.stop_gradient(
            tf.maximum(
                tf.reduce_max(others, axis=1),
                tf.math.unsorted_segment_max(
                    tf.where(targets.counts, own, others.dtype.min), targets.rows, targets.num_rows
                ),
            )
        )
        factor = 1 - times * tf.gather(counts, targets.ids)
        parts = factor * tf.exp(tf.where(targets.counts, own - tf.gather(highest, targets.rows), 0))
        total = times * tf.reduce_sum(tf.exp(others - highest[:, None]), axis=1)
        total += targets.total(parts)
        return targets.number * (tf.math.log(total) + highest) - targets.total(own)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_samples": self.num_samples}


class _Targets(NamedTuple):
    """The items of each row, in a buffer."""

    ids: tf.Tensor
    """Items, int32 [N]; 0 where none counts."""
    rows: tf.Tensor
    """Rows of these, int32 [N]; 0 where none counts."""
    counts: tf.Tensor
    """Whether the entry counts, bool [N]."""
    num_rows: int
    """B."""

    def total(self, numbers: tf.Tensor) -> tf.Tensor:
        """Returns the sums of the numbers, [N], of each row, [B]."""
        counted = tf.where(self.counts, numbers, 0)
        return tf.math.unsorted_segment_sum(counted, self.rows, self.num_rows)

    @property
    def number(self) -> tf.Tensor:
        """The number of items of each row, float32 [B]."""
        return self.total(tf.ones_like(self.ids, tf.float32))


def _targets(sets: Mapping[str, tf.Tensor], num_items: int) -> _Targets:
    problem = Problem(sets["values"], sets["row_splits"], num_items, tf.float32, unique=False)
    found = find_entries(problem, drop_repeated=True)
    rows = tf.where(found.counts, found.rows, 0)
    return _Targets(found.ids, rows, found.counts, found.num_rows)


class _Product(NamedTuple):
    """A dense layer's computation."""

    inputs: tf.Tensor
    """Float32 [B, D]."""
    kernel: tf.Tensor
    """[D, V], or [V, D] if `by_item`."""
    bias: tf.Tensor | None
    """[V]."""
    by_item: bool

    def of_items(self, items: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the kernel's part for some items, [M], as float32 [M, D], and their biases."""
        kernels = tf.gather(self.kernel, items, axis=0 if self.by_item else 1)
        kernels = tf.cast(kernels if self.by_item else tf.transpose(kernels), tf.float32)
        if self.bias is None:
            return kernels, tf.zeros_like(items, tf.float32)
        return kernels, tf.cast(tf.gather(self.bias, items), tf.float32)


def _last_product(logits: tf.Tensor) -> _Product:
    """Returns the product that logits come from, as it was traced."""
    operation, bias = _behind_casts(logits), None
    if operation.type in ("AddV2", "BiasAdd") and operation.inputs[1].shape.rank == 1:
        bias = operation.inputs[1]
        operation = _behind_casts(operation.inputs[0])
    if operation.type != "MatMul":
        raise InputError(
            f"the model ends in a {operation.type}, but a Multinomial of num_samples needs the "
            "product of the last layer; end the model with a Dense layer without activation, or "
            "set num_samples=None"
        )
    inputs, kernel = operation.inputs
    by_item = operation.get_attr("transpose_b")
    return _Product(tf.cast(inputs, tf.float32), kernel, bias, by_item)


def _behind_casts(tensor: tf.Tensor) -> tf.Operation:
    operation = tensor.op
    while operation.type in ("Cast", "Identity"):
        operation = operation.inputs[0].op
    return operation


def _drawn(num_samples: int, num_items: int, inputs: tf.Tensor) -> tf.Tensor:
    """Returns S items, int32 [S], one from each of S equal parts of all. They are a hash of the
    bits of `inputs`: a step that is repeated draws the same, and the next one others."""
    key = tf.reduce_sum(tf.bitcast(inputs, tf.int32))
    bits = random_bits(tf.constant([num_samples]), tf.stack([key, 0]))
    shares = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) / 2**24
    places = tf.cast(tf.range(num_samples), tf.float64) + tf.cast(shares, tf.float64)
    items = tf.cast(places * (num_items / num_samples), tf.int32)
    return tf.minimum(items, num_items - 1)
