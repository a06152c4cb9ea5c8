"""Rows in the containers of other packages."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse
import tensorflow as tf

import harness
from harness import InputError, RaggedSets, as_examples
from harness.data.containers import without_labels

_ROWS = [[3, 1, 4], [], [1, 5], [9]]
_LABELS = [1, 0, 0, 1]


class _Indexed:
    """A data set as PyTorch has them, without an iterator."""

    def __len__(self) -> int:
        return len(_ROWS)

    def __getitem__(self, row: int) -> Any:
        return np.array(_ROWS[row], np.int64), _LABELS[row]


def _ragged() -> tf.RaggedTensor:
    return tf.ragged.constant(_ROWS, tf.int64)


def _sparse(rows: list[list[int]] = _ROWS) -> scipy.sparse.csr_array:
    splits = np.cumsum([0, *map(len, rows)])
    return scipy.sparse.csr_array((np.ones(splits[-1]), np.concatenate(rows), splits))


def _numbered() -> tf.data.Dataset:
    types = tf.TensorSpec([None], tf.int64), tf.TensorSpec([], tf.int32)
    return tf.data.Dataset.from_generator(
        lambda: zip(_ROWS, _LABELS, strict=True), output_signature=types
    )


def _slices() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((_ragged(), _LABELS))


_CONTAINERS: dict[str, Callable[[], Any]] = {
    "lists": lambda: (_ROWS, _LABELS),
    "arrays": lambda: ([*map(np.array, _ROWS)], np.array(_LABELS) == 1),
    "object array": lambda: (np.array(_ROWS, object), _LABELS),
    "sets": lambda: ([*map(set, _ROWS)], np.array(_LABELS)[:, None]),
    "CSR": lambda: (_sparse(), _LABELS),
    "COO": lambda: (_sparse().tocoo(), _LABELS),
    "DOK": lambda: (_sparse().todok(), _LABELS),
    "RaggedTensor": lambda: (_ragged(), tf.constant(_LABELS)),
    "Arrow array": lambda: (pa.array(_ROWS), pa.array(_LABELS)),
    "Arrow chunks": lambda: (pa.chunked_array([_ROWS[:1], _ROWS[1:]]), _LABELS),
    "Arrow table": lambda: pa.table({"ids": _ROWS, "label": _LABELS}),
    "Arrow reader": lambda: pa.table({"ids": _ROWS, "label": _LABELS}).to_reader(),
    "tf.data rows": _slices,
    "tf.data batches": lambda: _slices().batch(3),
    "tf.data tensors": _numbered,
    "iterator": lambda: zip(_ROWS, _LABELS, strict=True),
    "PyTorch": _Indexed,
    "DataLoader": lambda: iter([[_ROWS[:3], np.array(_LABELS[:3])], [_ROWS[3:], [_LABELS[3]]]]),
    "rows of a table": lambda: iter(pa.table({"ids": _ROWS, "label": _LABELS}).to_pylist()),
    "rows of tensors": lambda: tf.data.Dataset.from_tensor_slices(
        {"ids": _ragged(), "label": _LABELS}
    ),
    "batches of lists": lambda: iter([(_ROWS[:3], _LABELS[:3]), (_ROWS[3:], _LABELS[3:])]),
    "sparse batches": lambda: iter([(_sparse(), _LABELS)]),
}


@pytest.mark.parametrize("container", _CONTAINERS)
def test_a_container_has_the_rows_of_ragged_sets(container: str) -> None:
    examples = as_examples(_CONTAINERS[container]())
    (sets,) = examples.ragged.values()
    found = [sorted(row.tolist()) for row in sets]
    assert (found, sets.weights) == ([*map(sorted, _ROWS)], None)
    assert np.asarray(examples.labels).tolist() == _LABELS


@pytest.mark.parametrize("package", ["pandas", "polars", "datasets"])
def test_frames(package: str) -> None:
    module = pytest.importorskip(package)
    make = module.Dataset.from_dict if package == "datasets" else module.DataFrame
    frame = make({"items": _ROWS, "tag": ["b", "a", "a", "b"]})
    examples = as_examples(frame)
    assert as_examples((frame["items"], frame["tag"])).fingerprint == examples.fingerprint
    assert [row.tolist() for row in examples.inputs[""]] == _ROWS  # type: ignore[attr-defined]
    assert (examples.labels.tolist(), examples.class_names) == (_LABELS, ("a", "b"))  # type: ignore[union-attr]
    if package == "datasets":
        changed = frame.with_transform(lambda rows: {**rows, "items": [[7]] * len(rows["tag"])})
        assert as_examples(changed).ragged[""].values.tolist() == [7, 7, 7, 7]
        return
    assert as_examples(frame["items"], frame[["tag"]]).fingerprint == examples.fingerprint
    if package == "polars":
        lazy = module.LazyFrame({"items": _ROWS, "tag": ["b", "a", "a", "b"]})
        lazy = lazy.with_columns(module.col("tag").cast(module.Categorical))
        assert as_examples(lazy).labels.tolist() == _LABELS  # type: ignore[union-attr]
        assert as_examples(lazy).inputs[""].fingerprint == examples.inputs[""].fingerprint  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(lambda: [[0], [2], [], [1, 2]], id="lists"),
        pytest.param(lambda: np.array([[0], [2], [], [1, 2]], object), id="object array"),
        pytest.param(lambda: [np.array([0]), (2,), (), {1, 2}], id="arrays and tuples"),
        pytest.param(lambda: _sparse([[0], [2], [], [1, 2]]), id="sparse"),
        pytest.param(lambda: pa.array([[0], [2], [], [1, 2]]), id="Arrow"),
        pytest.param(lambda: tf.ragged.constant([[0], [2], [], [1, 2]]), id="RaggedTensor"),
    ],
)
def test_labels_of_several_classes(labels: Callable[[], Any]) -> None:
    found = as_examples(_ROWS, labels()).labels
    assert isinstance(found, RaggedSets)
    assert [row.tolist() for row in found] == [[0], [2], [], [1, 2]]


@pytest.mark.parametrize("labels", [[0, 2, 1, 2], [[False], [True], [True], [False]]])
def test_labels_in_an_array_of_objects(labels: Any) -> None:
    """They are numbers, such as those of a frame's column. Unlabelled sets do not limit them to two
    classes."""
    rows = RaggedSets.from_lists(_ROWS)
    found = as_examples(rows, np.array(labels, object)).labels
    np.testing.assert_array_equal(found, np.ravel(labels))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "labels", [[[1, 0], [0, 1], [1, 1], [0, 0]], pa.table({"a": [1, 0, 1, 0], "b": [0, 1, 1, 0]})]
)
def test_a_matrix_of_classes(labels: Any) -> None:
    """Nested lists of zeros and ones are a matrix, as for NumPy, not class numbers."""
    found = as_examples(_ROWS, labels).labels
    np.testing.assert_array_equal(found, [[1, 0], [0, 1], [1, 1], [0, 0]])  # type: ignore[arg-type]


def test_a_table_of_several_columns() -> None:
    """The column of lists is that of ids, whatever the names; rows to predict for need no label."""
    table = pa.table({"text": ["a", "b"], "history": [[1], [2, 3]], "target": ["no", "yes"]})
    examples = as_examples(table)
    assert [row.tolist() for row in examples.ragged[""]] == [[1], [2, 3]]
    assert examples.class_names == ("no", "yes")
    assert without_labels(table.drop(["target"])).labels is None
    with pytest.raises(InputError, match=r"2 columns of lists .* table\[\.\.\.\]"):
        as_examples(table.append_column("other", [[[1], [2]]]))


def test_a_column_of_int32_is_not_copied() -> None:
    column = pa.array([[7], [1, 5], [4]], pa.list_(pa.int32()))
    (found,) = as_examples(pa.table({"ids": column}).slice(1)).ragged.values()
    assert np.shares_memory(found.values, np.asarray(column.values))
    assert [row.tolist() for row in found] == [[1, 5], [4]]


def test_weights_beside_rows_that_are_examples_already() -> None:
    sets = RaggedSets.from_lists(_ROWS, labels=_LABELS)
    with pytest.raises(InputError, match="a tuple of 3 parts, and weights beside it"):
        as_examples((_ROWS, _LABELS, [1, 2, 3, 4]), weights=[1, 2, 3, 4])
    with pytest.raises(InputError, match="rows have their own num_tokens; leave out 99"):
        as_examples(sets, num_tokens=99)
    examples = as_examples(sets, weights=[1, 2, 3, 4])
    assert examples.labels is sets.labels
    np.testing.assert_array_equal(examples.weights, [1, 2, 3, 4])  # type: ignore[arg-type]


def test_several_inputs_and_weights_in_batches() -> None:
    """Batches of a data set are joined, each input by itself."""
    numbers, weights = np.arange(8.0).reshape(4, 2), [1.0, 2.0, 0.5, 1.0]
    inputs = {"ids": _ragged(), "numbers": numbers}
    batches = tf.data.Dataset.from_tensor_slices((inputs, _LABELS, weights)).batch(3)
    examples = as_examples(batches)
    assert [row.tolist() for row in examples.ragged["ids"]] == _ROWS
    np.testing.assert_array_equal(examples.dense["numbers"], numbers)
    np.testing.assert_array_equal(examples.weights, weights)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches_of_rows_without_labels(size: int) -> None:
    """Two rows of a batch are no rows and labels."""
    batches = (_ROWS[start : start + size] for start in range(0, len(_ROWS), size))
    assert [row.tolist() for row in without_labels(batches).ragged[""]] == _ROWS


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["a text"],
            r"rows are given as list of str \(row 0\); .* harness\.load numbers the words",
        ),
        (pa.table({"text": ["a", "b"], "label": [0, 1]}), "0 columns of lists .* harness.load"),
        (([[1], [2]], ["a", None]), "row 1 has the label None among names"),
        (([[1], [2]], ["a", np.nan]), "row 1 has the label nan among names"),
        ([[1], None], r"rows are given as list of NoneType \(row 1\)"),
        ([b"ab", b"c"], "a row is bytes; give lists of ids"),
        ([{1: 2.0}, {3: 1.0}], r"a row is dict; .*DictVectorizer makes"),
        ([[0, 1, 1], [1, 0, 0]], r"3 numbers, which are 0 or 1, .*csr_array\(rows\)"),
        (iter([(scipy.sparse.coo_array(np.arange(3)), 1)]), r"the shape \(3,\); give rows"),
        (pa.array([[1], None]), "rows: 1 rows are null; give them empty lists"),
        ([["a"], ["b"]], "a row holds lists, vectors or strings; give"),
        ({"train": pa.table({"ids": [[1]]})}, "train are given as Table; give lists of ids"),
        (5, "rows are given as int; give lists"),
        (np.eye(3, dtype=int), r"ndarray \[3, 3\]; give scipy\.sparse\.csr_array"),
        (iter([]), "has no rows; give at least one"),
        ((_ROWS, _LABELS, _LABELS, _LABELS), "a tuple of 4 parts; give"),
        (iter([([1], 0, 1.0, 2)]), "a tuple of 4 parts; give"),
        (
            enumerate(zip(_ROWS, _LABELS, strict=True)),
            "an element holds .* give each row's ids, label",
        ),
        ((_ROWS, np.ma.array(_LABELS, mask=[0, 1, 0, 0])), "rows have masked labels"),
        (iter([([1], 0), ([1], 0, 1.0)]), "tuples of 2 to 3 parts; give each row as many"),
        ([[[1, 2], [3]], [[1], [2]]], "a row holds lists, vectors or strings; give a list of rows"),
        ([np.eye(3, dtype=int)], "a row holds lists, vectors or strings; give a list of rows"),
        (
            ([[1], [2]], [[[1, 2]], [[3]]]),
            "a row holds lists, vectors or strings; give a list of rows",
        ),
    ],
)
def test_rows_that_are_no_ids(rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_examples(rows)


def test_rows_of_a_data_set() -> None:
    """The first row may be empty, which is no row of floats; an infinite data set is refused."""
    examples = as_examples(iter([([], 0), ([3], 1)]))
    assert [row.tolist() for row in examples.ragged[""]] == [[], [3]]
    with pytest.raises(InputError, match="is infinite; call its method take"):
        as_examples(_slices().repeat())
    with pytest.raises(InputError, match="ndarray of SparseTensor"):
        as_examples(iter([(tf.SparseTensor([[0, 3]], [1.0], [1, 10]), 1)]))


def test_ragged_sets_are_a_sequence() -> None:
    sets = RaggedSets.from_lists(_ROWS, labels=_LABELS)
    assert (len(sets), sets.num_tokens, sets[-1].tolist()) == (4, 10, [9])
    assert [row.tolist() for row in sets[::2]] == [_ROWS[0], _ROWS[2]]
    assert sets[np.array(_LABELS) == 1].labels.tolist() == [1, 1]
    assert "4 rows, 6 ids below 10" in sets._repr_html_()


def test_the_names_of_classes_stay_with_the_trainer() -> None:
    """The rows of an evaluation may lack a class of the training."""

    def model(inputs: Any) -> Any:
        return harness.MultiHotDense(1, num_tokens=10, kernel_initializer="zeros")(inputs)

    named = np.array(["no", "yes"])[_LABELS]
    trainer = harness.Trainer(model, batch_size=2)
    trainer.fit((_ROWS, named), validation=(_ROWS[:1], ["yes"]), verbose=False)
    assert trainer.class_names == ("no", "yes")
    found = trainer.evaluate((_ROWS[:1], ["yes"]))
    assert found == trainer.evaluate(RaggedSets.from_lists(_ROWS[:1], labels=[1], num_tokens=10))
    with pytest.raises(InputError, match=r"row 1 has the label 'maybe', .* are no, yes"):
        trainer.evaluate((_ROWS[:2], ["no", "maybe"]))
    assert trainer.predict((_ROWS, ["?"] * 4)).shape == (4, 1)
    with pytest.raises(InputError, match=r"the classes maybe, no, and the model .* on no, yes"):
        trainer.fit(as_examples(_ROWS[:2], ["no", "maybe"]), verbose=False)
    trainer.fit((_ROWS, ["yes"] * 4), verbose=False)
    assert trainer.class_names == ("no", "yes")
    with pytest.raises(InputError, match="row 0 has the label -3"):
        harness.Trainer(model, task="regression").fit((_ROWS, [-3, 1, 2, 0]))
    regression = harness.Trainer(model, task="regression", precision="float32")
    assert regression.evaluate((_ROWS, [-1.0, 1.0, 1.0, -3.0]))["loss"] == pytest.approx(3)


def test_the_values_of_a_matrix_are_weights() -> None:
    """Entries of one place add up, be they ones; of a matrix of booleans True is 1."""
    counts = scipy.sparse.csr_matrix([[0, 1, 1], [0, 0, 0]])
    twice = scipy.sparse.csr_matrix((np.ones(3, bool), [2, 1, 2], [0, 3]), shape=(1, 3))
    for matrix, weights in ((counts, None), (counts * 7, [7, 7]), (twice, [1, 2])):
        sets = RaggedSets.from_scipy(matrix)
        assert (sets.num_tokens, sets.row(0).tolist()) == (3, [1, 2])
        assert weights == (None if sets.weights is None else sets.weights.tolist())
    with pytest.raises(InputError, match="the matrix: row 0 holds the weight nan"):
        RaggedSets.from_scipy(counts * np.nan)
