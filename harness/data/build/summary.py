"""Summary of a build, which is kept beside the data set and shown to its users."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.base.errors import InputError
from harness.base.files import write_json
from harness.base.reading import read_json

FILE_NAME = "build.json"


@dataclass(frozen=True, kw_only=True)
class Built:
    """Facts about a data set that was built."""

    source: str
    note: str
    """The reader's findings about the source, such as which columns it took."""
    train_rows: int
    test_rows: int
    test_rows_drawn: bool
    multi_label: bool
    rows_of_classes: Mapping[str, int]
    num_tokens: int
    num_ids: int
    """Number of ids in all rows, including repeated ones."""
    num_unknown: int
    """Number of these ids that stand for tokens outside the vocabulary."""
    problems: Mapping[str, int]
    """Number of problems of each kind."""
    first_problems: Mapping[str, str]
    """Place of the first problem of each kind."""

    def save(self, path: Path) -> None:
        write_json(path, {**asdict(self), "notes": self.notes()})

    def notes(self) -> list[str]:
        """Returns notes for the user, a sentence each."""
        found = [f"{self.source}: {self.note}"] if self.note else []
        if self.test_rows_drawn:
            found.append(
                f"{self.source}: {self.test_rows:,} of {self.train_rows + self.test_rows:,} rows "
                "were drawn to test on, the same share of each class"
            )
        return found + [
            f"{self.first_problems[kind]}: {kind}" + (f" ({count:,} in all)" if count > 1 else "")
            for kind, count in self.problems.items()
        ]


def notes_in(path: Path) -> list[str]:
    """Reads the notes in a file that `Built.save` wrote."""
    content = read_json(path, remedy="Build the data set again.")
    notes = content.get("notes")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise InputError(f"{path} has no notes of a build. Build the data set again.")
    return notes
