"""A folder for each class, on the disk and in archives, and archives that mean harm."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.readers.formats import open_source
from harness.data.readers.records import MAX_TEXT_BYTES, Problems

Reader = Callable[..., Any]

IMDB = {
    "aclImdb/README": b"about",
    "aclImdb/test/neg/0_2.txt": b"bad test",
    "aclImdb/test/pos/0_9.txt": b"good test",
    "aclImdb/train/neg/0_1.txt": b"bad",
    "aclImdb/train/neg/1_1.txt": b"\xef\xbb\xbfvery bad",  # with the mark of Windows
    "aclImdb/train/pos/0_10.txt": b"good",
    "aclImdb/train/unsup/0_0.txt": b"who knows",
    "aclImdb/train/urls_pos.txt": b"http://",
}


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_tar(path: Path, files: Mapping[str, bytes], mode: Any = "w", **change: Any) -> Path:
    """Further arguments are attributes of each member."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in change.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("form", ["folder", "tar", "tgz", "tar.xz", "zip"])
def test_the_published_layout_of_imdb(tmp_path: Path, read: Reader, form: str) -> None:
    path = tmp_path / f"reviews.{form}"
    if form == "folder":
        write_folder(path, IMDB)
    elif form == "zip":
        write_zip(path, IMDB)
    else:
        write_tar(
            path, IMDB, "w" if form == "tar" else f"w:{form.replace('tgz', 'gz')[-3:].strip('.')}"
        )
    source = open_source(path)
    rows = read(source)
    assert rows.contents == ["bad test", "good test", "bad", "very bad", "good"]
    assert rows.labels == ["neg", "pos", "neg", "neg", "pos"]
    assert rows.parts == ["test", "test", "train", "train", "train"]
    assert (rows.parts[0], rows.parts[-1], len(rows.num_rows)) == ("test", "train", 2)
    assert rows.problems.counts == {
        "file outside of a class's folder": 2,
        "unlabelled text in unsup": 1,
    }
    assert source.name == ("reviews.folder" if form == "folder" else "reviews")
    assert source.note == "classes and parts from the names of folders"
    assert len(os.listdir(tmp_path)) == 1, "nothing is unpacked"


@pytest.mark.parametrize("prefix", ["", "./", "a/b/"])
def test_a_folder_for_each_class(tmp_path: Path, read: Reader, prefix: str) -> None:
    files = {
        f"{prefix}neg/cv000": b"bad\xff",
        f"{prefix}pos/cv001.txt": b"",
        f"{prefix}pos/.cv001.swp": b"x",
    }
    for path in (write_folder(tmp_path / "f", files), write_tar(tmp_path / "x.tar", files)):
        rows = read(open_source(path))
        assert rows.contents == ["bad\ufffd", ""]
        assert rows.labels == ["neg", "pos"]
        assert rows.parts == ["", ""]
        wrong, *others = rows.problems.counts.items()
        assert (wrong[0].startswith("invalid UTF-8"), wrong[1]) == (True, 1)
        assert dict(others) == {"empty text": 1, "hidden file": 1}
        assert rows.problems.first[wrong[0]].startswith(f"{path}, file ")


def test_parts_by_the_endings_of_their_names(tmp_path: Path, read: Reader) -> None:
    """20 Newsgroups is published in this form."""
    files = {"20news-bydate-test/sci.med/1": b"a", "20news-bydate-train/sci.med/2": b"b"}
    rows = read(open_source(write_tar(tmp_path / "20news-bydate.tar.gz", files, "w:gz")))
    assert (rows.parts, rows.labels) == (["test", "train"], ["sci.med", "sci.med"])


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pos/link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "link is no regular"),
        ("pos/zero", {"type": tarfile.CHRTYPE}, "pos/zero is no regular file"),
        ("pos/x", {"pax_headers": {"size": "9" * 15}}, "and 1,000,000,000 are allowed"),
    ],
)
def test_a_tar_that_means_harm(
    tmp_path: Path, name: str, change: dict[str, Any], message: str
) -> None:
    path = write_tar(tmp_path / "evil.tar", {name: b""}, **change)
    with pytest.raises(InputError, match=message):
        open_source(path)
    assert os.listdir(tmp_path) == ["evil.tar"]


@pytest.mark.parametrize("form", ["zip", "tar.xz"])
def test_a_bomb(tmp_path: Path, read: Reader, form: str) -> None:
    files = {f"pos/{number}": bytes(1_000_000) for number in range(3)}
    path = tmp_path / f"bomb.{form}"
    write_zip(path, files) if form == "zip" else write_tar(path, files, f"w:{form[-2:]}")
    with pytest.raises(InputError, match=r"unpacks to .* allowed.*raise --max-data-bytes"):
        open_source(path, max_data_bytes=2_500_000)
    large = write_zip(tmp_path / "x.zip", {"pos/x": bytes(MAX_TEXT_BYTES + 1)})
    with pytest.raises(InputError, match=r"pos/x has 8,000,001 bytes, and a text may have 8,000,0"):
        read(open_source(large))


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_a_damaged_archive_loses_no_row_in_silence(tmp_path: Path, read: Reader, form: str) -> None:
    path = tmp_path / f"reviews.{form}"
    files = {f"pos/{number}": os.urandom(700) for number in range(2000)}
    write_zip(path, files) if form == "zip" else write_tar(
        path, files, "w" if form == "tar" else f"w:{form[-2:]}"
    )
    whole = path.read_bytes()
    # Cut in a member's content, and for a plain tar between two members and in a header's bytes.
    for content in (
        whole[: len(whole) * 3 // 4],
        *(
            (whole[: 1536 * 1500], whole[: 1536 * 1500] + b"x" + whole[1536 * 1500 + 1 :])
            * (form == "tar")
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"is damaged, or not a (tar|zip) file"):
            read(open_source(path))


def test_no_folder_of_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "flat", {"one.txt": b"x"})
    with pytest.raises(InputError, match=r"has no columns. Leave out the options"):
        open_source(tmp_path / "flat", BuildOptions(text_column="text"))
    with pytest.raises(InputError, match=r"No file or folder .*none"):
        open_source(tmp_path / "none")
    write_folder(tmp_path / "pipe", {"pos/a": b"x"})
    os.mkfifo(tmp_path / "pipe" / "pos" / "b")
    with pytest.raises(InputError, match="b is not a regular file"):
        list(open_source(tmp_path / "pipe").blocks(Problems()))
