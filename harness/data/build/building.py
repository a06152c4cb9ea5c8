"""Builds a data set from a source in three passes, none of which holds all rows in memory.

1. Saves each block of texts as numbered tokens in a file; notes parts, labels and digests of rows.
2. Draws test rows if the source has none; counts the tokens of the train rows.
3. Turns tokens into ids and writes them to a store, test rows first.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.base.errors import InputError
from harness.data import store
from harness.data.build.blocks import BlockFiles
from harness.data.build.numbering import numbered_vocabulary
from harness.data.build.rows import RowFacts, settled
from harness.data.build.summary import FILE_NAME, Built
from harness.data.build.workers import Workers
from harness.data.build.writing import write
from harness.data.options import BuildOptions
from harness.data.readers.records import Block, Kind, Problems, Source, UnreadBlock
from harness.data.tokens import Tokenization
from harness.data.vocabulary import FILE_NAME as VOCABULARY_FILE_NAME

_ALONE_BYTES = 8_000_000
"""Size below which a source is tokenized before another process would have started."""

_OPTIONS_OF_TEXTS: dict[Kind, tuple[str, ...]] = {
    "texts": (),
    "tokens": ("tokenizer", "ngrams"),
    "sets": ("tokenizer", "ngrams", "min_count", "hash_bits", "unknown"),
}
"""Options that do not apply to rows of each kind."""

Progress = Callable[[int], None]
"""Callback that is given the number of bytes of text just read."""


def build(
    source: Source,
    options: BuildOptions,
    folder: Path,
    *,
    blocks_folder: Path,
    unique: bool = True,
    seed: int = 0,
    progress: Progress = lambda num_bytes: None,
) -> Built:
    """Builds a data set; the same source, options and seed give the same one.

    Args:
        source: the source to read.
        options: how to build the data set.
        folder: the folder to make, for `store.load` and with the vocabulary.
        blocks_folder: an existing folder for the blocks. Blocks that are there already are not
            built again, and none are removed at the end.
        unique: whether to keep each id of a row once.
        seed: seed of the draw of test rows.
        progress: callback for the progress.

    Raises:
        InputError: if the source cannot be read, or there is nothing to train or to test on.
        OSError: if writing fails, such as on a full disk.
    """
    problems = Problems(strict=options.strict)
    blocks = BlockFiles(blocks_folder)
    rows = settled(  # keeps all facts that are still needed
        _numbered(source, options, blocks, problems, progress),
        problems,
        test_split=options.test_split,
        seed=seed,
    )
    vocabulary = numbered_vocabulary(rows, options, blocks)
    folder.mkdir()
    num_ids, num_unknown = write(rows, vocabulary, blocks, folder, unique=unique)
    described = {
        "name": source.name,
        "num_tokens": vocabulary.num_tokens,
        "num_classes": len(rows.class_names),
        "is_unique": unique or vocabulary.is_weighted or rows.has_weights,
    }
    vocabulary.save(folder / VOCABULARY_FILE_NAME)
    built = Built(
        source=str(source.path),
        note=source.note,
        train_rows=int(rows.train.sum()),
        test_rows=int(rows.test.sum()),
        test_rows_drawn=rows.is_drawn,
        multi_label=rows.is_multi_label,
        rows_of_classes=rows.rows_of_classes(),
        num_tokens=vocabulary.num_tokens,
        num_ids=num_ids,
        num_unknown=num_unknown,
        problems=dict(problems.counts),
        first_problems=dict(problems.first),
    )
    built.save(folder / FILE_NAME)
    store.seal(folder, described, held_out_rows=built.test_rows)
    return built


def _numbered(
    source: Source,
    options: BuildOptions,
    blocks: BlockFiles,
    problems: Problems,
    progress: Progress,
) -> RowFacts:
    """Makes the first pass: saves numbered blocks in files, and returns facts about their rows."""
    where = str(source.path)
    facts = RowFacts(where)
    total = source.num_bytes()
    is_small = total is not None and total < _ALONE_BYTES
    processes = 1 if is_small else len(os.sched_getaffinity(0))
    tokenization = Tokenization(tokenizer=options.tokenizer, ngrams=options.ngrams)
    sizes: deque[int] = deque()

    def to_number() -> Iterator[tuple[Block | UnreadBlock, Path]]:
        for number, block in enumerate(source.blocks(problems)):
            if isinstance(block, UnreadBlock):  # holds texts, so every option can apply
                sizes.append(block.num_bytes)
            else:
                _check_options(block, options, source)
                sizes.append(_num_bytes(block))
            yield block, blocks.path(number)

    strict = options.strict
    with Workers(tokenization, where=where, processes=processes, strict=strict) as workers:
        for found in workers.map(to_number()):
            facts.add(found)
            problems.merge(found.problems)
            blocks.num_rows.append(found.num_rows)
            progress(sizes.popleft())
    return facts


def _num_bytes(block: Block) -> int:
    """Returns the size of the text in a block."""
    if block.sets is not None:
        return 4 * block.sets.nnz
    if block.texts is not None:
        return sum(map(len, block.texts))
    return sum(len(token) + 1 for row in block.tokens or () for token in row)


def _check_options(block: Block, options: BuildOptions, source: Source) -> None:
    usual = BuildOptions()
    chosen = [
        f"--{name.replace('_', '-')}"
        for name in _OPTIONS_OF_TEXTS[block.kind]
        if getattr(options, name) != getattr(usual, name)
    ]
    if chosen:
        what = "ids" if block.kind == "sets" else "lists of strings, which are its tokens"
        raise InputError(
            f"{source.path} holds {what}, so {', '.join(chosen)} cannot apply. Leave it out."
        )
