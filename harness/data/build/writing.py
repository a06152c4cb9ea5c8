"""The third pass of a build: turns tokens into ids and writes the files of a store."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.data import store
from harness.data.build.numbering import Spool
from harness.data.build.rows import Rows
from harness.data.ragged import RaggedSets, starting_with
from harness.data.tokens import Numbered
from harness.data.vocabulary import Vocabulary


def write(
    rows: Rows, vocabulary: Vocabulary, spool: Spool[Numbered], folder: Path, *, unique: bool
) -> tuple[int, int]:
    """Writes a store's arrays, test rows first; returns the number of tokens, and of unknown ones.
    With `unique`, each id of a row is kept once; ids with weights always are."""
    has_weights = rows.has_weights or vocabulary.is_weighted

    def made(block: Numbered, places: slice) -> tuple[list[RaggedSets | None], int, int]:
        """Returns a block's test rows and train rows, its number of tokens, and of unknown ones."""
        test, train = rows.test[places], rows.train[places]
        used = test | train
        if not used.any():  # or the block has no rows
            return [None, None], 0, 0
        sets = with_ids(block, vocabulary)
        if not used.all():
            sets, test = sets.take(np.flatnonzero(used)), test[used]
        num_words = block.values.size if used.all() else int(np.diff(block.row_splits)[used].sum())
        num_unknown = int((sets.values == vocabulary.unknown_id).sum())
        counts = num_words, num_unknown + num_words - sets.nnz
        if vocabulary.start_id is not None:
            sets = _with_start(sets, vocabulary.start_id)
        if rows.has_weights:
            sets = sets.with_weights()
        sets = vocabulary.weighted(sets)
        sets = sets.unique() if unique or has_weights else sets
        return [_chosen(sets, test), _chosen(sets, ~test)], *counts

    num_tokens = num_unknown = 0
    # Rows wait in temporary files: those to test on are the first of the store.
    with Spool[RaggedSets](folder) as test_rows, Spool[RaggedSets](folder) as train_rows:
        for (test, train), num_found, num_not_known in spool.map(made):
            num_tokens, num_unknown = num_tokens + num_found, num_unknown + num_not_known
            if test is not None:
                test_rows.add(test)
            if train is not None:
                train_rows.add(train)

        spools = test_rows, train_rows
        lengths = np.concatenate([sets.lengths for spooled in spools for sets in spooled])
        for name in ("values", "weights") if has_weights else ("values",):
            parts = (getattr(sets, name) for spooled in spools for sets in spooled)
            dtype = np.int32 if name == "values" else np.float32
            store.write_array(folder / f"{name}.npy", dtype, int(lengths.sum()), parts)
    labels = rows.labels_of(np.concatenate([np.flatnonzero(rows.test), np.flatnonzero(rows.train)]))
    splits = np.concatenate([[0], np.cumsum(lengths)])
    store.write_arrays({"row_splits": splits, **labels}, folder)
    return num_tokens, num_unknown


def _chosen(sets: RaggedSets, chosen: npt.NDArray[np.bool_]) -> RaggedSets | None:
    if chosen.all():
        return sets
    return sets.take(np.flatnonzero(chosen)) if chosen.any() else None


def with_ids(block: Numbered, vocabulary: Vocabulary) -> RaggedSets:
    """Returns the rows of a block with a vocabulary's ids, each as often as it occurs."""
    values, row_splits = block.values, block.row_splits
    if len(block.tokens):
        values, row_splits = vocabulary.rows_of(block.tokens, values, row_splits)
    parts: dict[str, Any] = {"values": values, "row_splits": row_splits, "weights": block.weights}
    return RaggedSets(**parts, num_tokens=vocabulary.num_tokens, name="a block")


# A function, so that no name in `made` keeps the arrays while the next ones are made of them.
def _with_start(sets: RaggedSets, start_id: int) -> RaggedSets:
    values, row_splits = starting_with(start_id, sets.values, sets.row_splits)
    return sets.derived(values=values, row_splits=row_splits)
