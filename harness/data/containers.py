"""Rows in the containers of other packages, as `Examples`.

Frames, columns and Arrow's own tables are read by Arrow's PyCapsule interface, which pandas, polars
and others have: https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from harness.base.errors import InputError, in_python
from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.data.readers.columns import LABEL_NAMES, by_name

_MOST_NAMED = 10


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
            - a tf.data.Dataset, a PyTorch data set or DataLoader, or an iterator of rows, or of
              batches, which are lists of rows, ragged or sparse; each with its label, and perhaps
              its weight, if `labels` is None; or an iterator of a table's rows, as mappings. It is
              read once;
            - `RaggedSets` or `Examples`;
            - a tuple of rows and labels, or of rows, labels and weights, as Keras takes them.
        labels: one for each row: class numbers, booleans, or names, which are strings or -1
            and 1; 0 and 1 for each class [B, K], dense or sparse; class numbers of each row, as
            lists or ragged; or floats. Shape [B] or [B, 1].
        weights: weights of the rows' losses, [B].
        num_tokens: V; None is one more than the highest id.
        class_names: the names of the classes; none to find them among the labels.
        name: the rows' name in messages.

    Raises:
        InputError: if the rows are texts or no container of ids, or labels do not fit them.
    """
    rows, labels, weights = _parts(rows, labels, weights)
    if np.ma.is_masked(labels) or np.ma.is_masked(weights):
        raise InputError(f"{name} have masked labels or weights; leave these rows out")
    if num_tokens is not None and isinstance(rows, Examples | RaggedSets):
        raise InputError(f"{name} have their own num_tokens; leave out {num_tokens}")
    changes: dict[str, Any] = {}
    if labels is not None:
        labels, class_names = _labels(labels, class_names, name)
        changes = {"labels": labels, "class_names": tuple(class_names)}
        if isinstance(rows, RaggedSets) and not rows.is_labelled and rows.num_classes == 2:
            changes["num_classes"] = None  # not a number of classes that somebody chose
    if weights is not None:
        changes["weights"] = np.asarray(weights)
    examples = _examples(rows, num_tokens, name)
    return replace(examples, **changes) if changes else examples


@in_python()
def without_labels(rows: Any) -> Examples:
    """Returns rows to predict for, of which labels are not looked at; see `as_examples`."""
    return _examples(_parts(rows, None, None)[0], None, "rows")


def _examples(rows: Any, num_tokens: int | None, name: str) -> Examples:
    if isinstance(rows, Examples | RaggedSets):
        return Examples.of(rows)
    if not isinstance(rows, Mapping) or hasattr(rows, "tocsr"):  # SciPy's DOK is a mapping too
        return Examples(inputs={"": _sets(rows, name, num_tokens)}, name=name)
    inputs = {
        n: part if isinstance(part, np.ndarray) and part.ndim > 1 else _sets(part, n, num_tokens)
        for n, part in rows.items()
    }
    return Examples(inputs=inputs, name=name)


def _parts(rows: Any, labels: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Returns rows, labels and weights that are given as one object, or the rows as they are."""
    if labels is not None or isinstance(rows, Mapping | Examples | RaggedSets):
        return rows, labels, weights
    if isinstance(rows, tuple):
        return _of_tuple(rows, weights)
    table = _arrow(rows)
    if table is not None and hasattr(table, "column_names"):
        return *_columns(table), weights
    is_list = isinstance(rows, list | np.ndarray)
    if is_list and len(rows) and isinstance(rows[0], tuple):  # a row and its label, or a row's ids
        is_list = _depth(rows[0]) < 2
    is_plain = is_list or _is_batch(rows) or table is not None
    if is_plain or not (hasattr(rows, "__iter__") or hasattr(rows, "__getitem__")):
        return rows, None, weights
    if hasattr(rows, "cardinality") and rows.cardinality() == -1:
        raise InputError(f"{type(rows).__name__} is infinite; call its method take")
    # A PyTorch data set has no __iter__, and an end at its length only.
    numbered = hasattr(rows, "__len__") and not hasattr(rows, "__iter__")
    read = [*(map(rows.__getitem__, range(len(rows))) if numbered else rows)]
    if not read:
        raise InputError(f"{type(rows).__name__} has no rows; give at least one")
    first = read[0]
    is_row = isinstance(first, Mapping) and not _is_batch(first)
    if is_row and not all(map(_depth, first.values())):  # rows of a table, perhaps of tensors
        import pyarrow as pa

        read = [
            {name: np.asarray(v).tolist() if hasattr(v, "numpy") else v for name, v in row.items()}
            for row in read
        ]
        return *_columns(pa.Table.from_pylist(read)), weights
    # PyTorch's DataLoader makes lists of pairs; a list of lists of ids is a batch without labels.
    is_pair = _are_rows(first) and not all(isinstance(r, list) and _depth(r) < 2 for r in first)
    if not isinstance(first, tuple) and not is_pair:
        return _joined(read, _is_batch(first) or _are_rows(first)), None, weights
    lengths = [*map(len, read)]
    if len({*lengths}) > 1:
        raise InputError(
            f"{type(rows).__name__} gives tuples of {min(lengths)} to {max(lengths)} parts; give "
            "each row as many"
        )
    is_batched = _is_batch(first[0]) or _are_rows(first[0])
    parts = [_joined([*part], is_batched) for part in zip(*read, strict=True)]
    return _of_tuple(parts, weights)


def _are_rows(part: Any) -> bool:
    return isinstance(part, list) and _depth(part) > 1


def _depth(value: Any) -> int:
    """Returns 0 for a number or a text, 1 for a row of ids, 2 for rows."""
    if hasattr(value, "ndim") or isinstance(value, str | bytes) or not hasattr(value, "__len__"):
        return getattr(value, "ndim", 0)
    return 1 + (_depth(next(iter(value))) if len(value) else 0)


def _of_tuple(parts: Sequence[Any], weights: Any) -> tuple[Any, Any, Any]:
    if len(parts) not in (2, 3) or (len(parts) == 3 and weights is not None):
        beside = "" if weights is None else ", and weights beside it"
        raise InputError(
            f"rows are a tuple of {len(parts)} parts{beside}; give (rows, labels) or "
            "(rows, labels, weights), or rows as a list"
        )
    return parts[0], parts[1], parts[2] if len(parts) == 3 else weights


def _joined(parts: list[Any], is_batched: bool) -> Any:
    first = parts[0]
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in parts], is_batched) for name in first}
    if _is_batch(first):
        sets = [_sets(part, "a batch", None) for part in parts]
        limit = max(part.num_tokens for part in sets)
        return RaggedSets.concatenate([s.derived(num_tokens=limit) for s in sets], name="rows")
    if is_batched and _are_rows(first):
        return [row for part in parts for row in part]
    try:
        arrays = [np.asarray(part) for part in parts]
    except ValueError as error:
        raise InputError(
            f"an element holds {first!r:.100}; give each row's ids, label and perhaps weight"
        ) from error
    if is_batched:
        return np.concatenate(arrays)
    # A first row without ids is an array of floats.
    are_ids = arrays[0].dtype.kind != "f" or len({array.shape for array in arrays}) > 1
    return arrays if are_ids and arrays[0].ndim else np.stack(arrays)


def _is_batch(rows: Any) -> bool:
    if isinstance(rows, RaggedSets) or hasattr(rows, "tocsr") or hasattr(rows, "row_splits"):
        return True
    return isinstance(rows, Mapping) and any(map(_is_batch, rows.values()))


def _columns(table: Any) -> tuple[Any, Any]:
    """Returns the column of ids of an Arrow table, and that of labels, if there is one."""
    names = table.column_names
    lists = [n for n in names if _is_list(table.schema.field(n).type)]
    label = by_name(names, LABEL_NAMES)
    contents = [name for name in lists if name != label]
    if len(contents) != 1:
        raise InputError(
            f"the table has {len(contents)} columns of lists besides its labels, and its columns "
            f"are {', '.join(names)}; give rows and labels as (table[...], table[...]). "
            "harness.load numbers the words of texts in a frame of pandas or polars."
        )
    if label is None and len(names) == 2:
        label = next(name for name in names if name not in contents)
    return table.column(contents[0]), None if label is None else table.column(label)


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _arrow(rows: Any) -> Any:
    """Returns a frame as an Arrow table, and a column as an array; None for other objects."""
    import pyarrow as pa

    is_set = hasattr(rows, "with_format") and hasattr(rows, "__len__")
    if is_set and rows.format["type"] != "custom":  # a datasets.Dataset without a transform
        return rows.with_format("arrow")[:]
    source: Any = getattr(rows, "source", None)
    if hasattr(source, "select_columns"):  # datasets.Column
        rows = source.select_columns(rows.column_name).with_format("arrow")[:].column(0)
    if hasattr(rows, "collect") and hasattr(rows, "lazy"):
        rows = rows.collect()  # a LazyFrame of polars
    if hasattr(rows, "__arrow_c_stream__"):
        if hasattr(rows, "columns") or hasattr(rows, "schema"):
            return pa.table(rows)
        column = pa.chunked_array(rows)  # of one chunk, it need not be copied
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return rows if isinstance(rows, pa.Array) else None


def _sets(rows: Any, name: str, num_tokens: int | None) -> RaggedSets:
    if isinstance(rows, RaggedSets):
        return rows
    if isinstance(rows, np.ndarray) and rows.ndim > 1:
        raise InputError(
            f"{name} are given as ndarray {list(rows.shape)}; give scipy.sparse.csr_array(rows) if "
            "its columns are ids, or list(rows) if its numbers are"
        )
    parts = {"name": name} | ({} if num_tokens is None else {"num_tokens": num_tokens})
    if hasattr(rows, "tocsr"):
        return RaggedSets.from_scipy(rows, **parts)
    if hasattr(rows, "row_splits"):
        return RaggedSets.from_ragged(rows, **parts)
    column = _arrow(rows)
    kind = getattr(column, "type", None)  # None for a table
    if column is not None and kind is not None and _is_list(kind):
        if column.null_count:
            raise InputError(f"{name}: {column.null_count:,} rows are null; give them empty lists")
        splits = np.asarray(column.offsets)
        values = np.asarray(column.values)[splits[0] : splits[-1]]
        return RaggedSets.from_csr(values, splits - splits[0], **parts)
    if column is None and isinstance(rows, list | np.ndarray):
        strange = [isinstance(row, str) or not hasattr(row, "__iter__") for row in rows]
        if not any(strange):
            return RaggedSets.from_lists(rows, **parts)
        place = strange.index(True)
        given = f"{type(rows).__name__} of {type(rows[place]).__name__} (row {place})"
    else:
        given = type(rows).__name__ if kind is None else f"a column of {kind}"
    raise InputError(
        f"{name} are given as {given}; give lists of ids, a SciPy matrix, a tf.RaggedTensor, a "
        "column of lists or harness.RaggedSets; of texts, harness.load numbers the words"
    )


def _labels(labels: Any, class_names: Sequence[Any], name: str) -> tuple[Any, Sequence[Any]]:
    """Returns labels as `Examples` takes them, and the names of their classes."""
    if isinstance(labels, Mapping) and not _is_batch(labels):  # of several outputs
        found = {
            output: _labels(part, (), f"{name} of {output}") for output, part in labels.items()
        }
        for output, (part, names) in found.items():
            if names == (-1, 1):  # numbers after all
                found[output] = (2.0 * part - 1, ())
        if named := [output for output, (_, names) in found.items() if names]:
            raise InputError(
                f"{name} have labels of {', '.join(named)} that are names; give several outputs "
                "numbers: classes from 0 on, or floats"
            )
        return {output: part for output, (part, _) in found.items()}, ()
    if _is_batch(labels):
        return _sets(labels, f"{name}' labels", None), class_names
    if (column := _arrow(labels)) is not None:
        if getattr(column, "num_columns", 0) == 1:
            column = column.column(0).combine_chunks()
        if hasattr(column, "column_names"):
            labels = np.column_stack([one.to_numpy() for one in column.columns])
        elif _is_list(column.type):
            return _sets(column, f"{name}' labels", None), class_names
        else:
            is_named = hasattr(column, "dictionary")  # polars' cannot be decoded by Arrow
            labels = column.to_pylist() if is_named else column.to_numpy(zero_copy_only=False)
    if isinstance(labels, np.ndarray) and labels.dtype == object and labels.ndim:
        labels = [*(labels[:, 0] if labels.shape[1:] == (1,) else labels)]  # perhaps numbers
    if isinstance(labels, list | tuple) and any(map(_depth, labels)):
        rows = [*map(list, labels)]
        lengths, is_deep = {*map(len, rows)}, max(map(_depth, rows)) > 1
        if len(lengths) > 1 or lengths == {1} or is_deep or not {*chain(*rows)} <= {0, 1}:
            return RaggedSets.from_lists(rows, name=f"{name}' labels"), class_names
        labels = np.array(rows)  # 0 and 1 for each class
    # NumPy would make a name of None or NaN beside names.
    is_named = isinstance(labels, list | tuple) and any(isinstance(o, str | bytes) for o in labels)
    array = np.asarray(labels, object if is_named else None)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype == bool:
        array = array.astype(np.int32)
    is_text = array.dtype.kind in "USO"
    if array.ndim != 1 or not (is_text or class_names or {*np.unique(array)} in ({-1}, {-1, 1})):
        return array, class_names
    given = [one.decode() if isinstance(one, bytes) else one for one in array.tolist()]
    strange = [row for row, one in enumerate(given) if is_text and not isinstance(one, str)]
    if strange:
        raise InputError(
            f"{name}: row {strange[0]} has the label {given[strange[0]]!r} among names; give each "
            "row a string, or all rows numbers"
        )
    names = tuple(class_names) or (tuple(sorted({*given})) if is_text else (-1, 1))
    places = {one: place for place, one in enumerate(names)}
    unknown = next((row for row, one in enumerate(given) if one not in places), None)
    if unknown is not None:
        listed = ", ".join(map(str, names[:_MOST_NAMED]))
        raise InputError(
            f"{name}: row {unknown} has the label {given[unknown]!r}, and the classes are "
            f"{listed}; give labels of these, or train with all"
        )
    return np.array([places[one] for one in given], np.int32), names
