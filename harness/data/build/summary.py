"""What a build came to: kept beside the data set, and told to whoever uses it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.base.errors import InputError
from harness.base.files import write_json
from harness.base.reading import read_json

FILE_NAME = "build.json"


@dataclass(frozen=True, kw_only=True)
class Built:
    """A data set that was built."""

    source: str
    note: str
    """What was found out about the source, such as which columns were taken."""
    train_rows: int
    test_rows: int
    test_rows_drawn: bool
    """Whether they were drawn from all rows, because the source has none."""
    multi_label: bool
    rows_of_classes: Mapping[str, int]
    num_tokens: int
    num_ids: int
    """Of all rows, repeated ones included."""
    num_unknown: int
    """Of these, the tokens that the vocabulary does not have."""
    problems: Mapping[str, int]
    """By kind: how many."""
    first_problems: Mapping[str, str]
    """By kind: where the first was."""

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        write_json(path, {**asdict(self), "notes": self.notes()})

    def notes(self) -> list[str]:
        """A sentence for each thing that the user should know of."""
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
    """The notes of a build whose `Built.save` wrote this.

    Raises:
        InputError: it is none.
    """
    content = read_json(path, remedy="Build the data set again.")
    notes = content.get("notes")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise InputError(f"{path} has no notes of a build. Build the data set again.")
    return notes
