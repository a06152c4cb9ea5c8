"""Data sets that are slow to read, kept in the user's cache folder and mapped into memory. Each
entry is a folder of a store. Its name is the SHA-256 of the source file's content (of a folder: of
its files' names, sizes and times), of the options that decide the result, and of this package's
code, so an entry never goes stale."""

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

MIN_SOURCE_BYTES = 1_000_000  # mapping an entry is hardly faster than reading a smaller source
MAX_BYTES = 4_000_000_000  # of all entries; the least recently used ones are removed first


def through(
    sources: Sequence[Path],
    options: object,
    write: Callable[[Path], object],
    load: Callable[[Path], T],
) -> T | None:
    """Returns what `load` makes of the cached folder of some sources, which `write` makes first if
    it is missing or damaged; None if the sources are too small or the folder cannot be made. The
    repr of `options` identifies all else that decides the result. Faults of the cache cost only
    time: they are printed to standard error, and never raised."""
    if sum(file.stat().st_size for source in sources for file in _files(source)) < MIN_SOURCE_BYTES:
        return None
    found = None
    try:
        folder = opened("data")
        key = key_of(sources, options)
        path = folder / key
        if path.exists():
            with suppress(InputError):
                found = load(path)
                with suppress(OSError):  # a read-only cache removes no entries: it needs no times
                    os.utime(path)
                return found
            _note(f"the cached data set {path} was damaged; {sources[0]} was read again")
            shutil.rmtree(path, ignore_errors=True)
        with replacing(path) as beside:
            write(beside)
            found = load(beside)  # here, while its files have a name
            if key_of(sources, options) != key:
                raise OSError("it changed while it was read")
            _make_room(folder, sum(file.stat().st_size for file in _files(beside)))
    except OSError as error:
        if found is None or not path.exists():  # otherwise another process made it first
            remedy = f"name a folder of your own in {CACHE_VARIABLE}, or set --data-cache=off"
            _note(f"{sources[0]} is not cached: {error}; {remedy}")
    return found


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    return sorted(path for path in source.rglob("*") if path.is_file())


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def key_of(sources: Sequence[Path], options: object) -> str:
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
    if num_bytes > MAX_BYTES:
        raise OSError(f"its {num_bytes / 1e9:,.1f} GB exceed the {MAX_BYTES / 1e9:,.1f} GB of all")
    entries = []
    for path in folder.glob("[!.]*"):  # not those that another process may be writing
        with suppress(FileNotFoundError):  # another process renamed or removed it meanwhile
            size = sum(file.stat().st_size for file in path.rglob("*"))
            entries.append((path.stat().st_mtime, size, path))
    for _, size, path in sorted(entries, reverse=True):
        num_bytes += size
        if num_bytes > MAX_BYTES:
            shutil.rmtree(path, ignore_errors=True)
