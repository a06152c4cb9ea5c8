"""Builds data sets: while loading them, in the cache or a temporary folder; or in a new folder."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.errors import InputError
from harness.data import cache, store
from harness.data.build.building import Progress, build
from harness.data.build.summary import FILE_NAME, Built, notes_in
from harness.data.options import BuildOptions
from harness.data.ragged import RaggedSets
from harness.data.readers.formats import open_source
from harness.data.readers.frames import source_of
from harness.data.readers.records import Source
from harness.data.vocabulary import FILE_NAME as VOCABULARY_FILE_NAME
from harness.data.vocabulary import Vocabulary
from kernels.files import own_file, remove_partial_files, replacing


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """A data set that was built."""

    sets: RaggedSets
    num_test_rows: int
    """Number of test rows, which come first."""
    vocabulary: Vocabulary
    notes: Sequence[str]


def load_or_build(
    path: Path,
    options: BuildOptions,
    *,
    unique: bool,
    seed: int,
    use_cache: bool,
    max_data_bytes: int,
) -> Loaded:
    """Returns the data set of a source, from the cache if it was built before."""
    source = open_source(path, options, max_data_bytes=max_data_bytes)
    entry = cache.entry_of(_paths(path, options), (options, unique, seed)) if use_cache else None
    if entry is None:
        return _built(source, options, unique=unique, seed=seed)
    if (found := entry.load(_load)) is not None:
        return found

    def made(folder: Path) -> None:
        nonlocal found
        _build(source, options, folder, unique=unique, seed=seed)
        found = _load(folder)  # here, while its files have a name

    entry.add(made)
    return found or _built(source, options, unique=unique, seed=seed)


def build_folder(
    path: Path,
    options: BuildOptions,
    output: Path,
    *,
    unique: bool,
    seed: int,
    max_data_bytes: int,
    started: Callable[[Source, int], Progress],
) -> Built:
    """Builds a data set in a new folder. Until it is complete, finished parts lie beside it in
    OUTPUT.building, from which a restart of the same build goes on.

    Args:
        path: the source.
        output: the new folder.
        options, unique, seed: as of `build`.
        max_data_bytes: limit of an archive's unpacked size.
        started: is called with the source and the number of blocks that were there already; returns
            the callback for the progress.

    Raises:
        InputError: as `build`; or if the folder exists, or another process is building it.
        OSError: as `build`.
    """
    if output.exists() or output.is_symlink():
        raise InputError(f"{output} exists already. Choose another folder, or remove it first.")
    source = open_source(path, options, max_data_bytes=max_data_bytes)
    key = cache.key_of(_paths(path, options), (options, unique, seed))
    work = output.parent / f"{output.name}.building"
    try:
        work.mkdir(parents=True, exist_ok=True)
        with _claimed(work, output):
            blocks = work / key
            if not blocks.exists():  # nothing, or a build of something else
                for other in work.glob("[0-9a-f]*"):
                    shutil.rmtree(other)
                blocks.mkdir()
            progress = started(source, len(list(blocks.glob("*.arrow"))))
            # Not beside the output, where nobody would remove what a killed process left.
            remove_partial_files(work)
            shutil.rmtree(work / "new", ignore_errors=True)
            with replacing(work / "new") as beside:
                built = build(
                    source,
                    options,
                    beside,
                    blocks_folder=blocks,
                    unique=unique,
                    seed=seed,
                    progress=progress,
                )
            (work / "new").rename(output)
            shutil.rmtree(work)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{output} cannot be made: {error}. Choose another folder.") from error
    return built


@contextlib.contextmanager
def _claimed(work: Path, output: Path) -> Iterator[None]:
    descriptor = own_file(work / "lock")
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process is building {output}. Wait for it, or choose another folder."
            ) from error
        yield
    finally:
        os.close(descriptor)


def build_of_table(
    table: Any, options: BuildOptions, *, labels: Sequence[Any] | None, unique: bool, seed: int
) -> Loaded | None:
    """Returns the data set of a frame or a matrix; None for any other object."""
    if options.test_data is not None:
        raise InputError("test_data names a file, which a frame has none of. Load both as files.")
    source = source_of(table, options, labels=labels)
    return None if source is None else _built(source, options, unique=unique, seed=seed)


def _paths(path: Path, options: BuildOptions) -> list[Path]:
    return [path, *([Path(options.test_data)] if options.test_data else [])]


def _built(source: Source, options: BuildOptions, *, unique: bool, seed: int) -> Loaded:
    """Builds a data set in a folder that is removed again; the files stay mapped."""
    with tempfile.TemporaryDirectory() as folder:
        _build(source, options, Path(folder, "data"), unique=unique, seed=seed)
        return _load(Path(folder, "data"))


def _build(source: Source, options: BuildOptions, folder: Path, *, unique: bool, seed: int) -> None:
    blocks = folder.parent / f"{folder.name}.blocks"
    blocks.mkdir()
    build(source, options, folder, blocks_folder=blocks, unique=unique, seed=seed)


def _load(folder: Path) -> Loaded:
    return Loaded(
        sets=store.load(folder),
        num_test_rows=store.held_out_rows(folder),
        vocabulary=Vocabulary.load(folder / VOCABULARY_FILE_NAME),
        notes=notes_in(folder / FILE_NAME),
    )
