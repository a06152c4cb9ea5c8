"""Gradients by rows that devices exchange."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from harness.base.errors import InputError
from harness.feed.batch import Share
from harness.feed.plan import shares_of
from harness.program.exchange import Gradients, packed, unpacked

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


def of_weights(*gradients: tf.Tensor | tf.IndexedSlices) -> Gradients:
    return Gradients([*gradients], [], [], ())


@pytest.mark.parametrize("num_tokens", [7, 2**26])
def test_gradients_by_rows_are_those_of_all_devices(num_tokens: int) -> None:
    given = [by_rows(CAPACITY, num_tokens) for _ in range(2)]
    sent, layouts = zip(
        *(packed(of_weights(given[p], tf.ones([2])), share(p, 6)) for p in range(2)), strict=True
    )
    assert layouts[0].gathered == [True, False]
    rows, of_all = zip(*sent, strict=True)
    summed = [tf.stack(rows), tf.add_n(of_all)]
    found, dense = unpacked(summed, layouts[0]).weights
    np.testing.assert_array_equal(dense, [2, 2])
    np.testing.assert_array_equal(found.indices, tf.concat([g.indices for g in given], axis=0))
    np.testing.assert_array_equal(found.values, tf.concat([g.values for g in given], axis=0))


@pytest.mark.parametrize("batch_rows", [1, 3, 5, 65, 129, 139])
@pytest.mark.parametrize("place", [0, 1])
def test_a_gradient_of_other_rows_than_the_ids_is_refused(batch_rows: int, place: int) -> None:
    """Each device refuses, unless they are alike: a device without a row computes on another's."""
    alike = batch_rows == 1
    refused = pytest.raises(InputError, match=f"of {batch_rows} rows does not divide")
    for count in (CAPACITY + 1, 2 * CAPACITY, 512):
        with tf.Graph().as_default(), contextlib.nullcontext() if alike else refused:
            gradient = by_rows(count, 50)
            packed(of_weights(gradient), share(place, batch_rows))


@pytest.mark.parametrize("batch_rows", [3, 65, 129, 139])
@pytest.mark.parametrize("repeated", [1, 3])
def test_what_follows_from_the_ids_alone_is_sent_by_rows(batch_rows: int, repeated: int) -> None:
    for place in range(2):
        with tf.Graph().as_default():
            own = share(place, batch_rows)
            ids = tf.tile(own.inputs["ids"]["values"] % 50, [repeated])
            gradient = by_rows(repeated * CAPACITY, 50)
            gradient = tf.IndexedSlices(gradient.values, ids, gradient.dense_shape)
            (sent,), _ = packed(of_weights(gradient), own)
            assert sent.shape == [repeated * CAPACITY * (2 + 3)]


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("begins", [0, 1])
def test_what_has_a_row_for_each_id_and_each_row_is_refused(place: int, begins: int) -> None:
    """A bias for each row besides the ids is such a case; the rows' number is a constant, like
    every shape."""
    with tf.Graph().as_default():
        own = share(place, 139)
        rows = own.weights.shape[0]
        ids = own.inputs["ids"]["values"]
        ids = tf.concat([ids % 50, tf.fill([rows], 7)], axis=0) if begins else ids[:rows] % 50
        gradient = by_rows(ids.shape[0], 50)
        gradient = tf.IndexedSlices(gradient.values, ids, gradient.dense_shape)
        with pytest.raises(InputError, match="does not divide"):
            packed(of_weights(gradient), own)


def test_what_follows_from_rows_too_is_refused_where_it_may_be_of_another_size() -> None:
    """A place within a row is such a case; 128 ids may be twice the 64 rows of the second
    device."""
    with tf.Graph().as_default():
        for batch_rows in (139, 129):
            own = share(1, batch_rows)
            begins = tf.compat.v1.placeholder(tf.int32, [CAPACITY])
            gradient = by_rows(CAPACITY, 50)
            places = own.inputs["ids"]["values"] - begins
            gradient = tf.IndexedSlices(gradient.values, places, gradient.dense_shape)
            if batch_rows == 139:
                packed(of_weights(gradient), own)
            else:
                with pytest.raises(InputError, match="does not divide"):
                    packed(of_weights(gradient), own)
