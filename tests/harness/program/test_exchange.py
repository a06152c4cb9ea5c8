"""What replicas exchange for a table: the sets and dy of all, as one replica would have them."""

import numpy as np
import pytest
import tensorflow as tf

from harness.program.exchange import Gradients, TableGradient, pack, unpack

_TOKENS, _UNITS = 2**22, 3


def part(rng: np.random.Generator, rows: int, *, weighted: bool) -> TableGradient:
    """Draws a replica's rows, whose buffer is longer than their ids."""
    lengths = rng.integers(0, 5, rows)
    splits = np.cumsum([0, *lengths]).astype(np.int32)
    values = rng.integers(0, _TOKENS, 25).astype(np.int32)
    weights = rng.normal(size=25).astype(np.float32) if weighted else None
    sets = {
        "values": tf.constant(values),
        "row_splits": tf.constant(splits),
        "weights": None if weights is None else tf.constant(weights),
        "unique": False,
        "num_tokens": _TOKENS,
    }
    dy = tf.constant(rng.normal(size=[rows, _UNITS]).astype(np.float32))
    return TableGradient(sets, dy, "gather", "float32")


@pytest.mark.parametrize("weighted", [False, True])
def test_the_rows_of_all_replicas_follow_one_another(weighted: bool) -> None:
    """The second replica has a row less, and so its last row in the exchange has no ids."""
    rng = np.random.default_rng()
    parts = [part(rng, rows, weighted=weighted) for rows in (4, 3)]
    packed = [pack(Gradients({}, {"table": own}, {}, {}), {}, 4) for own in parts]
    vectors = tf.stack([own.vectors[0] for own in packed])
    row = unpack(packed[0].of_all([], [vectors]), 4).rows["table"]
    splits, place = row.sets["row_splits"].numpy(), 0
    assert len(splits) == 2 * 4 + 1
    for own in parts:
        ends = own.sets["row_splits"].numpy()
        for number in range(len(ends) - 1):
            here = slice(splits[place], splits[place + 1])
            there = slice(ends[number], ends[number + 1])
            for name in ("values", "weights") if weighted else ("values",):
                np.testing.assert_array_equal(row.sets[name][here], own.sets[name][there])
            np.testing.assert_array_equal(row.dy[place], own.dy[number])
            place += 1
    assert splits[-1] == splits[-2]
    assert not row.dy[-1].numpy().any()


def test_sums_and_means_keep_their_names() -> None:
    """What is no float, such as a count, is left out: any replica's will do."""
    changes = {"mean": tf.constant(0.5), "count": tf.constant(3, tf.int64)}
    packed = pack(Gradients({"kernel": tf.ones([2])}, {}, {}, {}), changes, 4)
    found = packed.of_all([2 * tensor for tensor in packed.tensors], [])
    np.testing.assert_array_equal(unpack(found, 4).weights["kernel"], [2, 2])
    assert {name: float(value) for name, value in found.changes.items()} == {"mean": 1.0}
