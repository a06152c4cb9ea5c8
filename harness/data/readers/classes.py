"""Texts in a folder for each class, on the disk or in a tar or zip.

    CLASS/FILE                    rows that are not split
    train/CLASS/FILE              train rows and test rows, as in the published aclImdb
    test/CLASS/FILE

These folders may lie in others. Names such as `news-train` and `news_test` are parts as well.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from harness.base.errors import InputError
from harness.data.readers.cells import MAX_TEXT_BYTES
from harness.data.readers.members import Member, folder_members, tar_members, zip_members
from harness.data.readers.records import Part, Problems, Source, decoded

ARCHIVES = (".tar", ".tgz", ".txz", ".tbz2", ".tar.gz", ".tar.xz", ".tar.bz2", ".zip")
_SAMPLE_FILES = 1000
_UNLABELLED = "unsup"  # the folder of aclImdb's unlabelled reviews
_PARTS: dict[str, Part] = {"train": "train", "test": "test"}
_PART_NAME = re.compile(r"(?:.*[-_.])?(train|test)")


class ClassSource(Source):
    """Texts in a folder for each class, in the archive's order, or sorted."""

    unit = "file"

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        endings = filter(path.name.lower().endswith, ARCHIVES)
        self._ending = "" if path.is_dir() else max(endings, key=len)
        super().__init__(path, path.name[: len(path.name) - len(self._ending)])
        self._folder, self._max_bytes = path, max_bytes
        sample = (name for name, _, _ in itertools.islice(self._members(), _SAMPLE_FILES))
        self._layout = _layout(path, map(_folders, sample))
        self.note = "classes and parts" if self._layout.has_parts else "classes"
        self.note += " from the names of folders"

    def num_bytes(self) -> int | None:
        """Returns the size of all files; None if that takes unpacking an archive."""
        if self._ending in ("", ".zip"):
            return sum(size for _, size, _ in self._members())
        return super().num_bytes() if self._ending == ".tar" else None

    def rows(self, problems: Problems) -> Iterator[tuple[str, str, str, Part]]:
        """Yields a row for each file that lies in a class's folder."""
        for name, size, content in self._members():
            folders = _folders(name)
            # Problems come before the content is read, which may be much.
            if any(folder.startswith((".", "__MACOSX")) for folder in folders):
                problems.add("hidden file", self.where(name))
            elif (place := self._layout.place(folders)) is None:
                problems.add("file outside of a class's folder", self.where(name))
            elif place[1] == _UNLABELLED:
                problems.add("unlabelled text in unsup", self.where(name))
            elif size > MAX_TEXT_BYTES:
                raise InputError(
                    f"{self.path}: the file {name} has {size:,} bytes, and a text may have "
                    f"{MAX_TEXT_BYTES:,}. Remove it, or give a folder with a file for each text."
                )
            else:
                text = decoded(content(), problems, self.where(name))
                yield name, text, place[1], place[0]

    def _members(self) -> Iterator[Member]:
        if not self._ending:
            return folder_members(self._folder)
        members = zip_members if self._ending == ".zip" else tar_members
        return members(self._folder, self._max_bytes)


class _Layout(NamedTuple):
    num_folders: int  # depth of a file: the number of folders around it
    has_parts: bool

    def place(self, folders: list[str]) -> tuple[Part, str] | None:
        """Returns a file's part and class; `folders` ends with the file's own name."""
        if len(folders) != self.num_folders + 1:
            return None
        part = _part(folders[-3]) if self.has_parts else ""
        return None if part is None else (part, folders[-2])


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
