"""Data sets that are slow to read, kept in the user's cache folder and mapped into memory.

Each entry is a folder of a store. Its name is the SHA-256 of the source file's content (of a
folder: of its files' names, sizes and times), of the options that decide the result, and of this
package's code, so an entry never goes stale.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from harness.base.errors import InputError
from kernels.cache import CACHE_VARIABLE, opened
from kernels.files import replacing

T = TypeVar("T")

MIN_SOURCE_BYTES = 1_000_000
"""Least size of a source to cache: mapping an entry is hardly faster than reading a smaller one."""
MAX_BYTES = 4_000_000_000
"""Limit of the size of all entries together; the least recently used ones are removed first."""


class Entry:
    """A data set's place in the cache. Faults of the cache cost only time: they are printed to
    standard error, and never raised."""

    def __init__(self, folder: Path, sources: Sequence[Path], options: object) -> None:
        """Raises OSError if a source cannot be read."""
        self._folder, self._sources, self._options = folder, sources, options
        self._key = key_of(sources, options)
        self._path = folder / self._key

    def load(self, load: Callable[[Path], T]) -> T | None:
        """Returns what `load` makes of the entry; None if there is none, or it was damaged and is
        now removed."""
        if not self._path.exists():
            return None
        with suppress(InputError):
            found = load(self._path)
            with suppress(OSError):  # a read-only cache removes no entries: it needs no times
                os.utime(self._path)
            return found
        _note(f"the cached data set {self._path} was damaged; {self._sources[0]} was read again")
        shutil.rmtree(self._path, ignore_errors=True)
        return None

    def add(self, write: Callable[[Path], object]) -> None:
        """Makes the entry by `write`, which gets the path of a folder to make. Its errors are
        raised, but for an OSError, such as that of a full disk."""
        try:
            with replacing(self._path) as beside:
                write(beside)
                if key_of(self._sources, self._options) != self._key:
                    raise OSError("it changed while it was read")
                _make_room(self._folder, sum(file.stat().st_size for file in _files(beside)))
        except OSError as error:
            if not self._path.exists():  # otherwise another process made it first
                _note_not_cached(self._sources[0], error)


def entry_of(sources: Sequence[Path], options: object) -> Entry | None:
    """Returns the place of a data set; None if its sources are too small for the cache, or there is
    no cache.

    Args:
        sources: files and folders.
        options: everything else that decides what is made of them; its repr must identify it.
    """
    if sum(file.stat().st_size for source in sources for file in _files(source)) < MIN_SOURCE_BYTES:
        return None
    try:
        return Entry(opened("data").path, sources, options)
    except OSError as error:
        _note_not_cached(sources[0], error)
        return None


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
