"""Reads texts to judge, one a line, from arguments, standard input or files, a block at a time."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.base.errors import InputError
from harness.base.reading import opened

_BLOCK_BYTES = 1 << 18
_MAX_LINE_BYTES = 100_000_000
_REMEDY = "Name a file with a text in each line; a pipe goes to standard input."


@dataclass
class Oddities:
    """The oddities of the texts read so far."""

    texts: int = 0
    blank: int = 0
    undecodable: int = 0
    """The number of lines that are not UTF-8, whose wrong bytes became U+FFFD."""

    def notes(self) -> list[str]:
        """Returns a sentence for each kind of oddity."""
        found = []
        if self.blank:
            found.append(f"{self.blank:,} of {self.texts:,} texts are blank and were not judged")
        if self.undecodable:
            found.append(
                f"{self.undecodable:,} of {self.texts:,} texts are not UTF-8; what is wrong in "
                "them was replaced by U+FFFD"
            )
        return found


def blocks_of_texts(
    texts: Sequence[str], files: Sequence[str], oddities: Oddities
) -> Iterator[list[str]]:
    """Yields the texts, or the lines of the files, or those of standard input, as they come."""
    if texts:
        # Python has lone surrogates for the bytes of an argument that it could not decode: those
        # that are not UTF-8 or, where the locale is C without UTF-8, all beyond ASCII.
        readable = [t.encode(errors="surrogateescape").decode(errors="replace") for t in texts]
        yield _counted(readable, oddities)
        return
    for name in files:
        with opened(name, remedy=_REMEDY):
            pass  # so that a file that cannot be read is reported before the others are judged
    for name in files:
        with opened(name, remedy=_REMEDY) as file:
            yield from _lines(file, name, oddities)
    if not files:
        yield from _lines(getattr(sys.stdin, "buffer", sys.stdin), "standard input", oddities)


def _lines(stream: Any, name: str, oddities: Oddities) -> Iterator[list[str]]:
    kept: list[bytes] = []
    num_kept = 0
    while block := stream.read1(_BLOCK_BYTES):
        head, newline, tail = block.rpartition(b"\n")
        if newline:
            yield _decoded(b"".join([*kept, head]), oddities)
            kept, num_kept = [], 0
        kept.append(tail)
        num_kept += len(tail)
        if num_kept > _MAX_LINE_BYTES:
            raise InputError(
                f"{name}: line {oddities.texts + 1:,} has more than {_MAX_LINE_BYTES:,} bytes; "
                "give one text a line"
            )
    if last := b"".join(kept):
        yield _decoded(last, oddities)


def _decoded(content: bytes, oddities: Oddities) -> list[str]:
    lines = content.split(b"\n")
    try:
        texts = content.decode().split("\n")
    except UnicodeDecodeError:
        texts = [line.decode(errors="replace") for line in lines]
        for line, text in zip(lines, texts, strict=True):
            oddities.undecodable += "\ufffd" in text and text.encode() != line
    return _counted([text.removesuffix("\r") for text in texts], oddities)


def _counted(texts: list[str], oddities: Oddities) -> list[str]:
    oddities.texts += len(texts)
    oddities.blank += sum(not text.strip() for text in texts)
    return texts
