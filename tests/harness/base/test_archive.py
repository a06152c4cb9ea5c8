"""Archives and arrays that somebody else may have written: whole and bounded, or refused."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.base.archive import Archive
from harness.base.errors import InputError

ARRAY = np.arange(12, dtype=np.int32).reshape(3, 4)
DIRECTORY = b"PK\x01\x02"


def npy(array: np.ndarray = ARRAY) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def with_field(content: bytes, offset: int, layout: str, value: int) -> bytes:
    """Returns the archive with another value in its directory's first entry."""
    at = content.index(DIRECTORY) + offset
    new = struct.pack(layout, value)
    return content[:at] + new + content[at + len(new) :]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", npy())
        archive.writestr("b.npy", npy())
    return tmp_path / "a.npz"


def opened(path: Path) -> Archive:
    return Archive(path, what="an archive", remedy="Name another.", max_bytes=1_000)


@pytest.mark.parametrize("layout", ["C", "F"])
def test_arrays_are_read_as_numpy_reads_them(path: Path, layout: str) -> None:
    array = np.asarray(ARRAY, order=layout)  # type: ignore[call-overload]
    np.savez_compressed(path, a=array)
    with opened(path) as archive:
        assert archive.zip.namelist() == ["a.npy"]
        np.testing.assert_array_equal(archive.read_array("a"), array)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda content: content.replace(b"b.npy", b"a.npy"), "lists a member twice"),
        (lambda content: with_field(content, 24, "<I", 2**32 - 2), "at least 4,294,967,470"),
        (lambda content: content[:-30], "not a zip file"),
    ],
    ids=["twice", "size", "cut"],
)
def test_a_directory_that_is_refused(
    path: Path, change: Callable[[bytes], bytes], fact: str
) -> None:
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=rf"a\.npz .*{fact}.* Name another\."):
        opened(path)


def test_a_file_may_hold_as_much_as_it_takes_on_the_disk(path: Path) -> None:
    np.savez(path, a=np.zeros(10_000))
    with opened(path) as archive:
        assert archive.read_array("a").nbytes == 80_000
    np.savez_compressed(path, a=np.zeros(10_000))
    with pytest.raises(InputError, match=r"at least 80,128 bytes, and 1,000 are allowed\. Name"):
        opened(path)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<i4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (0,), }",
        "{'descr': '<i4', 'fortran_order': False, 'shape': " + "(" * 5_000,
    ],
    ids=lambda header: header[-20:],
)
def test_headers_that_are_no_arrays(path: Path, header: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        length = struct.pack("<H", len(header))
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + length + header.encode())
    with (
        Archive(path, what="an archive", remedy="Name another.") as archive_,
        pytest.raises(InputError, match=r"a\.npz (is damaged|takes more memory).*Name another\."),
    ):
        archive_.read_array("a")
