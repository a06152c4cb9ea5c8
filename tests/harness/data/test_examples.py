"""Rows of several inputs: what they hold, and what is refused when they are put together."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from harness.base.errors import InputError
from harness.data.examples import Examples, num_repeated
from harness.data.ragged import RaggedSets
from tests.harness.feed.rows import random_examples
from tests.harness.random_sets import random_sets


def made(**changes: Any) -> Examples:
    parts: dict[str, Any] = {
        "inputs": {"numbers": np.arange(6).reshape(3, 2)},
        "labels": np.array([0, 1, 0]),
        "name": "mine",
    }
    return Examples(**(parts | changes))


def test_ragged_sets_are_a_models_whole_input_with_their_labels() -> None:
    sets = random_sets(np.random.default_rng(), rows=5, num_classes=3)
    examples = Examples.of(sets)
    assert examples.inputs == {"": sets}
    assert examples.labels is sets.labels
    assert (examples.num_classes, examples.name, examples.num_rows) == (3, "random", 5)
    assert examples.fingerprint == sets.fingerprint, "as a run has recorded it"
    assert Examples.of(examples) is examples
    unlabelled = RaggedSets(values=np.array([1]), row_splits=np.array([0, 1]), num_tokens=2)
    assert Examples.of(unlabelled).labels is None


def test_inputs_are_told_apart() -> None:
    examples = random_examples(np.random.default_rng(), rows=7)
    assert list(examples.ragged) == ["words", "tags"]
    assert list(examples.dense) == ["numbers"]
    assert examples.nnz == sum(sets.nnz for sets in examples.ragged.values())
    numbers = made(inputs={"flags": [[True, False], [False, False], [True, True]]}).dense["flags"]
    assert numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers, [[1, 0], [0, 0], [1, 1]])


def test_arrays_that_are_changed_later_do_not_change_the_examples() -> None:
    numbers, labels, weights = np.ones([3, 2], np.float32), np.zeros(3), np.ones(3, np.float32)
    first = made(inputs={"": numbers}, labels=labels, weights=weights)
    for array in (numbers, labels, weights):
        array += 1
    second = made(inputs={"": numbers}, labels=labels, weights=weights)
    assert (first.weights == 1).all()
    assert (second.dense[""] == 2).all()
    assert not first.is_same(second)


def test_the_fingerprint_is_that_of_the_content() -> None:
    first = made(weights=np.ones(3))
    same = made(weights=[1.0, 1.0, 1.0], name="other")
    assert first.fingerprint == same.fingerprint
    others = [
        made(),
        made(weights=[1.0, 1.0, 2.0]),
        made(weights=np.ones(3), labels=None),
        made(weights=np.ones(3), labels=[0, 1, 1]),
        made(weights=np.ones(3), inputs={"": np.arange(6).reshape(3, 2)}),
        made(weights=np.ones(3), inputs={"numbers": np.arange(3, 9).reshape(3, 2)}),
    ]
    assert len({examples.fingerprint for examples in [first, *others]}) == 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {}}, "mine has no inputs"),
        ({"inputs": {"a": np.zeros(3)}}, r"the input 'a' is float64 \[3\]; give numbers \[rows, f"),
        ({"inputs": {"a": [[0], [np.nan], [1]]}}, "row 1 of the input 'a' is not finite"),
        ({"inputs": {"a": [[0], [2**24 + 1], [1]]}}, "up to 16,777,217, which float32 rounds"),
        ({"labels": np.zeros(4)}, "differ in their number of rows: numbers 3, labels 4"),
        ({"labels": np.zeros([3, 1, 1])}, r"labels are float64 \[3, 1, 1\]"),
        ({"labels": [0.0, np.inf, 1.0]}, "labels must be finite"),
        ({"num_classes": 2, "labels": [0, 1, 2]}, "row 2 has the label 2; .* from 0 to 1"),
        (
            {"labels": RaggedSets(values=[0], row_splits=[0, 1], num_tokens=2, weights=[1.0])},
            "the labels have a weight for each class",
        ),
        ({"weights": [1.0, -1.0, 1.0]}, "finite and not negative"),
        ({"weights": ["a", "b", "c"]}, r"weights must be \[rows\], finite"),
    ],
)
def test_what_no_rows_can_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(**changes)


ROWS = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=9)


@given(others=ROWS, rows=ROWS)
def test_repeated_rows_are_those_with_the_same_ids(
    others: list[list[int]], rows: list[list[int]]
) -> None:
    first, then = (
        Examples(inputs={"": RaggedSets.from_lists(part, num_tokens=4)}) for part in (others, rows)
    )
    known = [sorted(row) for row in others]
    assert num_repeated(then, first) == sum(bool(row) and sorted(row) in known for row in rows)


def test_rows_are_compared_whatever_the_limits_of_their_ids() -> None:
    def made(rows: list[list[int]], num_tokens: int) -> Examples:
        return Examples(inputs={"": RaggedSets.from_lists(rows, num_tokens=num_tokens)})

    few, more = made([[0], [1]], 2), made([[1], [3], [0, 1]], 4)
    assert (num_repeated(more, few), num_repeated(few, more)) == (1, 1)
    large = made([[1]], 2**31 - 1)  # a table by id would take 16 GB
    assert num_repeated(large, large) == 0
