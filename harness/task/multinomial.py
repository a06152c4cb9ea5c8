"""The multinomial likelihood of the items of each row, given as ragged sets.

Letters: B rows, V items, N length of the ids' buffer, D units before the last layer, S samples.
"""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from harness.base.checks import require, require_count
from harness.model.heads import behind_casts
from kernels.multi_hot.registry import Problem
from kernels.multi_hot.segments import Entries, find_entries
from kernels.random_bits import random_bits


@keras.saving.register_keras_serializable(package="harness")
class Multinomial(keras.losses.Loss):
    """The negative log-likelihood of a row's items T as draws from the softmax of its logits z:
    `|T| * logsumexp(z) - sum(z[i] for i in T)`, as in Liang et al., "Variational Autoencoders for
    Collaborative Filtering", 2018, equation 2.

    If labels are ragged sets, the logits are the only [B, V] array. In Keras's own `fit` the labels
    are 0 and 1 for each item, [B, V].
    """

    from_logits = True

    def __init__(self, *, num_samples: int | None = None, **kwargs: Any) -> None:
        """Args:
        num_samples: S, at most V: the number of items that a training step draws to estimate the
            logsumexp, instead of computing all V logits. Evaluations use all items. The model must
            end in a Dense layer without activation, and labels must be ragged sets. The estimate
            of `sum(exp(z))` is unbiased: each of the row's own items counts once, and each other
            drawn item V / S times (Bengio and Senécal, "Adaptive importance sampling to accelerate
            training of a neural probabilistic language model", 2008).
        **kwargs: arguments of `keras.losses.Loss`.
        """
        super().__init__(**{"name": "multinomial", **kwargs})
        if num_samples is not None:
            require_count("num_samples", num_samples)
        self.num_samples = None if num_samples is None else int(num_samples)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the losses of rows, [B], from labels of 0 and 1 and from logits, both [B, V]."""
        return -keras.ops.sum(y_true * keras.ops.log_softmax(y_pred), axis=-1)

    def of_labels(self, labels: Any, logits: tf.Tensor, *, sampled: bool) -> tf.Tensor:
        """Returns the losses of rows, float32 [B], from labels that are ragged sets, or 0 and 1 for
        each item. With `sampled`, if `num_samples` is set, they are estimates."""
        sampled = sampled and self.num_samples is not None
        is_sets = isinstance(labels, Mapping)
        require(
            logits.shape[1] >= 2 and (is_sets or not sampled),
            f"the loss {self.name!r} takes a logit for each item, and with num_samples ragged sets "
            f"of items as labels; the model gives {logits.shape[1]}, and the labels are "
            f"{'ragged sets' if is_sets else 'numbers'}",
        )
        if not is_sets:
            return self.call(labels, logits)
        return self.of_samples(labels, logits) if sampled else self.of_sets(labels, logits)

    def of_sets(self, sets: Mapping[str, tf.Tensor], logits: tf.Tensor) -> tf.Tensor:
        """Returns the losses of rows, float32 [B], from their items, of which repeated ones count
        once: `values` int32 [N], padding from `row_splits[-1]` on, and `row_splits` [B + 1]."""
        targets = entries_of(sets, logits.shape[1])
        own = tf.gather_nd(logits, tf.stack([targets.rows, targets.ids], axis=1))
        sums = tf.reduce_logsumexp(logits, axis=1)
        return _totals(targets, tf.gather(sums, targets.rows) - own)

    def of_samples(self, sets: Mapping[str, tf.Tensor], logits: tf.Tensor) -> tf.Tensor:
        """Returns estimates of `of_sets` from S drawn items, float32 [B]. XLA then removes the
        product that computes all logits, since nothing reads it."""
        inputs, kernel, bias = _last_product(logits)
        num_items, num_samples = logits.shape[1], self.num_samples
        assert num_samples is not None
        require_count("num_samples", num_samples, most=num_items)
        targets = entries_of(sets, num_items)
        drawn = _drawn(num_samples, num_items, inputs)
        # Gathered at once, since each gradient of a gather is an array of the kernel's size.
        every = tf.concat([targets.ids, drawn], axis=0)
        kernels, biases = tf.gather(kernel, every, axis=1), tf.gather(bias, every)
        size = targets.ids.shape[0]
        of_rows = tf.gather(inputs, targets.rows) * tf.transpose(kernels[:, :size])
        own = tf.reduce_sum(of_rows, axis=1) + biases[:size]
        others = inputs @ kernels[:, size:] + biases[size:]
        # A drawn item counts V / S times, and those of the row once each. An item lies in one or
        # two of the S parts that items are drawn from.
        first = tf.cast(targets.ids, tf.int64) * num_samples
        parts = tf.concat([first, first + num_samples - 1], axis=0) // num_items
        is_own = tf.tile(targets.counts, [2]) & (
            tf.gather(drawn, parts) == tf.tile(targets.ids, [2])
        )
        places = tf.stack([tf.tile(tf.cast(targets.rows, tf.int64), [2]), parts], axis=1)
        times = tf.fill(tf.shape(others), num_items / num_samples)
        times = tf.tensor_scatter_nd_min(times, places, tf.where(is_own, 0.0, times.dtype.max))
        known = tf.where(targets.counts, own, others.dtype.min)
        highest = tf.math.unsorted_segment_max(known, targets.rows, targets.num_rows)
        highest = tf.stop_gradient(tf.maximum(highest, tf.reduce_max(others, axis=1)))
        shifted = tf.where(targets.counts, own - tf.gather(highest, targets.rows), 0)
        total = tf.reduce_sum(times * tf.exp(others - highest[:, None]), axis=1)
        sums = tf.math.log(total + _totals(targets, tf.exp(shifted))) + highest
        return _totals(targets, tf.gather(sums, targets.rows) - own)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_samples": self.num_samples}


def entries_of(
    sets: Mapping[str, tf.Tensor], num_items: int, *, drop_repeated: bool = True
) -> Entries:
    """Returns the items of each row. Padding, and repeated items with `drop_repeated`, do not
    count; padding has row 0."""
    problem = Problem(sets["values"], sets["row_splits"], num_items, tf.float32, unique=False)
    found = find_entries(problem, drop_repeated=drop_repeated)
    return found._replace(rows=tf.where(found.counts, found.rows, 0))


def _totals(entries: Entries, numbers: tf.Tensor) -> tf.Tensor:
    """Returns for each row, [B], the sum of the numbers of its entries, [N]."""
    counted = tf.where(entries.counts, numbers, 0)
    return tf.math.unsorted_segment_sum(counted, entries.rows, entries.num_rows)


def _last_product(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the inputs [B, D], the kernel [D, V] and the bias [V] from which the logits were
    traced, in float32."""
    operation, bias = behind_casts(logits), tf.zeros(logits.shape[1:])
    if operation.type in ("AddV2", "BiasAdd") and operation.inputs[1].shape.rank == 1:
        bias = operation.inputs[1]
        operation = behind_casts(operation.inputs[0])
    require(
        operation.type == "MatMul" and not operation.get_attr("transpose_b"),
        f"the model ends in a {operation.type}, but a Multinomial of num_samples needs the product "
        "of the last layer; end the model with a Dense layer without activation, or set "
        "num_samples=None",
    )
    inputs, kernel = operation.inputs
    return tf.cast(inputs, tf.float32), tf.cast(kernel, tf.float32), tf.cast(bias, tf.float32)


def _drawn(num_samples: int, num_items: int, inputs: tf.Tensor) -> tf.Tensor:
    """Returns S items, int32 [S], one from each of S equal parts of all items. A hash of the bits
    of `inputs` selects them, so a repeated step draws the same items and the next step others."""
    key = tf.reduce_sum(tf.bitcast(inputs, tf.int32))
    bits = random_bits(tf.constant([num_samples]), tf.stack([key, 0]))
    shares = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) / 2**24
    places = tf.cast(tf.range(num_samples), tf.float64) + tf.cast(shares, tf.float64)
    items = tf.cast(places * (num_items / num_samples), tf.int32)
    return tf.minimum(items, num_items - 1)
