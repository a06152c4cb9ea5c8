"""Data sets that are slow to read, kept in the user's cache folder and mapped into memory.

Each entry is a folder that `store` wrote. Its name is the SHA-256 of the source file's content, of
the options that decide the result, and of this package's code, so an entry never goes stale.
"""

import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from harness.data import store
from harness.data.ragged import RaggedSets
from harness.errors import InputError

Rows = tuple[RaggedSets, int]
"""The rows of a data set, and how many of the first are test rows."""

MIN_SOURCE_BYTES = 1_000_000
"""Reading a smaller file takes about as long as mapping its entry."""
MAX_BYTES = 4_000_000_000
"""Size of all entries together. The least recently used ones are removed first."""


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
        entry = cache_folder() / _key(source, options)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        _note_not_cached(source, error)
        return read()
    if entry.exists():
        with suppress(InputError):
            rows = store.load(entry), store.held_out_rows(entry)
            with suppress(OSError):  # a read-only cache removes no entries, so it needs no times
                os.utime(entry)
            return rows
        _note(f"the cached data set {entry} was damaged; {source} was read again")
        shutil.rmtree(entry, ignore_errors=True)
    sets, num_test_rows = read()
    try:
        if _key(source, options) == entry.name:  # the file was not replaced while it was read
            arrays = sets.values, sets.row_splits, sets.labels
            _make_room(entry.parent, sum(array.nbytes for array in arrays))
            store.save(sets, entry, held_out_rows=num_test_rows)
    except (OSError, InputError) as error:
        if not entry.exists():  # else another process wrote it first
            _note_not_cached(source, error)
    return sets, num_test_rows


def _note_not_cached(source: Path, error: Exception) -> None:
    remedy = "name a folder of your own in MULTI_HOT_CACHE, or set --data-cache off"
    _note(f"{source} is not cached: {error}; {remedy}")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def cache_folder() -> Path:
    """The folder of the entries, created if missing.

    It is `data` in $MULTI_HOT_CACHE, else in `multi-hot-harness` in $XDG_CACHE_HOME or ~/.cache.

    Raises:
        OSError: it cannot be created, or other users may write to it.
        RuntimeError: there is no home folder.
    """
    named = os.environ.get("MULTI_HOT_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME")
    home = Path(named) if named else (Path(caches or Path.home() / ".cache") / "multi-hot-harness")
    folder = home / "data"
    for place in (home, folder):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{folder} belongs to another user, or others may write to it")
    return folder


def _key(source: Path, options: object) -> str:
    digest = hashlib.sha256(repr((source.stem, options)).encode())
    for code in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(code.read_bytes())
    with source.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _make_room(folder: Path, num_bytes: int) -> None:
    """Removes the least recently used entries until `num_bytes` more fit; OSError if they cannot.

    What a killed process left counts as an entry too.
    """
    if num_bytes > MAX_BYTES:
        raise OSError(f"its {num_bytes / 1e9:,.1f} GB exceed the {MAX_BYTES / 1e9:,.1f} GB of all")
    entries = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process renamed or removed it meanwhile
            size = sum(file.stat().st_size for file in path.rglob("*"))
            entries.append((path.stat().st_mtime, size, path))
    for _, size, path in sorted(entries, reverse=True):
        num_bytes += size
        if num_bytes > MAX_BYTES:
            shutil.rmtree(path, ignore_errors=True)
