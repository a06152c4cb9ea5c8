"""Builds a data set from a source in three passes, none of which holds all rows in memory.

1. Saves each block of texts as numbered tokens in a file; notes parts, labels and digests of rows.
2. Draws test rows if the source has none; counts the tokens of the train rows.
3. Turns tokens into ids and writes them to a store, test rows first.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

from harness.base.child import end_with_parent
from harness.base.errors import InputError, LostWorkerError
from harness.data import store
from harness.data.build.blocks import BlockFiles, in_order, save_numbered
from harness.data.build.numbering import numbered_vocabulary
from harness.data.build.rows import settled
from harness.data.build.summary import FILE_NAME, Built
from harness.data.build.writing import write
from harness.data.options import BuildOptions
from harness.data.ragged import RaggedSets
from harness.data.readers.records import Block, Kind, Problems, Source
from harness.data.tokens import Tokenization
from harness.data.vocabulary import FILE_NAME as VOCABULARY_FILE_NAME

_THREADS_BYTES = 100_000_000
_PYTHON_BYTES = 8_000_000
"""Sizes below which threads have tokenized a source before processes would pay for their start:
with Keras's tokenizer, which leaves most of the work to Arrow; and with those in Python, of which
one thread runs at a time."""

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
        source, options: the rows, and how to build the data set.
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
    # First pass: the texts become numbers, block by block.
    blocks = BlockFiles(blocks_folder)
    _number(source, options, blocks, problems, progress)
    rows = settled(
        blocks, problems, where=str(source.path), test_split=options.test_split, seed=seed
    )
    # Second pass: words are counted in train rows alone, so test rows tell the model nothing.
    vocabulary = numbered_vocabulary(rows, options, blocks)
    # Third pass: the numbers become ids.
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


def _number(
    source: Source,
    options: BuildOptions,
    blocks: BlockFiles,
    problems: Problems,
    progress: Progress,
) -> None:
    """Makes the first pass: saves numbered blocks in files."""
    tokenization = Tokenization(tokenizer=options.tokenizer, ngrams=options.ngrams)
    sizes: deque[int] = deque()

    def to_save() -> Iterator[tuple[Block, Path, Tokenization]]:
        for number, block in enumerate(source.blocks(problems)):
            _check_options(block, options, source)
            sizes.append(_num_bytes(block))
            yield block, blocks.path(number), tokenization

    total, cores = source.num_bytes(), len(os.sched_getaffinity(0))
    most = _THREADS_BYTES if options.tokenizer == "keras" else _PYTHON_BYTES
    is_small = cores == 1 or (total is not None and total < most)
    executor: AbstractContextManager[Executor]
    executor = ThreadPoolExecutor(cores) if is_small else _processes(cores)
    try:
        with executor as pool:
            for _ in in_order(pool, save_numbered, to_save(), ahead=cores):
                blocks.count += 1
                progress(sizes.popleft())
    except BrokenProcessPool as error:
        raise LostWorkerError(
            f"a process that read {source.path} was ended from outside, as where memory is short. "
            "Free some, and run the command again; data build goes on with what is done."
        ) from error


@contextlib.contextmanager
def _processes(count: int) -> Iterator[Executor]:
    """Yields a pool of processes that do not run the user's script."""
    # Forked processes could inherit locks that TensorFlow's threads hold.
    context = multiprocessing.get_context("spawn")
    # Each new process would run the file of this module again.
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        with ProcessPoolExecutor(count, context, _start_process) as pool:
            yield pool
    finally:
        sys.modules["__main__"] = script


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    end_with_parent(signal.SIGKILL)


def _num_bytes(block: Block) -> int:
    """Returns the size of the text in a block."""
    if isinstance(block.contents, RaggedSets):
        return 4 * block.contents.nnz
    if block.kind == "texts":
        return sum(map(len, block.contents))
    return sum(len(token) + 1 for row in block.contents for token in row)


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
