"""Files that somebody else may have written: what is read of them, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.base.errors import InputError
from harness.base.reading import damage, opened, read_json, read_toml, require_text


def read(path: Path) -> object:
    return read_toml(path) if path.suffix == ".toml" else read_json(path, remedy="Name another.")


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("a.json", b"", "Expecting value"),
        ("a.json", b"[1]", "it holds a list"),
        ("a.json", b"\xff{}", "can't decode"),
        ("a.json", b'{"a": [{"b": 1' + b"0" * 400 + b"}]}", "more than 64 bits"),
        ("a.toml", b"a = 0x" + b"f" * 10_000, "more than 64 bits"),
        ("a.json", b'{"a":' * 60 + b"1" + b"}" * 60, "nested deeper than 50 levels"),
        ("a.json", b"[" * 100_000, "recursion"),
        ("a.json", b" " * 32_000_001, "longer than 32 MB"),
        ("a.json", b'{"a": [' + b"[]," * 1_000_000 + b"1]}", "more than 1,000,000 tables"),
        ("a.toml", b"a = 1\na = 2", "overwrite"),
        ("a.toml", b"a" + b".a" * 60 + b" = 1", "nested deeper than 50 levels"),
        ("a.toml", b"a" + b".a" * 5_001 + b" = 1", "more than 5,000 dots"),
        ("a.toml", b"#" * 1_000_001, "longer than 1 MB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_content_that_is_refused(tmp_path: Path, name: str, content: bytes, fact: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"(?s)^{path} is damaged, or not a .*{fact}.*\\."):
        read(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"{}" + b" " * 31_999_998),
        ("a.json", b'{"a": [' + b"[]," * 999_998 + b"1]}"),
        ("a.json", b'{"a": %d}' % (2**64 - 1)),
        ("a.json", b'{"a":' * 50 + b"1" + b"}" * 50),
        ("a.toml", b"#" * 1_000_000),
        ("a.toml", b"#" + b"." * 5_000),
    ],
    ids=["bytes", "lists", "bits", "depth", "bytes of TOML", "dots"],
)
def test_content_up_to_the_limits_is_read(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert isinstance(read(path), dict)


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        os.mkdir,
        lambda path: os.symlink("/dev/zero", path),
        lambda path: os.symlink("/proc/self/status", path),  # which calls itself regular
        lambda path: os.symlink(os.path.basename(path), path),
        lambda path: os.symlink("nowhere", path),
        lambda path: os.symlink("n" * 300, path),
        lambda path: None,
    ],
    ids=["pipe", "folder", "zeros", "kernel", "loop", "dangling", "long name", "nothing"],
)
def test_what_is_no_file_is_neither_read_nor_waited_for(
    tmp_path: Path, make: Callable[[str], None]
) -> None:
    make(str(tmp_path / "a"))
    with pytest.raises(InputError, match=r"/a (is not a regular file|cannot be read: .*)\. Go\."):
        opened(tmp_path / "a", remedy="Go.")


def test_what_is_no_text_is_refused() -> None:
    require_text(b"0123456789\0", "a", remedy="Go.")  # a bad character of some row
    for beginning, fact in (
        (b"\xfe\xff\0a", "encoded in UTF-16"),
        (b"012345678\0", "not text: .* Go"),
    ):
        with pytest.raises(InputError, match=f"^a is {fact}"):
            require_text(beginning, "a", remedy="Go.")


def test_a_message_keeps_the_fact_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught, damage("a", what="a b", remedy="Go."):
        raise ValueError("\x1b[31m" + "long" * 100_000)
    message = str(caught.value)
    assert len(message) < 500
    assert message.startswith("a is damaged, or not a b: \\x1b[31mlong")
    assert message.endswith("Go.")
