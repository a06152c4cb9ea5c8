"""Gradients by rows that devices exchange."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from harness.engine.exchange import Exchange
from harness.pipeline.batch import Share
from harness.pipeline.plan import shares_of

CAPACITY = 128


def share(place: int, batch_rows: int) -> Share:
    rows = shares_of(batch_rows, 2)[place]
    splits = tf.zeros([rows + 1], tf.int32)
    return Share(
        inputs={"ids": {"values": tf.zeros([CAPACITY], tf.int32), "row_splits": splits}},
        rowids={},
        labels=tf.zeros([rows]),
        weights=tf.ones([rows]),
        among={},
    ).within(batch_rows, 2, place)


def by_rows(count: int, num_tokens: int) -> tf.IndexedSlices:
    rng = np.random.default_rng()
    ids, values = rng.integers(0, num_tokens, count), rng.normal(size=[count, 3])
    shape = tf.constant([num_tokens, 3])
    return tf.IndexedSlices(tf.constant(values, tf.float32), tf.constant(ids), shape)


@pytest.mark.parametrize("num_tokens", [7, 2**26])
def test_gradients_by_rows_are_those_of_all_devices(num_tokens: int) -> None:
    given = [by_rows(CAPACITY, num_tokens) for _ in range(2)]
    exchange = Exchange(2)
    sent = [
        exchange.packed([], [given[place], tf.ones([2])], share(place, 6), place)
        for place in range(2)
    ]
    summed = [tf.add_n(parts) for parts in zip(*sent, strict=True)]
    _, (found, dense) = exchange.unpacked(summed)
    np.testing.assert_array_equal(dense, [2, 2])
    np.testing.assert_array_equal(found.indices, tf.concat([g.indices for g in given], axis=0))
    np.testing.assert_array_equal(found.values, tf.concat([g.values for g in given], axis=0))


@pytest.mark.parametrize("batch_rows", [1, 3, 5, 129, 65, 139])
@pytest.mark.parametrize(
    "count",
    [
        lambda rows: CAPACITY,
        lambda rows: rows,
        lambda rows: 2 * CAPACITY,
        lambda rows: CAPACITY + rows,
        lambda rows: 512,
    ],
    ids=["of ids", "of rows", "twice of ids", "of ids and of rows", "of positions"],
)
def test_all_devices_send_the_same_shapes(count: Callable[[int], int], batch_rows: int) -> None:
    shapes = []
    for place in range(2):
        own = share(place, batch_rows)
        gradient = by_rows(count(own.weights.shape[0] or 1), 50)
        (sent,) = Exchange(2).packed([], [gradient], own, place)
        shapes.append(sent.shape)
    assert shapes[0] == shapes[1]


def test_what_follows_from_the_ids_alone_is_sent_by_rows_from_unequal_shares() -> None:
    for place in range(2):
        (sent,) = Exchange(2).packed([], [by_rows(CAPACITY, 50)], share(place, 139), place)
        assert sent.shape == [2, CAPACITY * (2 + 3)]
