"""Data sets that are slow to read, kept in the user's cache folder and mapped into memory.

Each entry is a folder of a store. Its name is the SHA-256 of the source file's content (of a
folder: of its files' names, sizes and times), of the options that decide the result, and of this
package's code, so an entry never goes stale.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from harness.base.errors import InputError
from harness.data import store
from harness.data.ragged import RaggedSets
from kernels.cache import CACHE_VARIABLE, opened
from kernels.files import replacing

T = TypeVar("T")
Rows = tuple[RaggedSets, int]
"""The rows of a data set, and how many of the first are test rows."""

MIN_SOURCE_BYTES = 1_000_000
"""Least size of a source to cache: mapping an entry is hardly faster than reading a smaller one."""
MAX_BYTES = 4_000_000_000
"""Limit of the size of all entries together; the least recently used ones are removed first."""


def mapped_or_read(source: Path, options: object, read: Callable[[], Rows]) -> Rows:
    """Maps the data set of `source` if it is in the cache; else reads it and adds it.

    A note on standard error says why the cache could not be used.

    Args:
        source: a file.
        options: everything else that decides what `read` returns; its repr must identify it.
        read: reads the file. Its errors are passed on; the cache itself raises none.
    """
    if source.stat().st_size < MIN_SOURCE_BYTES:
        return read()
    try:
        entry = _Entry([source], options)
    except OSError as error:
        _note_not_cached(source, error)
        return read()
    if (found := entry.load(_load)) is not None:
        return found
    sets, num_test_rows = read()
    try:
        entry.check_current()
        arrays = sets.values, sets.row_splits, sets.labels
        _make_room(entry.folder, sum(array.nbytes for array in arrays))
        store.save(sets, entry.path, held_out_rows=num_test_rows)
    except (OSError, InputError) as error:
        if not entry.path.exists():  # otherwise another process wrote it first
            _note_not_cached(source, error)
    return sets, num_test_rows


def mapped_or_built(
    sources: Sequence[Path],
    options: object,
    build: Callable[[Path], object],
    load: Callable[[Path], T],
    *,
    use_cache: bool,
) -> T:
    """Loads the data set of `sources` from the cache, and builds it there first if it is missing.

    Without the cache, builds and loads it in a temporary folder that is removed before this
    returns; the files stay mapped.

    Args:
        sources: files and folders; may be empty. Data sets without sources, or of less than
            MIN_SOURCE_BYTES, are not cached.
        options: everything else that decides what `build` makes; its repr must identify it.
        build: makes the data set in a new folder. Its errors are passed on.
        load: loads the data set from that folder.
        use_cache: whether the cache may be used.
    """
    size = sum(file.stat().st_size for source in sources for file in _files(source))
    entry = None
    if use_cache and size >= MIN_SOURCE_BYTES:
        try:
            entry = _Entry(sources, options)
        except OSError as error:
            _note_not_cached(sources[0], error)
    if entry is None:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder, "data"))
            return load(Path(folder, "data"))
    found = entry.load(load)
    if found is not None:
        return found
    try:
        with replacing(entry.path) as beside:
            build(beside)
            found = load(beside)
            entry.check_current()
            _make_room(entry.folder, sum(file.stat().st_size for file in _files(beside)))
    except OSError as error:
        if found is None:
            raise
        if not entry.path.exists():  # otherwise another process built it first
            _note_not_cached(sources[0], error)
    return found


class _Entry:
    """A data set's place in the cache."""

    def __init__(self, sources: Sequence[Path], options: object) -> None:
        """Raises OSError if there is no cache, or a source cannot be read."""
        self.folder = opened("data").path
        self._sources, self._options = sources, options
        self._key = key_of(sources, options)
        self.path = self.folder / self._key

    def load(self, load: Callable[[Path], T]) -> T | None:
        """Returns the loaded entry; None if there is none, or it was damaged and is now removed."""
        if not self.path.exists():
            return None
        with suppress(InputError):
            found = load(self.path)
            with suppress(OSError):  # a read-only cache removes no entries: it needs no times
                os.utime(self.path)
            return found
        _note(f"the cached data set {self.path} was damaged; {self._sources[0]} was read again")
        shutil.rmtree(self.path, ignore_errors=True)
        return None

    def check_current(self) -> None:
        """Raises OSError if a source was replaced while it was read."""
        if key_of(self._sources, self._options) != self._key:
            raise OSError("it changed while it was read")


def _load(entry: Path) -> Rows:
    return store.load(entry), store.held_out_rows(entry)


def _files(source: Path) -> list[Path]:
    """Returns a file by itself, or all files in a folder."""
    return (
        sorted(path for path in source.rglob("*") if path.is_file())
        if source.is_dir()
        else [source]
    )


def _note_not_cached(source: Path, reason: Exception) -> None:
    remedy = f"name a folder of your own in {CACHE_VARIABLE}, or set --data-cache=off"
    _note(f"{source} is not cached: {reason}; {remedy}")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def key_of(sources: Sequence[Path], options: object) -> str:
    """Returns the name of an entry, a hash of the sources, the options and this package's code."""
    digest = hashlib.sha256(repr(([source.stem for source in sources], options)).encode())
    for code in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(code.read_bytes())
    for source in sources:
        if source.is_dir():  # reading that many files takes longer than tokenizing them
            for path in _files(source):
                status = path.stat()
                known = str(path.relative_to(source)), status.st_size, status.st_mtime_ns
                digest.update(repr(known).encode())
        else:
            with source.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _make_room(folder: Path, num_bytes: int) -> None:
    """Removes the least recently used entries until `num_bytes` more fit.

    Unfinished folders do not count as entries: another process may be writing them.

    Raises:
        OSError: if `num_bytes` exceed the limit of all entries.
    """
    if num_bytes > MAX_BYTES:
        raise OSError(f"its {num_bytes / 1e9:,.1f} GB exceed the {MAX_BYTES / 1e9:,.1f} GB of all")
    entries = []
    for path in folder.glob("[!.]*"):
        with suppress(FileNotFoundError):  # another process renamed or removed it meanwhile
            size = sum(file.stat().st_size for file in path.rglob("*"))
            entries.append((path.stat().st_mtime, size, path))
    for _, size, path in sorted(entries, reverse=True):
        num_bytes += size
        if num_bytes > MAX_BYTES:
            shutil.rmtree(path, ignore_errors=True)
