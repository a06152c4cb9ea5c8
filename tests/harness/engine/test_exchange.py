"""Gradients by rows that devices exchange."""

import numpy as np
import pytest
import tensorflow as tf

from harness.engine.exchange import Exchange
from harness.pipeline.batch import Share

SHARES = (3, 2)
"""Rows of the devices: the second has fewer, and so fewer of what is looked up for each row."""


def share(rows: int, num_values: int) -> Share:
    splits = tf.zeros([rows + 1], tf.int32)
    return Share(
        inputs={"ids": {"values": tf.zeros([num_values], tf.int32), "row_splits": splits}},
        rowids={},
        labels=tf.zeros([rows]),
        weights=tf.ones([rows]),
        among={},
    ).within(sum(SHARES), len(SHARES), SHARES.index(rows))


@pytest.mark.parametrize("num_tokens", [7, 2**26])
def test_gradients_by_rows_are_those_of_all_devices(num_tokens: int) -> None:
    rng = np.random.default_rng()
    by_value, by_row, all_values, all_rows = [], [], [], []
    for rows in SHARES:
        for found, every, count in ((by_value, all_values, 8), (by_row, all_rows, 2 * rows)):
            ids, values = rng.integers(0, num_tokens, count), rng.normal(size=[count, 3])
            every += list(zip(ids, values.astype(np.float32), strict=True))
            found.append(
                tf.IndexedSlices(
                    tf.constant(values, tf.float32), tf.constant(ids), tf.constant([num_tokens, 3])
                )
            )
    exchange, sent = Exchange(len(SHARES)), []
    for place, rows in enumerate(SHARES):
        gradients = [by_value[place], tf.ones([2]), by_row[place]]
        sent.append(exchange.packed([], gradients, share(rows, num_values=8), place))
        if place == 0:  # as XLA wants it, they have the same shapes
            first = exchange.unpacked([tf.zeros_like(part) for part in sent[0]])[1]
    summed = [tf.add_n(parts) for parts in zip(*sent, strict=True)]
    _, (values, dense, rows_) = exchange.unpacked(summed)
    assert first[2].values.shape == rows_.values.shape
    np.testing.assert_array_equal(dense, [2, 2])
    for found, every in ((values, all_values), (rows_, all_rows)):
        real = [i for i, own in enumerate(found.indices.numpy()) if own < num_tokens]
        assert len(real) == len(every)
        for i, (own, wanted) in zip(real, every, strict=True):
            assert found.indices.numpy()[i] == own
            np.testing.assert_array_equal(found.values.numpy()[i], wanted)
