"""Gradients by rows that devices exchange."""

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from harness.base.errors import InputError
from harness.feed.batch import Share
from harness.feed.plan import shares_of
from harness.program.exchange import Gradients, packed

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
    own, other = (packed(of_weights(given[p], tf.ones([2])), share(p, 6)) for p in range(2))
    assert own.gathered == [True, False]
    rows, of_all = zip(own.sent, other.sent, strict=True)
    found, dense = own.unpack([tf.stack(rows), tf.add_n(of_all)]).weights
    np.testing.assert_array_equal(dense, [2, 2])
    np.testing.assert_array_equal(found.indices, tf.concat([g.indices for g in given], axis=0))
    np.testing.assert_array_equal(found.values, tf.concat([g.values for g in given], axis=0))


def of_the_ids(own: Share) -> tf.Tensor:
    return own.inputs["ids"]["values"] % 50


def as_many_as(count: int) -> Callable[[Share], tf.Tensor]:
    return lambda own: tf.constant(np.random.default_rng().integers(0, 50, count))


def beside_the_ids(own: Share) -> tf.Tensor:
    """A bias for each row besides the ids; the rows' number is a constant, like every shape."""
    return tf.concat([of_the_ids(own), tf.fill(own.weights.shape, 7)], axis=0)


def one_a_row(own: Share) -> tf.Tensor:
    return of_the_ids(own)[: own.weights.shape[0]]


def places_within_a_row(own: Share) -> tf.Tensor:
    return own.inputs["ids"]["values"] - tf.compat.v1.placeholder(tf.int32, [CAPACITY])


@pytest.mark.parametrize(
    ("indices", "batch_rows", "is_refused"),
    [
        (as_many_as(CAPACITY + 1), 1, False),  # a device without a row computes on another's
        *((as_many_as(CAPACITY + 1), rows, True) for rows in (3, 5, 65, 129, 139)),
        *((as_many_as(count), 139, True) for count in (2 * CAPACITY, 512)),
        *((of_the_ids, rows, False) for rows in (3, 65, 129, 139)),
        (lambda own: tf.tile(of_the_ids(own), [3]), 139, False),
        (beside_the_ids, 139, True),
        (one_a_row, 139, True),
        (places_within_a_row, 139, False),
        (places_within_a_row, 129, True),  # 128 ids may be twice the 64 rows of the second device
    ],
)
def test_what_follows_from_rows_is_refused_where_devices_have_unlike_numbers(
    indices: Callable[[Share], tf.Tensor], batch_rows: int, is_refused: bool
) -> None:
    """Gradients that follow from the ids alone are sent by rows."""
    refused = pytest.raises(InputError, match=f"of {batch_rows} rows does not divide")
    for place in range(2) if batch_rows != 129 else (1,):
        with tf.Graph().as_default(), refused if is_refused else contextlib.nullcontext():
            own = share(place, batch_rows)
            ids = indices(own)
            slices = tf.IndexedSlices(tf.zeros([ids.shape[0], 3]), ids, tf.constant([50, 3]))
            (sent,), *_ = packed(of_weights(slices), own)
            assert sent.shape == [ids.shape[0] * (2 + 3)]
