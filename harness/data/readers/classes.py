"""Texts in a folder for each class, on the disk or in a tar or zip.

    CLASS/FILE                    rows that are not split
    train/CLASS/FILE              train rows and test rows, as in the published aclImdb
    test/CLASS/FILE

These folders may lie in others. Names such as `news-train` and `news_test` are parts as well.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from harness.base.errors import InputError
from harness.data.readers.lines import decoded
from harness.data.readers.members import Member, folder_members, tar_members, zip_members
from harness.data.readers.records import (
    MAX_TEXT_BYTES,
    Block,
    Part,
    Problems,
    RowFormat,
    Source,
)
from harness.data.readers.rows import Row, collected

ARCHIVES = (".tar", ".tgz", ".txz", ".tbz2", ".tar.gz", ".tar.xz", ".tar.bz2", ".zip")
_SAMPLE_FILES = 1000
_UNLABELLED = "unsup"
"""The folder of aclImdb's unlabelled reviews."""
_PARTS: dict[str, Part] = {"train": "train", "test": "test"}
_PART_NAME = re.compile(r"(?:.*[-_.])?(train|test)")


class ClassSource(Source):
    """Texts in a folder for each class, in the archive's order, or sorted. Either is usually class
    by class, so training has to shuffle them."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self.name = path.name
        self._members: Callable[[], Iterator[Member]] = lambda: folder_members(path)
        if not path.is_dir():
            ending = max(filter(path.name.lower().endswith, ARCHIVES), key=len)
            self.name = path.name[: -len(ending)]
            members = zip_members if ending == ".zip" else tar_members
            self._members = lambda: members(path, max_bytes)
        sample = (name for name, _, _ in itertools.islice(self._members(), _SAMPLE_FILES))
        self._layout = _layout(path, map(_folders, sample))
        self.note = "classes and parts" if self._layout.has_parts else "classes"
        self.note += " from the names of folders"
        self._form = RowFormat(path=path, unit="file", kind="texts", is_multi_label=False)

    def num_bytes(self) -> int | None:
        """Returns the size of all files; None if that takes unpacking an archive."""
        name = self.path.name.lower()
        if self.path.is_dir() or name.endswith(".zip"):
            return sum(size for _, size, _ in self._members())
        return self.path.stat().st_size if name.endswith(".tar") else None

    def blocks(self, problems: Problems) -> Iterator[Block]:
        """Yields a row for each file that lies in a class's folder."""
        for part, rows in itertools.groupby(self._rows(problems), lambda found: found[0]):
            yield from collected((row for _, row in rows), self._form, problems, part)

    def _rows(self, problems: Problems) -> Iterator[tuple[Part, Row]]:
        for name, size, content in self._members():
            folders = _folders(name)
            # Problems come before the content is read, which may be much.
            if any(folder.startswith((".", "__MACOSX")) for folder in folders):
                problem = "hidden file"
            elif (place := self._layout.place(folders)) is None:
                problem = "file outside of a class's folder"
            elif place.label == _UNLABELLED:
                problem = "unlabelled text in unsup"
            elif size > MAX_TEXT_BYTES:
                raise InputError(
                    f"{self.path}: the file {name} has {size:,} bytes, and a text may have "
                    f"{MAX_TEXT_BYTES:,}. Remove it, or give a folder with a file for each text."
                )
            else:
                text = decoded(content(), problems, self.path, "file", name)
                yield place.part, (name, text, place.label)
                continue
            problems.add(problem, self._form.where(name))


class _Place(NamedTuple):
    part: Part
    label: str


class _Layout(NamedTuple):
    num_folders: int
    """Depth of a file: the number of folders around it."""
    has_parts: bool

    def place(self, folders: list[str]) -> _Place | None:
        """Returns a file's part and class; `folders` ends with the file's own name."""
        if len(folders) != self.num_folders + 1:
            return None
        part = _part(folders[-3]) if self.has_parts else ""
        return None if part is None else _Place(part, folders[-2])


def _layout(path: Path, files: Iterable[list[str]]) -> _Layout:
    """Returns the layout of most files in parts, or of most files if none are in parts."""
    depths: Counter[_Layout] = Counter()
    for folders in files:
        if len(folders) > 1:
            has_parts = len(folders) > 2 and _part(folders[-3]) is not None
            depths[_Layout(len(folders) - 1, has_parts)] += 1
    if not depths:
        raise InputError(
            f"{path} has no folder with files in it. Give a folder (or a tar or zip) with a folder "
            "of texts for each class, in train and test if it is split."
        )
    return max(depths, key=lambda layout: (layout.has_parts, depths[layout]))


def _folders(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _part(folder: str) -> Part | None:
    match = _PART_NAME.fullmatch(folder.lower())
    return _PARTS[match[1]] if match else None
