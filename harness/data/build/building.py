"""Builds a data set from a source in three passes, none of which holds all rows in memory.

1. Numbers the tokens of each block of rows; notes the rows' parts, labels and digests.
2. Draws test rows if the source has none; counts the tokens of the train rows.
3. Turns tokens into ids and writes them to a store, test rows first.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.base.errors import InputError
from harness.base.files import write_json
from harness.base.reading import read_json
from harness.data import store
from harness.data.build.counting import counted_vocabulary
from harness.data.build.numbering import Spool, numbered_blocks
from harness.data.build.rows import Rows
from harness.data.build.writing import write
from harness.data.options import BuildOptions
from harness.data.readers.records import IN_WORDS, Kind, Problems, Source
from harness.data.tokens import Numbered, Tokenization
from harness.data.vocabulary import FILE_NAME as VOCABULARY_FILE_NAME

FILE_NAME = "build.json"  # the summary of a build, which is kept beside the data set
# Options that do not apply to rows of each kind.
_OPTIONS_OF_TEXTS: dict[Kind, tuple[str, ...]] = {
    "texts": (),
    "tokens": ("tokenizer", "ngrams"),
    "sets": ("tokenizer", "ngrams", "min_count", "hash_bits", "unknown"),
}

Progress = Callable[[int], None]  # callback that is given the number of bytes of text just read


@dataclass(frozen=True, kw_only=True)
class Built:
    """Facts about a data set that was built."""

    source: str
    note: str  # the reader's findings about the source, such as which columns it took
    train_rows: int
    test_rows: int
    test_rows_drawn: bool
    multi_label: bool
    rows_of_classes: Mapping[str, int]
    num_tokens: int
    num_ids: int  # number of ids in all rows, including repeated ones
    num_unknown: int  # number of these ids that stand for tokens outside the vocabulary
    problems: Mapping[str, int]  # number of problems of each kind
    first_problems: Mapping[str, str]  # place of the first problem of each kind

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


def build(
    source: Source,
    options: BuildOptions,
    folder: Path,
    *,
    unique: bool = True,
    seed: int = 0,
    progress: Progress = lambda num_bytes: None,
) -> Built:
    """Builds a data set in a new `folder`; the same source, options and seed give the same one.
    With `unique`, each id of a row is kept once; `progress` gets the number of bytes just read."""
    _check_options(source, options)
    tokenization = Tokenization(tokenizer=options.tokenizer, ngrams=options.ngrams)
    problems, rows = Problems(strict=options.strict), Rows(source)
    folder.mkdir()
    with Spool[Numbered](folder) as spool:
        # First pass: the texts become numbers, block by block.
        blocks = rows.noted(source.blocks(problems))
        for block, digests, num_bytes in numbered_blocks(source, blocks, tokenization):
            spool.add(block)
            rows.add(block, digests)
            progress(num_bytes)
        rows.settle(problems, test_split=options.test_split, seed=seed)
        # Second pass: words are counted in train rows alone, so test rows tell the model nothing.
        vocabulary = counted_vocabulary(rows, options, spool)
        # Third pass: the numbers become ids.
        num_ids, num_unknown = write(rows, vocabulary, spool, folder, unique=unique)
    vocabulary.save(folder / VOCABULARY_FILE_NAME)
    built = Built(
        source=str(source.path),
        note=source.note,
        train_rows=int(rows.train.sum()),
        test_rows=int(rows.test.sum()),
        test_rows_drawn=rows.is_drawn,
        multi_label=rows.is_multi_label,
        rows_of_classes=rows.rows_of_classes(),
        num_tokens=vocabulary.num_tokens,
        num_ids=num_ids,
        num_unknown=num_unknown,
        problems=dict(problems.counts),
        first_problems=dict(problems.first),
    )
    write_json(folder / FILE_NAME, {**asdict(built), "notes": built.notes()})
    described = {
        "name": source.name,
        "num_tokens": vocabulary.num_tokens,
        "num_classes": len(rows.class_names),
        "is_unique": unique or vocabulary.is_weighted or rows.has_weights,
    }
    store.seal(folder, described, held_out_rows=built.test_rows)
    return built


def _check_options(source: Source, options: BuildOptions) -> None:
    usual = BuildOptions()
    chosen = [
        f"--{name.replace('_', '-')}"
        for name in _OPTIONS_OF_TEXTS[source.kind]
        if getattr(options, name) != getattr(usual, name)
    ]
    if chosen:
        which = ", which are its tokens" if source.kind == "tokens" else ""
        raise InputError(
            f"{source.path} holds {IN_WORDS[source.kind]}{which}, so {', '.join(chosen)} cannot "
            "apply. Leave it out."
        )


def notes_in(path: Path) -> list[str]:
    """Reads the notes of a build in its file."""
    content = read_json(path, remedy="Build the data set again.")
    notes = content.get("notes")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise InputError(f"{path} has no notes of a build. Build the data set again.")
    return notes
