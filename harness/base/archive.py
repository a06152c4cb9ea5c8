"""Zip archives and NumPy's arrays that somebody else may have written: read whole or refused."""

import contextlib
import io
import math
import os
import shutil
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

from harness.base.checks import require
from harness.base.reading import MAX_UNPACKED_BYTES, damage, opened

MAX_HEADER_BYTES = 16_384  # of an .npy file; NumPy parses no header of more than 10,000
_PIECE_BYTES = 1 << 20


class Archive(contextlib.AbstractContextManager["Archive"]):
    """A zip file of bounded size that lists no member twice, and is read into memory."""

    def __init__(
        self, path: str | Path, *, what: str, remedy: str, max_bytes: int = MAX_UNPACKED_BYTES
    ) -> None:
        """`what` the file should be and `remedy` are for messages. Its members may unpack to
        `max_bytes`, or to the file's size if that is larger."""
        self.path, self._what, self._remedy = path, what, remedy
        with contextlib.ExitStack() as closing:
            file = closing.enter_context(opened(path, remedy=remedy))
            with self.damage():
                self.zip = closing.enter_context(ZipFile(file))
                members = self.zip.infolist()
                if len({member.filename for member in members}) < len(members):
                    raise ValueError("it lists a member twice")
                max_bytes = max(max_bytes, os.fstat(file.fileno()).st_size)
                num_bytes = sum(member.file_size for member in members)
                require_unpacked(path, num_bytes, most=max_bytes, remedy=remedy)
            self._closing = closing.pop_all()

    def read(self, name: str) -> bytes:
        """Returns the content of a member, after a check of its checksum."""
        content = io.BytesIO()
        # ZipFile.read would unpack it in one piece, which may be larger than the directory says.
        with self.damage(), self.zip.open(name) as stream:
            shutil.copyfileobj(stream, content, _PIECE_BYTES)
        return content.getvalue()

    def read_array(self, name: str) -> npt.NDArray[Any]:
        with self.damage(), self.zip.open(f"{name}.npy") as stream:
            array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
            if stream.read(1):  # this also compares the checksum
                raise ValueError(f"its member {name:.100} holds more than an array")
        return array

    def read_kind(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Returns the dtype and shape of the array in `name`.npy; reads only its header, and checks
        that the member is as long as it says."""
        with self.damage(), self.zip.open(f"{name}.npy") as stream:
            shape, _, dtype, begin = array_header(stream.read(MAX_HEADER_BYTES))
            size = self.zip.getinfo(f"{name}.npy").file_size
            if size != begin + math.prod(shape) * dtype.itemsize:
                raise ValueError(f"its member {name:.100} is longer or shorter than its array")
            return dtype, shape

    def check(self) -> None:
        with self.damage():
            if (name := self.zip.testzip()) is not None:
                raise ValueError(f"its member {name:.100} has another checksum")

    def damage(self) -> contextlib.AbstractContextManager[None]:
        return damage(self.path, what=self._what, remedy=self._remedy)

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def require_unpacked(path: str | Path, num_bytes: int, *, most: int, remedy: str) -> None:
    """Raises InputError if what is known of a file's unpacked size is more than is allowed."""
    require(
        num_bytes <= most,
        f"{path} unpacks to at least {num_bytes:,} bytes, and {most:,} are allowed. {remedy}",
    )


def array_header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Returns an .npy header's shape, whether the order is Fortran's, the dtype and its size."""
    stream = io.BytesIO(start)
    version = np.lib.format.read_magic(stream)
    # Version 3 differs from 2 in the header's encoding alone, and NumPy has no reader for it.
    one, two = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = (one if version == (1, 0) else two)(stream)
    return shape, fortran_order, dtype, stream.tell()
