"""Reads untrusted files, with checks and limits before anything relies on their contents. If a file
is damaged or hostile, an `InputError` gives the file, the fact and the remedy."""

import contextlib
import errno
import io
import itertools
import json
import os
import stat
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.base.errors import InputError

UTF8_MARK = "\ufeff"  # which Windows puts at the beginning of a file
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# Bytes of a file of which one is 0 in pictures, archives and spreadsheets. Later in a text, a NUL
# is a bad character of a row, which is counted.
_BEGINNING_BYTES = 10
MAX_UNPACKED_BYTES = 1_000_000_000  # of a compressed file, unless the user allows more
_MAX_JSON_BYTES = 32_000_000  # a vocabulary of a million words reaches it
_MAX_OPENED = 1_000_000  # tables and lists: each takes 24 times its text in memory
_BUFFER_BYTES = 1 << 16  # lines of a kilobyte are read 1.6 times as fast as by 8 kB
_MAX_TOML_BYTES = 1_000_000  # Python's parser takes about a second for them
_MAX_DOTS = 5_000  # Python's parser takes time by the square of a key's dots
_MAX_BITS = 64  # of whole numbers: longer ones may not fit a float or be printed
_MAX_DEPTH = 50  # of tables and lists: Python's recursion limit is not far


@contextlib.contextmanager
def damage(path: str | Path, *, what: str, remedy: str) -> Iterator[None]:
    """Turns any exception into an InputError about the file at `path`, which should be `what`, such
    as "a results file": parsers raise two dozen types on damaged bytes. `remedy` may be empty."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        if error.errno == errno.EMFILE:  # no fault of the file
            raise
        raise InputError(f"{path} cannot be read: {error.strerror or error}. {remedy}") from error
    except MemoryError as error:
        raise InputError(f"{path} takes more memory than it may. {remedy}") from error
    except Exception as error:
        fact = str(error) or type(error).__name__
        raise InputError(f"{path} is damaged, or not {what}: {fact:.300}. {remedy}") from error


def opened(path: str | Path, *, remedy: str) -> io.BufferedReader:
    """Opens a regular file to read: no folder, and no device or pipe, which might never end."""
    with damage(path, what="a file's name", remedy=remedy):
        # Without O_NONBLOCK, opening a named pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    # Files of the kernel call themselves regular, and may never end.
    if stat.S_ISREG(status.st_mode) and status.st_dev not in map(_device_of, ("/proc", "/sys")):
        return io.BufferedReader(io.FileIO(descriptor), _BUFFER_BYTES)
    os.close(descriptor)
    raise InputError(f"{path} is not a regular file. {remedy}")


def require_text(beginning: bytes, path: Path | str, *, remedy: str) -> None:
    """Raises an InputError if the first bytes of a file are not those of a text in UTF-8."""
    if beginning.startswith(_UTF16_MARKS):
        raise InputError(f"{path} is encoded in UTF-16. Save it as UTF-8.")
    if b"\0" in beginning[:_BEGINNING_BYTES]:
        raise InputError(f"{path} is not text: it begins like a picture or a spreadsheet. {remedy}")


def _device_of(folder: str) -> int | None:
    # In a sandbox it may be an empty folder, on the device of all other files.
    return os.stat(folder).st_dev if os.path.ismount(folder) else None


def read_json(path: str | Path, *, remedy: str) -> dict[str, Any]:
    """Returns the JSON object in the file at `path`; `remedy` ends the message if there is none."""
    with opened(path, remedy=remedy) as file, damage(path, what="a JSON object", remedy=remedy):
        return json_object(file.read(_MAX_JSON_BYTES + 1))


def json_object(content: bytes) -> dict[str, Any]:
    """Returns the JSON object in some bytes; raises any exception if it is none, or very large."""
    return _table(content, json.loads, _MAX_JSON_BYTES)


def read_toml(path: str | Path) -> dict[str, Any]:
    remedy = "Correct it, or name another."
    with opened(path, remedy=remedy) as file, damage(path, what="a TOML file", remedy=remedy):
        content = file.read(_MAX_TOML_BYTES + 1)
        if content.count(b".") > _MAX_DOTS:
            raise ValueError(f"it holds more than {_MAX_DOTS:,} dots")
        return _table(content, tomllib.loads, _MAX_TOML_BYTES)


def _table(content: bytes, parse: Callable[[str], Any], max_bytes: int) -> dict[str, Any]:
    if len(content) > max_bytes:
        raise ValueError(f"it is longer than {max_bytes // 10**6} MB")
    if content.count(b"{") + content.count(b"[") > _MAX_OPENED:
        raise ValueError(f"it holds more than {_MAX_OPENED:,} tables and lists")
    table = parse(content.decode())
    # Level by level: recursion is what deep nesting would break.
    level: list[Any] = [table] if isinstance(table, dict) else []
    for _ in range(_MAX_DEPTH):
        groups = (outer.values() if isinstance(outer, dict) else outer for outer in level)
        inner: list[Any] = [*itertools.chain.from_iterable(groups)]
        if any(type(one) is int and one.bit_length() > _MAX_BITS for one in inner):
            raise ValueError(f"it holds a whole number of more than {_MAX_BITS} bits")
        level = [one for one in inner if isinstance(one, dict | list)]
    if level:
        raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(table, dict):
        return table
    raise ValueError(f"it holds a {type(table).__name__}")
