"""RaggedSets against plain Python lists and sets; each broken rule gives one message."""

import copy
import dataclasses
import itertools
import pickle
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import InputError
from harness.data.ragged import RaggedSets, rarest

Rows = list[list[int]]


def from_rows(rows: Rows, num_tokens: int = 50, **changes: Any) -> RaggedSets:
    fields: dict[str, Any] = {
        "values": np.array([token for row in rows for token in row], np.int32),
        "row_splits": np.cumsum([0, *map(len, rows)]),
        "labels": np.arange(len(rows)) % 2,
        "num_tokens": num_tokens,
        "name": "rows",
    }
    return RaggedSets(**(fields | changes))


def to_rows(sets: RaggedSets) -> Rows:
    return [sets.row(index).tolist() for index in range(sets.num_rows)]


def check_again(sets: RaggedSets) -> None:
    """Results are built without checks; they must pass them all the same."""
    fields = (field.name for field in dataclasses.fields(sets) if field.init)
    RaggedSets(**{name: getattr(sets, name) for name in fields})
    if sets.is_unique:
        assert all(len(set(row)) == len(row) for row in to_rows(sets))


def rows_below(num_tokens: int, min_rows: int = 1) -> st.SearchStrategy[Rows]:
    return st.lists(
        st.lists(st.integers(0, num_tokens - 1), max_size=12), min_size=min_rows, max_size=20
    )


@given(
    st.sampled_from([1, 2, 7, 50, 2**16, 2**31 - 1]).flatmap(
        lambda num_tokens: st.tuples(st.just(num_tokens), rows_below(num_tokens))
    )
)
def test_unique_sorts_each_rows_set(case: tuple[int, Rows]) -> None:
    num_tokens, rows = case
    unique = from_rows(rows, num_tokens).unique()
    assert to_rows(unique) == [sorted(set(row)) for row in rows]
    assert unique.is_unique
    assert unique.unique() is unique
    check_again(unique)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("id_bits", [24, 29, 30, 31])
def test_unique_where_rows_and_ids_just_fit_into_32_bits(id_bits: int, weighted: bool) -> None:
    last = 2**id_bits - 2
    for num_rows in (2 ** (32 - id_bits) + more for more in (-1, 0, 1, 2)):
        rows = [[last, 0, last]] * num_rows
        weights = np.ones(3 * num_rows) if weighted else None
        unique = from_rows(rows, last + 1, weights=weights).unique()
        assert to_rows(unique) == [[0, last]] * num_rows
        if weighted:
            np.testing.assert_array_equal(unique.weights, [1, 2] * num_rows)


@pytest.mark.parametrize("num_tokens", [10_000, 2**31 - 1])
def test_unique_of_more_ids_than_are_sorted_at_a_time(num_tokens: int) -> None:
    rng = np.random.default_rng()
    lengths = rng.integers(0, 4_000, 300)
    lengths[[0, 7, 299]] = 0, 300_000, 0
    rows = [rng.integers(0, num_tokens, length, dtype=np.int32) for length in lengths]
    unique = RaggedSets.from_lists(rows, num_tokens=num_tokens).unique()
    for row, found in zip(rows, unique, strict=True):
        np.testing.assert_array_equal(found, np.unique(row))


@given(rows_below(50), st.data())
def test_take_gives_the_rows_in_order(rows: Rows, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=30))
    sets = from_rows(rows)
    taken = sets.take(chosen)
    assert to_rows(taken) == [rows[index] for index in chosen]
    assert taken.labels.tolist() == [index % 2 for index in chosen]
    check_again(taken)


@given(rows_below(50, min_rows=2), st.data())
def test_split_and_concatenate_are_inverse(rows: Rows, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(rows) - 1))
    sets = from_rows(rows)
    head, tail = sets.split(count)
    assert to_rows(head) == rows[:count]
    assert to_rows(tail) == rows[count:]
    assert np.shares_memory(tail.values, sets.values) or tail.nnz == 0
    check_again(tail)
    for wrong in (0, len(rows)):
        with pytest.raises(InputError, match="both parts need a row"):
            sets.split(wrong)
    joined = RaggedSets.concatenate([head, tail], name="joined")
    assert to_rows(joined) == rows
    assert joined.labels.tolist() == sets.labels.tolist()
    check_again(joined)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.integers(0, 9), st.data())
def test_a_stratified_split_takes_its_share_of_each_class(
    labels: list[int], seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(labels) - 1))
    sets = from_rows([[i] for i in range(len(labels))], 60, labels=labels, num_classes=4)
    drawn, rest = sets.stratified_split(count, seed=seed)
    assert drawn.num_rows == count
    assert drawn.values.tolist() == sorted(drawn.values)
    assert rest.values.tolist() == sorted(set(range(len(labels))) - {*drawn.values.tolist()})
    for part in (drawn, rest):
        assert part.labels.tolist() == [labels[row] for row in part.values]
        check_again(part)
    for label in set(labels):
        share = labels.count(label) * count / len(labels)
        assert abs(drawn.labels.tolist().count(label) - share) <= 2
    again, _ = sets.stratified_split(count, seed=seed)
    assert drawn.fingerprint == again.fingerprint


@given(
    hnp.arrays(np.int64, st.integers(0, 8), elements=st.integers(-2, 9)),
    hnp.arrays(np.int64, st.integers(0, 5), elements=st.integers(-1, 9)),
    hnp.arrays(np.float64, st.integers(0, 4)),
)
def test_any_arrays_are_either_legal_or_refused(
    values: np.ndarray, row_splits: np.ndarray, labels: np.ndarray
) -> None:
    legal = (
        len(row_splits) >= 2
        and row_splits[0] == 0
        and row_splits[-1] == len(values)
        and all(a <= b for a, b in itertools.pairwise(row_splits))
        and all(0 <= value < 8 for value in values)
        and len(labels) == len(row_splits) - 1
        and all(abs(label) <= np.finfo(np.float32).max for label in labels)
    )
    fields: dict[str, Any] = {"values": values, "row_splits": row_splits, "labels": labels}
    if legal:
        sets = RaggedSets(**fields, num_tokens=8, name="any")
        are_classes = all(label in (0, 1) for label in labels)
        assert sets.labels.dtype == (np.int32 if are_classes else np.float32)
        assert sets.labels.tolist() == labels.astype(np.float32).tolist()
    else:
        with pytest.raises(InputError):
            RaggedSets(**fields, num_tokens=8, name="any")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": [1, 2, 3, 50]}, r"row 2 holds id 50, outside \[0, 50\).*raise num_tokens"),
        ({"values": np.array([1, -(2**40), 3, 4])}, "row 0 holds id -1099511627776"),
        ({"values": np.array([1, 2, 3, 2**63], np.uint64)}, "row 2 holds id 9223372036854775808"),
        ({"values": [1.0, 2.0, 3.0, 4.0]}, "values has dtype float64"),
        ({"values": [[1, 2], [3, 4]]}, r"values has shape \(2, 2\)"),
        ({"row_splits": [0, 3, 2, 4]}, "not monotonic: row 1 starts at 3 and ends at 2"),
        ({"row_splits": [1, 2, 3, 4]}, "goes from 1 to 4. It must go from 0 to 4"),
        ({"row_splits": np.array([], int), "labels": []}, "zero rows"),
        ({"labels": [0.5, 1e300, 1.0]}, r"label 1e\+300 of row 1 is not.*\(1 such.*finite floats"),
        (
            {"labels": [0, 1, 2]},
            r"label 2 of row 2 is not a whole number in \[0, 2\).*raise num_classes",
        ),
        ({"weights": [1, 2, np.nan, 4]}, r"row 2 holds the weight nan \(1 such weights\)"),
        ({"weights": [1, 1e300, np.inf, 4]}, r"row 0 holds the weight 1e\+300 \(2 such weights\)"),
        ({"weights": [1, 2, 3]}, "3 weights for 4 ids"),
        ({"weights": ["a"] * 4}, "weights has dtype <U1"),
        ({"num_tokens": 2**31}, "num_tokens is 2147483648"),
        ({"num_classes": 1}, "num_classes is 1; it must be a whole number from 2"),
    ],
)
def test_a_broken_rule_gives_one_message(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        from_rows([[1, 2], [], [3, 4]], **changes)
    assert str(caught.value).startswith("rows: ")


def test_nothing_can_change_what_was_checked() -> None:
    values = np.array([1, 2, 3], np.int32)
    sets = from_rows([[1], [2, 3]], values=values, weights=np.array([0.5, 2.0, 1.0]))
    values[0] = 99
    assert sets.row(0).tolist() == [1]
    copies = [pickle.loads(pickle.dumps(sets)), copy.deepcopy(sets)]
    assert {other.fingerprint for other in copies} == {sets.fingerprint}
    parts = [sets, *copies, sets.unique(), sets.take([1]), *sets.split(1)]
    for part in [*parts, RaggedSets.concatenate([sets, sets], name="twice")]:
        for array in (part.values, part.row_splits, part.labels, part.weights):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def test_a_memory_map_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "values.npy"
    np.save(path, np.array([3, 1, 3], np.int32))
    mapped = np.load(path, mmap_mode="r")
    sets = from_rows([[3, 1], [3]], values=mapped)
    assert np.shares_memory(sets.values, mapped)
    assert to_rows(sets.unique()) == [[1, 3], [3]]


def test_the_fingerprint_is_of_the_content_alone() -> None:
    sets = from_rows([[1, 2], [], [3]])
    again = RaggedSets.concatenate(sets.split(1), name="other")
    assert again.fingerprint == sets.fingerprint
    others = [
        from_rows([[1, 2], [], [4]]),
        from_rows([[1], [2], [3]]),
        from_rows([[1, 2], [], [3]], labels=[0, 1, 1]),
        from_rows([[1, 2], [], [3]], num_tokens=51),
        from_rows([[1, 2], [], [3]], num_classes=3),
        from_rows([[], []]),
        *(from_rows([[1, 2], [], [3]], weights=np.full(3, weight)) for weight in (1, 2)),
    ]
    assert len({sets.fingerprint, *(other.fingerprint for other in others)}) == 9
    # Written down, so that earlier runs and folders are still recognized.
    known = "8fad57039fa0d2398573cdbdc5a078f44d26eca9e1f33d7346d23b45f7edb8fd"
    assert from_rows([[1, 2], [3]]).fingerprint == known


def test_rows_of_several_classes_keep_them_through_every_change() -> None:
    label_sets = RaggedSets(values=[0, 1, 0, 1], row_splits=[0, 2, 2, 3, 4], num_tokens=2)
    sets = RaggedSets(
        values=[3, 1, 3, 7], row_splits=[0, 2, 2, 4, 4], label_sets=label_sets, num_tokens=8
    )
    assert sets.is_labelled
    taken = sets.take([3, 0]).label_sets
    assert taken is not None
    np.testing.assert_array_equal(taken.values, [1, 0, 1])
    head, tail = sets.split(1)
    again = RaggedSets.concatenate([head, tail], name="again")
    assert again.fingerprint == sets.fingerprint != sets.derived(label_sets=None).fingerprint
    drawn, rest = sets.stratified_split(2, seed=1)
    assert drawn.label_sets is not None
    assert rest.label_sets is not None
    assert drawn.num_rows == rest.num_rows == 2
    with pytest.raises(InputError, match="label_sets go with label_sets"):
        RaggedSets.concatenate([head, tail.derived(label_sets=None)], name="mixed")
    with pytest.raises(InputError, match=r"4 rows of 2 classes for 4 rows of 3"):
        RaggedSets(
            values=[1],
            row_splits=[0, 0, 0, 0, 1],
            label_sets=label_sets,
            num_tokens=8,
            num_classes=3,
        )


def test_each_class_has_its_share_of_a_draw_by_the_rarest_classes() -> None:
    rows = [[0], [0, 1], [0, 2], [0], [0, 1], [0], [], [0, 1], [0, 1], []]
    splits = np.cumsum([0, *map(len, rows)])
    values = np.array([token for row in rows for token in row], np.int32)
    np.testing.assert_array_equal(rarest(values, splits), [0, 1, 2, 0, 1, 0, -1, 1, 1, -1])


def to_matrix(sets: RaggedSets) -> np.ndarray:
    """[rows, num_tokens]: the sum of the weights that each row gives to each id."""
    assert sets.weights is not None
    matrix = np.zeros([sets.num_rows, sets.num_tokens])
    np.add.at(
        matrix, (np.repeat(np.arange(sets.num_rows), sets.lengths), sets.values), sets.weights
    )
    return matrix


@given(rows_below(20, min_rows=2), st.data())
def test_weights_go_with_their_ids(rows: Rows, data: st.DataObject) -> None:
    num_ids = sum(map(len, rows))
    # Multiples of 1/8: their sums are exact.
    weights = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=num_ids, max_size=num_ids)))
    sets = from_rows(rows, 20, weights=weights / 8)
    matrix = to_matrix(sets)
    unique = sets.unique()
    assert to_rows(unique) == [sorted(set(row)) for row in rows]
    np.testing.assert_array_equal(to_matrix(unique), matrix)
    taken = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9))
    np.testing.assert_array_equal(to_matrix(sets.take(taken)), matrix[taken])
    head, tail = sets.split(1)
    np.testing.assert_array_equal(to_matrix(tail), matrix[1:])
    both = RaggedSets.concatenate([head, tail], name="rows")
    np.testing.assert_array_equal(both.weights, sets.weights)
    assert both.fingerprint == sets.fingerprint
    for part in (unique, head, tail, both):
        check_again(part)
    assert sets.with_weights() is sets
    # Rows without weights hold each id once, and keep doing so beside rows with weights.
    mixed = RaggedSets.concatenate([sets, from_rows(rows, 20)], name="mixed")
    once = from_rows(rows, 20).with_weights()
    assert to_matrix(once).max(initial=0) <= 1
    assert to_rows(once) == to_rows(unique)
    np.testing.assert_array_equal(to_matrix(mixed), np.concatenate([matrix, to_matrix(once)]))


def test_sums_of_weights_beyond_float32_are_refused() -> None:
    sets = from_rows([[1], [2, 2]], weights=np.array([0, 3e38, 3e38]))
    with pytest.raises(InputError, match=r"row 1 holds the weight 6\.0\d*e\+38 \(1 such weights\)"):
        sets.unique()
