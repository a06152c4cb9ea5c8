"""The third pass of a build: tokens become ids, in the files of a store."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.data import store
from harness.data.build.blocks import NumberedBlock
from harness.data.build.rows import Rows
from harness.data.ragged import RaggedSets
from harness.data.vocabulary import Vocabulary

Blocks = Callable[[], Iterator[NumberedBlock]]
"""Gives all blocks, in order, any number of times."""


def write(
    rows: Rows, vocabulary: Vocabulary, blocks: Blocks, folder: Path, *, unique: bool
) -> tuple[int, int]:
    """Writes the arrays of a store, test rows first.

    Args:
        rows: of all blocks.
        vocabulary: of their tokens.
        blocks: gives the blocks, the same each time that it is called.
        folder: to write into.
        unique: whether to keep each id of a row once; those with weights are in any case.

    Returns:
        How many tokens there were, and how many of them are not in the vocabulary.
    """
    lengths = []
    num_tokens = num_unknown = 0
    has_weights = rows.has_weights or vocabulary.is_weighted
    with ExitStack() as closing:
        values = closing.enter_context(store.NpyFile(folder / "values.npy", np.int32))
        weights: store.NpyFile | None = None
        if has_weights:
            weights = closing.enter_context(store.NpyFile(folder / "weights.npy", np.float32))
        for part in (rows.test, rows.train):
            for block, chosen in chosen_rows(blocks, part):
                sets = with_ids(block, vocabulary).take(chosen)
                num_tokens += sets.nnz
                if vocabulary.unknown_id is not None:
                    num_unknown += int((sets.values == vocabulary.unknown_id).sum())
                if vocabulary.start_id is not None:
                    sets = _with_start(sets, vocabulary.start_id)
                if rows.has_weights:
                    sets = sets.with_weights()
                sets = vocabulary.weighted(sets)
                sets = sets.unique() if unique or has_weights else sets
                values.append(sets.values)
                if weights is not None:
                    assert sets.weights is not None
                    weights.append(sets.weights)
                lengths.append(sets.lengths)
    labels = rows.labels_of(np.concatenate([np.flatnonzero(rows.test), np.flatnonzero(rows.train)]))
    arrays = {"row_splits": np.concatenate([[0], np.cumsum(np.concatenate(lengths))]), **labels}
    for name, array in arrays.items():
        with store.NpyFile(folder / f"{name}.npy", array.dtype) as file:
            file.append(array)
    return num_tokens, num_unknown


def chosen_rows(
    blocks: Blocks, chosen: npt.NDArray[np.bool_]
) -> Iterator[tuple[NumberedBlock, npt.NDArray[np.int64]]]:
    """The blocks that have rows among the chosen ones, and which of a block's rows those are."""
    start = 0
    for block in blocks():
        stop = start + block.num_rows
        found = np.flatnonzero(chosen[start:stop])
        if found.size:
            yield block, found
        start = stop


def with_ids(block: NumberedBlock, vocabulary: Vocabulary) -> RaggedSets:
    """The rows of a block by the ids of a vocabulary, each as often as it occurs."""
    values = block.values
    if block.tokens is not None:
        values = vocabulary.ids_of(block.tokens)[values]
    return RaggedSets(
        values=values,
        row_splits=block.row_splits,
        num_tokens=vocabulary.num_tokens,
        name="a block",
        weights=block.weights,
    )


def _with_start(sets: RaggedSets, start_id: int) -> RaggedSets:
    values = np.insert(sets.values, sets.row_splits[:-1], np.int32(start_id))
    return sets.derived(values=values, row_splits=sets.row_splits + np.arange(sets.num_rows + 1))
