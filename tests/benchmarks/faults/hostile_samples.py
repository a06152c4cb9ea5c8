"""Formats whose readers have faults that the runner must notice."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.faults.hostile_formats import Format, Reader
from harness.base.errors import InputError
from harness.base.reading import read_json

_VALID = b'{"a": [1, 2, 3], "b": {"c": "text"}}'


def _write(folder: Path) -> None:
    (folder / "a.json").write_bytes(_VALID)


def _format(read: Reader) -> Callable[[], Format]:
    return lambda: Format(
        targets=("a.json",), write=_write, reader=lambda _: read, is_checked=True, has_seal=True
    )


def _is_valid(folder: Path) -> bool:
    return (folder / "a.json").read_bytes() == _VALID


def _careful(folder: Path) -> str:
    if _is_valid(folder):
        return "valid"
    raise InputError("a.json is another one. Restore it.")


def _first(then: Callable[[Path], object]) -> Reader:
    """Returns a reader that reads the valid file, and does something else with every other."""

    def read(folder: Path) -> str:
        if not _is_valid(folder):
            then(folder)
        return "valid"

    return read


def _hang(_: Path) -> None:
    while True:
        time.process_time()


BAD = {
    "careful": _format(_careful),
    "traceback": _format(_first(lambda folder: {}["a"])),
    "believes": _format(lambda folder: str(read_json(folder / "a.json", remedy="Go."))),
    "prints": _format(_first(lambda folder: print("a warning"))),
    "writes": _format(_first(lambda folder: (folder / "more").write_text(""))),
    "memory": _format(_first(lambda folder: np.ones(200_000_000))),
    "hangs": _format(_first(_hang)),
    "dies": _format(_first(lambda folder: os._exit(139))),
}
