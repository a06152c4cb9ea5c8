"""Rows in the containers of other packages, as `Examples`.

Frames, columns and Arrow's own tables are read by Arrow's PyCapsule interface, which pandas, polars
and others have: https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.base.errors import InputError, in_python
from harness.data.examples import Examples
from harness.data.options import BuildOptions
from harness.data.ragged import RaggedSets
from harness.data.readers.columns import choose

_MOST_NAMED = 10
_SAMPLE_ROWS = 200


@in_python()
def as_examples(
    rows: Any,
    labels: Any = None,
    weights: Any = None,
    *,
    num_tokens: int | None = None,
    class_names: Sequence[Any] = (),
    name: str = "rows",
) -> Examples:
    """Returns rows and labels in any container as examples.

    Args:
        rows: one of these, or a mapping from the names of a model's inputs to several of them:

            - lists, sets or arrays of ids;
            - a SciPy sparse matrix, whose values are weights unless all are 1;
            - a tf.RaggedTensor;
            - a column of lists of pandas, polars, Arrow or Hugging Face's datasets;
            - a frame or table of these with such a column, and one of labels if `labels` is None;
            - a tf.data.Dataset, a PyTorch data set or an iterator of rows, or of ragged or sparse
              batches; each with its label, and perhaps its weight, if `labels` is None. It is read
              once;
            - `RaggedSets` or `Examples`;
            - a tuple of rows and labels, or of rows, labels and weights, as Keras takes them.
        labels: one for each row: class numbers, booleans, or names, which are strings or any
            integers of which some are negative, such as -1 and 1; 0 and 1 for each class [B, K],
            dense or sparse; class numbers of each row, as lists or ragged; or floats. Shape [B] or
            [B, 1].
        weights: weights of the rows' losses, [B].
        num_tokens: V; None is one more than the highest id.
        class_names: the names of the classes; none to find them among the labels.
        name: the rows' name in messages.

    Raises:
        InputError: if the rows are texts or no container of ids, or labels do not fit them.
    """
    if isinstance(rows, tuple) and labels is None and len(rows) in (2, 3):
        rows, labels, weights = (*rows, None)[:3]
    if isinstance(rows, Examples | RaggedSets) and labels is None and weights is None:
        return Examples.of(rows)
    if labels is None and not isinstance(rows, Mapping):
        rows, labels, weights = _parts(rows, weights)
    if isinstance(rows, Mapping):
        inputs = {n: _input(part, n, num_tokens) for n, part in rows.items()}
    elif isinstance(rows, np.ndarray) and rows.ndim > 1:
        raise InputError(
            f"{name} are given as ndarray {list(rows.shape)}; give scipy.sparse.csr_array(rows) if "
            "its columns are ids, or list(rows) if its numbers are"
        )
    else:
        inputs = {"": _sets(rows, name, num_tokens)}
    if labels is not None:
        labels, class_names = _labels(labels, class_names, name)
    return Examples(
        inputs=inputs,
        labels=labels,
        weights=None if weights is None else np.asarray(weights),
        class_names=tuple(class_names),
        name=name,
    )


def _parts(rows: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Returns the rows, labels and weights of a frame, a data set or an iterator; other rows
    unchanged, without labels."""
    table = _arrow(rows)
    if table is not None and hasattr(table, "column_names"):
        return *_columns(table), weights
    is_plain = isinstance(rows, list | np.ndarray) or _is_batch(rows) or table is not None
    if is_plain or not (hasattr(rows, "__iter__") or hasattr(rows, "__getitem__")):
        return rows, None, weights
    # A PyTorch data set has no __iter__, and an end at its length only.
    numbered = hasattr(rows, "__len__") and not hasattr(rows, "__iter__")
    read = [*(map(rows.__getitem__, range(len(rows))) if numbered else rows)]
    if not read:
        raise InputError(f"{type(rows).__name__} has no rows; give at least one")
    if not isinstance(read[0], tuple):
        return _joined(read, _is_batch(read[0])), None, weights
    parts = [_joined([*part], _is_batch(read[0][0])) for part in zip(*read, strict=True)]
    return tuple((*parts, weights)[:3])


def _joined(parts: list[Any], is_batched: bool) -> Any:
    """Returns the rows or labels of an iterator's elements, which are single rows or batches."""
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts], is_batched) for name in first}
    if _is_batch(first):
        sets = [_sets(part, "a batch", None) for part in parts]
        limit = max(part.num_tokens for part in sets)
        return RaggedSets.concatenate([s.derived(num_tokens=limit) for s in sets], name="rows")
    arrays = [np.asarray(part) for part in parts]
    if is_batched:
        return np.concatenate(arrays)
    return np.stack(arrays) if arrays[0].dtype.kind == "f" or not arrays[0].ndim else arrays


def _is_batch(rows: Any) -> bool:
    if isinstance(rows, Mapping):
        return any(map(_is_batch, rows.values()))
    return isinstance(rows, RaggedSets) or hasattr(rows, "tocsr") or hasattr(rows, "row_splits")


def _columns(table: Any) -> tuple[Any, Any]:
    """Returns the column of ids of an Arrow table, and that of labels, if there is one."""
    lists = [n for n in table.column_names if _is_list(table.schema.field(n).type)]
    if len(table.column_names) == 1 and lists:
        return table.column(0), None
    sample = table.slice(0, _SAMPLE_ROWS).to_pylist()
    cells = [[*map(str, row.values())] for row in sample]
    content, label = choose("the table", table.column_names, cells, BuildOptions())
    return table.column(content), table.column(label)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _arrow(rows: Any) -> Any:
    """Returns a frame as an Arrow table, and a column as an array; None for other objects."""
    import pyarrow as pa

    if hasattr(rows, "with_format") and hasattr(rows, "column_names"):  # datasets.Dataset
        return rows.with_format("arrow")[:]
    if hasattr(rows, "__arrow_c_stream__"):
        is_table = hasattr(rows, "columns") or hasattr(rows, "column_names")
        return pa.table(rows) if is_table else pa.chunked_array(rows).combine_chunks()
    return rows if isinstance(rows, pa.Array) else None


def _input(rows: Any, name: str, num_tokens: int | None) -> Any:
    """Returns a named input of a model: ragged sets, or numbers [B, features] as they are."""
    is_matrix = isinstance(rows, np.ndarray) and rows.dtype != object and rows.ndim == 2
    return rows if is_matrix else _sets(rows, name, num_tokens)


def _sets(rows: Any, name: str, num_tokens: int | None) -> RaggedSets:
    if isinstance(rows, RaggedSets):
        return rows
    parts = {"name": name} | ({} if num_tokens is None else {"num_tokens": num_tokens})
    if hasattr(rows, "tocsr"):
        return RaggedSets.from_scipy(rows, **parts)
    if hasattr(rows, "row_splits"):
        return RaggedSets.from_ragged(rows, **parts)
    column = _arrow(rows)
    if column is not None and _is_list(column.type):
        if column.null_count:
            raise InputError(f"{name}: {column.null_count:,} rows are null; give them empty lists")
        splits = np.asarray(column.offsets)
        values = np.asarray(column.values)[splits[0] : splits[-1]]
        return RaggedSets.from_csr(values, splits - splits[0], **parts)
    if column is None and isinstance(rows, list | np.ndarray):
        if not any(isinstance(row, str) or not hasattr(row, "__iter__") for row in rows):
            return RaggedSets.from_lists(rows, **parts)
        given = f"{type(rows).__name__} of {type(rows[0]).__name__}"
    else:
        given = type(rows).__name__ if column is None else f"a column of {column.type}"
    raise InputError(
        f"{name} are given as {given}; give lists of ids, a SciPy matrix, a tf.RaggedTensor, a "
        "column of lists or harness.RaggedSets; of texts, harness.load numbers the words"
    )


def _labels(labels: Any, class_names: Sequence[Any], name: str) -> tuple[Any, Sequence[Any]]:
    """Returns labels as `Examples` takes them, and the names of their classes."""
    if hasattr(labels, "tocsr") or hasattr(labels, "row_splits"):
        return _sets(labels, f"{name}' labels", None), class_names
    if (column := _arrow(labels)) is not None:
        if _is_list(column.type):
            return _sets(column, f"{name}' labels", None), class_names
        labels = column.to_numpy(zero_copy_only=False)
    if isinstance(labels, list) and any(isinstance(label, list | set) for label in labels):
        return _sets(labels, f"{name}' labels", None), class_names
    array = np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype == bool:
        array = array.astype(np.int32)
    is_named = array.dtype.kind in "UO" or (array.dtype.kind == "i" and (array < 0).any())
    if array.ndim != 1 or not (is_named or class_names):
        return array, class_names
    names = np.array(class_names) if class_names else np.unique(array)
    places = np.searchsorted(names, array).clip(max=len(names) - 1)
    if (unknown := names[places] != array).any():
        listed = ", ".join(map(str, names[:_MOST_NAMED]))
        raise InputError(
            f"{name}: row {unknown.argmax()} has the label {array[unknown].tolist()[0]!r}, and the "
            f"classes are {listed}; give labels of these, or train with all"
        )
    return places.astype(np.int32), tuple(names.tolist())
