"""Lines of text files from untrusted sources."""

from collections.abc import Iterator
from pathlib import Path

from harness.base.errors import InputError
from harness.base.reading import damage, opened
from harness.data.readers.records import MAX_TEXT_BYTES, Problems

UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class Lines:
    """Iterates over the lines of a UTF-8 file, each with its line break. Replaces and counts
    invalid UTF-8; raises InputError for a row longer than MAX_TEXT_BYTES."""

    def __init__(
        self,
        path: Path,
        problems: Problems,
        *,
        remedy: str,
        offset: int = 0,
        end: int | None = None,
        number: int = 0,
    ) -> None:
        """Args:
        path: the file.
        problems: counts invalid UTF-8.
        remedy: the end of error messages.
        offset, end: where the first line begins and the last one ends, in bytes.
        number: how many lines come before the first.
        """
        self.path, self.problems, self._remedy = path, problems, remedy
        self.offset, self._end = offset, end
        """Start of the next line, in bytes."""
        self.number = number
        """Number of the last line that was read."""
        self.at_end = False
        self.start_row()

    def start_row(self) -> None:
        """Starts another row; the consumer calls this between rows."""
        self.row_bytes = 0

    def __iter__(self) -> Iterator[str]:
        with (
            opened(self.path, remedy=self._remedy) as file,
            damage(self.path, what="a text file", remedy=self._remedy),
        ):
            file.seek(self.offset)
            while self._end is None or self.offset < self._end:
                line = file.readline(MAX_TEXT_BYTES + 1)
                if not line:
                    break
                self.number += 1
                self.offset += len(line)
                self.row_bytes += len(line)
                if self.row_bytes > MAX_TEXT_BYTES:
                    raise InputError(
                        f"{self.path}, line {self.number}: the row that ends here or later is "
                        f"longer than {MAX_TEXT_BYTES:,} bytes. Is a quote never closed? "
                        f"{self._remedy}"
                    )
                if self.offset == len(line):  # the file's first line
                    if mark := _OTHER_MARKS.get(line[:2]):
                        raise InputError(f"{self.path} is encoded in {mark}. Save it as UTF-8.")
                    line = line.removeprefix(UTF8_MARK)
                yield decoded(line, self.problems, self.path, "line", self.number)
        self.at_end = True


def decoded(
    content: bytes | bytearray, problems: Problems, path: Path | str, unit: str, number: int | str
) -> str:
    """Decodes UTF-8; replaces invalid bytes by U+FFFD, and counts the text as a problem."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        problems.add("invalid UTF-8", f"{path}, {unit} {number}")
        return content.decode(errors="replace")
