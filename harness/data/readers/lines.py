"""Lines of a text file that somebody else may have written."""

from collections.abc import Iterator
from pathlib import Path

from harness.data.readers.records import MAX_TEXT_BYTES, Problems
from harness.errors import InputError
from harness.reading import damage, opened

_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class Lines:
    """Iterates over the lines of a UTF-8 file, each with its line break. What is no UTF-8 is
    replaced and counted; a row longer than MAX_TEXT_BYTES is an InputError."""

    def __init__(self, path: Path, problems: Problems, *, remedy: str) -> None:
        self.path, self.problems, self._remedy = path, problems, remedy
        self.number = 0
        """Lines read."""
        self.at_end = False
        self.start_row()

    def start_row(self) -> None:
        """What follows is another row: the consumer says so after each."""
        self.row_bytes = self.quotes = 0

    def __iter__(self) -> Iterator[str]:
        with (
            opened(self.path, remedy=self._remedy) as file,
            damage(self.path, what="a text file", remedy=self._remedy),
        ):
            while line := file.readline(MAX_TEXT_BYTES + 1):
                self.number += 1
                self.row_bytes += len(line)
                self.quotes += line.count(b'"')
                if self.row_bytes > MAX_TEXT_BYTES:
                    raise InputError(
                        f"{self.path}, line {self.number}: the row that ends here or later is "
                        f"longer than {MAX_TEXT_BYTES:,} bytes. Is a quote never closed? "
                        f"{self._remedy}"
                    )
                if self.number == 1:
                    if mark := _OTHER_MARKS.get(line[:2]):
                        raise InputError(f"{self.path} is encoded in {mark}. Save it as UTF-8.")
                    line = line.removeprefix(_UTF8_MARK)
                yield decoded(line, self.problems, self.path, "line", self.number)
        self.at_end = True


def decoded(
    content: bytes | bytearray, problems: Problems, path: Path | str, unit: str, number: int | str
) -> str:
    """UTF-8 as text; what is none is replaced by U+FFFD and counted."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        problems.add("invalid UTF-8", f"{path}, {unit} {number}")
        return content.decode(errors="replace")
