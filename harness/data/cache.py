"""Data sets that are slow to read, kept in the user's cache folder and mapped into memory.

Each entry is a folder that `store` wrote. Its name is the SHA-256 of the source file's content, of
the options that decide the result, and of this package's code, so an entry never goes stale.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from harness.data import store
from harness.data.ragged import RaggedSets
from harness.errors import InputError
from kernels.cache import CACHE_VARIABLE, opened

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
    with ExitStack() as closing:
        try:
            folder = closing.enter_context(opened("data"))
            key = _key(source, options)
        except OSError as error:
            _note_not_cached(source, str(error))
            return read()
        # Not by its name, which another user may be able to turn to a folder of theirs.
        entry = folder.place / key
        if entry.exists():
            with suppress(InputError):
                rows = store.load(entry), store.held_out_rows(entry)
                with suppress(OSError):  # a read-only cache removes no entries: it needs no times
                    os.utime(entry)
                return rows
            _note(f"the cached data set {folder.path / key} was damaged; {source} was read again")
            shutil.rmtree(entry, ignore_errors=True)
        sets, num_test_rows = read()
        try:
            if _key(source, options) == key:  # the file was not replaced while it was read
                arrays = sets.values, sets.row_splits, sets.labels
                _make_room(folder.place, sum(array.nbytes for array in arrays))
                store.save(sets, entry, held_out_rows=num_test_rows)
        except (OSError, InputError) as error:
            if not entry.exists():  # else another process wrote it first
                reason = str(error).replace(str(folder.place), str(folder.path))
                _note_not_cached(source, reason)
        return sets, num_test_rows


def _note_not_cached(source: Path, reason: str) -> None:
    remedy = f"name a folder of your own in {CACHE_VARIABLE}, or set --data-cache off"
    _note(f"{source} is not cached: {reason}; {remedy}")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _key(source: Path, options: object) -> str:
    digest = hashlib.sha256(repr((source.stem, options)).encode())
    for code in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(code.read_bytes())
    with source.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _make_room(folder: Path, num_bytes: int) -> None:
    """Removes the least recently used entries until `num_bytes` more fit; OSError if they cannot.

    What `store.save` is writing, and cleans up after a killed process, is no entry.
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
