"""The second pass of a build: gives ids to the tokens of the train rows."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from harness.base.errors import InputError
from harness.data.build.blocks import BlockFiles, NumberedBlock
from harness.data.build.counting import BlockCounts, most_frequent
from harness.data.build.rows import Rows
from harness.data.build.writing import with_ids
from harness.data.options import INDEX_FROM, START_ID, UNKNOWN_ID, BuildOptions
from harness.data.tokens import Tokenizer
from harness.data.vocabulary import Vocabulary
from harness.data.weighting import frequencies_of, rows_with

_NUM_TOKENS = 10_000
"""Default number of ids, as in the tutorial."""


def numbered_vocabulary(rows: Rows, options: BuildOptions, blocks: BlockFiles) -> Vocabulary:
    """Returns a vocabulary with the ids of the train rows' tokens, and how ids are weighted."""
    vocabulary = _numbered(rows, options, blocks)
    start_id = vocabulary.start_id
    if (options.weighting, options.normalize) != ("binary", "none"):
        start_id = None  # TextVectorization and CategoryEncoding have no start id to weight
    idf = None
    if options.weighting == "tf_idf":
        counts = np.zeros(vocabulary.num_tokens, np.int64)

        def in_train(block: NumberedBlock, places: slice) -> npt.NDArray[np.int64] | None:
            chosen = np.flatnonzero(rows.train[places])
            return rows_with(with_ids(block, vocabulary).take(chosen)) if chosen.size else None

        for found in blocks.map(in_train):
            counts += 0 if found is None else found
        num_train = int(rows.train.sum())
        idf = frequencies_of(counts, num_train, unknown_id=vocabulary.unknown_id).tolist()
    return replace(
        vocabulary,
        start_id=start_id,
        weighting=options.weighting,
        normalize=options.normalize,
        idf=idf,
    )


def _numbered(rows: Rows, options: BuildOptions, blocks: BlockFiles) -> Vocabulary:
    names = rows.class_names
    if rows.kind == "sets":
        shown = 1 + max(int(block.values.max(initial=0)) for block in blocks)
        if options.num_tokens is not None and options.num_tokens < shown:
            raise InputError(
                f"{rows.where} has the id {shown - 1}, but --num-tokens is {options.num_tokens}. "
                f"Set it to {shown} or more, or leave it out."
            )
        return Vocabulary(ids={}, num_tokens=options.num_tokens or shown, class_names=names)
    tokenizer: Tokenizer = options.tokenizer if rows.kind == "texts" else "list"
    if options.hash_bits is not None:
        return Vocabulary(
            ids={},
            num_tokens=1 << options.hash_bits,
            class_names=names,
            tokenizer=tokenizer,
            ngrams=options.ngrams,
            hash_bits=options.hash_bits,
        )

    def counted(block: NumberedBlock, places: slice) -> BlockCounts:
        in_train = np.repeat(rows.train[places], np.diff(block.row_splits))
        assert block.tokens is not None
        return block.tokens, np.bincount(block.values[in_train], minlength=len(block.tokens))

    first = INDEX_FROM + 1  # as in Keras's imdb.npz
    most = (options.num_tokens or _NUM_TOKENS) - first
    tokens = most_frequent(lambda: blocks.map(counted), most=most, min_count=options.min_count)
    return Vocabulary(
        ids={token: number for number, token in enumerate(tokens, first)},
        num_tokens=first + len(tokens),
        start_id=START_ID if rows.kind == "texts" else None,
        unknown_id=UNKNOWN_ID if options.unknown == "id" else None,
        class_names=names,
        tokenizer=tokenizer,
        ngrams=options.ngrams,
    )
