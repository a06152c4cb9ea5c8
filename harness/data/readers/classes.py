"""Texts in a folder for each class, on the disk or in a tar or zip.

    CLASS/FILE                    rows that are not split
    train/CLASS/FILE              train rows and test rows, as in the published aclImdb
    test/CLASS/FILE

These folders may lie in others. Names such as `news-train` and `news_test` are parts as well.
"""

import functools
import itertools
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from harness.base.archive import Archive, require_unpacked
from harness.base.errors import InputError
from harness.base.reading import damage, opened
from harness.data.readers.records import MAX_TEXT_BYTES, Part, Problems, Source, decoded

ARCHIVES = (".tar", ".tgz", ".txz", ".tbz2", ".tar.gz", ".tar.xz", ".tar.bz2", ".zip")
_SAMPLE_FILES = 1000
_UNLABELLED = "unsup"  # the folder of aclImdb's unlabelled reviews
_PARTS: dict[str, Part] = {"train": "train", "test": "test"}
_PART_NAME = re.compile(r"(?:.*[-_.])?(train|test)")
# A file's name, with "/" between folders; its size in bytes; and a function that reads its content.
Member = tuple[str, int, Callable[[], bytes]]

_REMEDY = "Give a folder, or a tar or zip of it; to allow more bytes, raise --max-data-bytes."
_PIECE_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 20


class ClassSource(Source):
    """Texts in a folder for each class, in the archive's order, or sorted."""

    unit = "file"

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        endings = filter(path.name.lower().endswith, ARCHIVES)
        self._ending = "" if path.is_dir() else max(endings, key=len)
        super().__init__(path, path.name[: len(path.name) - len(self._ending)])
        self._folder, self._max_bytes = path, max_bytes
        sample = [_folders(name) for name, *_ in itertools.islice(self._members(), _SAMPLE_FILES)]
        in_parts = [names for names in sample if len(names) > 2 and _part(names[-3])]
        depths = Counter(len(names) for names in in_parts or sample if len(names) > 1)
        if not depths:
            raise InputError(
                f"{path} has no folder with files in it. Give a folder (or a tar or zip) with a "
                "folder of texts for each class, in train and test if it is split."
            )
        ((self._depth, _),) = depths.most_common(1)
        self._has_parts = bool(in_parts)
        self.note = "classes and parts" if self._has_parts else "classes"
        self.note += " from the names of folders"

    def rows(self, problems: Problems) -> Iterator[tuple[str, str, str, Part]]:
        with damage(self.path, what="a tar file", remedy=_REMEDY):  # others raise InputErrors
            for name, size, read in self._members():
                folders = _folders(name)
                if flaw := self._flaw(folders):
                    problems.add(flaw, self.where(name))
                    continue
                if size > MAX_TEXT_BYTES:
                    raise InputError(
                        f"{self.path}: the file {name} has {size:,} bytes, and a text may have "
                        f"{MAX_TEXT_BYTES:,}. Remove it, or give a folder with a file for each."
                    )
                text = decoded(read(), problems, self.where(name))
                yield name, text, folders[-2], _part(folders[-3]) if self._has_parts else ""

    def _flaw(self, folders: list[str]) -> str:
        if any(folder.startswith((".", "__MACOSX")) for folder in folders):
            return "hidden file"
        if len(folders) != self._depth or (self._has_parts and not _part(folders[-3])):
            return "file outside of a class's folder"
        return "unlabelled text in unsup" if folders[-2] == _UNLABELLED else ""

    def _members(self) -> Iterator[Member]:
        if not self._ending:
            return _folder_members(self._folder)
        members = _zip_members if self._ending == ".zip" else _tar_members
        return members(self._folder, self._max_bytes)


def _folders(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _part(folder: str) -> Part:
    match = _PART_NAME.fullmatch(folder.lower())
    return _PARTS[match[1]] if match else ""


def _folder_members(folder: Path) -> Iterator[Member]:
    """Yields a folder's files, sorted, then those of its folders; follows no links to folders."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}. {_REMEDY}")

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        inside = os.fsencode(os.path.relpath(place, folder)).decode(errors="replace")
        for file in sorted(files):
            path = os.path.join(place, file)
            with damage(path, what="a file", remedy=_REMEDY):
                size = os.stat(path).st_size
            name = f"{inside}/{os.fsencode(file).decode(errors='replace')}"
            yield name, size, functools.partial(_content, path)


def _content(path: str) -> bytes:
    with opened(path, remedy=_REMEDY) as file:
        return file.read()


def _zip_members(path: Path, max_bytes: int) -> Iterator[Member]:
    with Archive(path, what="a zip file", remedy=_REMEDY, max_bytes=max_bytes) as archive:
        for member in archive.zip.infolist():
            if not member.is_dir():
                read = functools.partial(archive.read, member.filename)
                yield member.filename, member.file_size, read


def _tar_members(path: Path, max_bytes: int) -> Iterator[Member]:
    """Yields the files of a tar, which may be compressed by gzip, bzip2 or xz, in its order."""
    with opened(path, remedy=_REMEDY) as file, damage(path, what="a tar file", remedy=_REMEDY):
        limit: Any = {"most": max(max_bytes, os.fstat(file.fileno()).st_size), "remedy": _REMEDY}
        with tarfile.open(
            fileobj=file, tarinfo=_TarMember, encoding="utf-8", errors="replace"
        ) as archive:
            for member in archive:
                # tarfile would keep all of them.
                archive.members.clear()  # type: ignore[attr-defined]
                require_unpacked(path, member.offset_data + member.size, **limit)
                if member.size < 0:  # tarfile would go back and begin again
                    raise ValueError(f"its member {member.name:.100} has a negative size")
                if not member.isdir():
                    if not member.isreg() or member.issparse():
                        raise ValueError(f"its member {member.name:.100} is no regular file")
                    content: Any = archive.extractfile(member)
                    yield member.name, member.size, content.read
            stream: Any = archive.fileobj
            while stream.read(_PIECE_BYTES):  # up to the checksum at the end
                require_unpacked(path, stream.tell(), **limit)


class _TarMember(tarfile.TarInfo):
    """Refuses damaged headers, which tarfile takes for the archive's end, and oversized ones."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise ValueError(f"a header is damaged ({error})") from error
        is_data = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
        if not is_data and not 0 <= member.size <= _MAX_HEADER_BYTES:
            raise ValueError(f"a header has {member.size:,} bytes")
        return member
