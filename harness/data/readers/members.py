"""Reads the files in a folder, a tar or a zip one by one, without unpacking them to the disk."""

import bz2
import gzip
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

from harness.base.errors import InputError
from harness.base.reading import damage, opened
from harness.data.archive import Archive

# A file's name, with "/" between folders, its size in bytes, and a function that reads it, to be
# called before the next member is taken.
Member = tuple[str, int, Callable[[], bytes | bytearray]]

_REMEDY = "Give a folder, or a tar or zip of it; to allow more bytes, raise --max-data-bytes."
_PIECE_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 20
_TAR_TYPES = (
    *tarfile.SUPPORTED_TYPES,
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),  # headers in the pax format
)
_UNPACKERS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZ": bz2.open,
    b"\xfd7": lzma.open,
}


def folder_members(folder: Path) -> Iterator[Member]:
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
            name = os.fsencode(file).decode(errors="replace")
            yield f"{inside}/{name}", size, partial(_content, path)


def _content(path: str) -> bytes:
    with opened(path, remedy=_REMEDY) as file:
        return file.read()


def zip_members(path: Path, max_bytes: int) -> Iterator[Member]:
    """Yields the files of a zip in the archive's order."""
    with Archive(path, what="a zip file", remedy=_REMEDY, max_bytes=max_bytes) as archive:
        for name in archive.names:
            if not name.endswith("/"):
                yield name, archive.size(name), partial(archive.read, name)


def tar_members(path: Path, max_bytes: int) -> Iterator[Member]:
    """Yields the files of a tar, which may be compressed by gzip, bzip2 or xz, in its order."""
    with opened(path, remedy=_REMEDY) as file, damage(path, what="a tar file", remedy=_REMEDY):
        max_bytes = max(max_bytes, os.fstat(file.fileno()).st_size)
        unpacker = _UNPACKERS.get(file.peek(2)[:2])
        stream = unpacker(file) if unpacker else file
        num_bytes = 0

        def count(size: int) -> None:
            nonlocal num_bytes
            num_bytes += size
            if num_bytes > max_bytes:
                raise InputError(
                    f"{path} unpacks to more than the {max_bytes:,} bytes that are allowed. "
                    f"{_REMEDY}"
                )

        with tarfile.open(
            fileobj=stream, mode="r|", tarinfo=_TarMember, encoding="utf-8", errors="replace"
        ) as archive:
            for member in archive:
                # tarfile would keep all of them.
                archive.members.clear()  # type: ignore[attr-defined]
                count(tarfile.BLOCKSIZE + member.size)  # before tarfile passes over them
                if not member.isdir():
                    if not member.isreg() or member.issparse():
                        raise ValueError(f"its member {member.name:.100} is no regular file")
                    yield member.name, member.size, partial(_extracted, archive, member, path)
        while piece := stream.read(_PIECE_BYTES):  # up to the checksum at the end
            count(len(piece))


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
        if member.type not in _TAR_TYPES or member.size < 0:
            raise ValueError("a header is of no known type")
        is_data = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
        if not is_data and member.size > _MAX_HEADER_BYTES:
            raise ValueError(f"a header has {member.size:,} bytes")
        return member


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> bytes:
    with damage(path, what="a tar file", remedy=_REMEDY):
        file = archive.extractfile(member)
        return file.read() if file else b""
