"""Finds the columns of a table that hold the texts and the labels, by name or by content."""

from collections.abc import Sequence
from typing import Any

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.data.readers.records import Source, kind_of, plain

SAMPLE_ROWS = 200
_CONTENT_NAMES = (
    *("text", "review", "sentence", "content", "comment", "body", "message", "tweet", "document"),
    *("review_text", "reviewtext", "utterance", "question", "query", "description"),
    *("tokens", "words", "ids", "items", "basket"),
)
LABEL_NAMES = (
    *("label", "labels", "sentiment", "class", "category", "categories", "intent", "emotion"),
    *("emotions", "target", "topic", "topics", "genre", "genres", "tag", "tags", "stars"),
    *("rating", "polarity", "y"),
)
_KNOWN_NAMES = {*_CONTENT_NAMES, *LABEL_NAMES}
_MAX_LISTED = 1000
_MAX_NAME = 40
_MAX_NAME_WORDS = 4


class TableSource(Source):
    """A table, with a column of texts, tokens or ids and one of labels."""

    content_column = label_column = ""

    def choose(
        self, names: Sequence[str], sample: Sequence[Sequence[Any]], options: BuildOptions
    ) -> None:
        """Chooses the columns to read by the `names` of all, which are numbers from 1 without a
        header, and by a sample of rows; finds the form of the rows."""
        listed = f"Its columns are {', '.join(names):.{_MAX_LISTED}}."
        for name in _named(options):
            if name not in names:
                raise InputError(f"{self.path} has no column {name}. {listed} {_REMEDY}")
        label = options.label_column
        if label == "":
            raise InputError(f"{self.path} has no labels, which training needs. Name their column.")
        content = options.text_column or by_name(names, _CONTENT_NAMES, label)
        if label is None:
            label = by_name(names, LABEL_NAMES, content)
        if len(names) == 2:
            if content is None and label is None:
                content = _longer(names, sample)
            other: dict[Any, str] = dict(zip(names, reversed(names), strict=True))
            content, label = content or other.get(label), label or other.get(content)
        if content is None or label is None or content == label:
            what = "the text" if content is None else "the label"
            raise InputError(
                f"{self.path}: it is not plain which column is {what}. {listed} {_REMEDY}"
            )
        for name in (content, label):
            if names.count(name) > 1:
                raise InputError(f"{self.path} has two columns {name}. Give each its own name.")
        self.content_column, self.label_column = content, label
        self.note = f"text from column {content}, labels from column {label}"
        contents, labels = (
            [row[place] for row in sample if place < len(row)]
            for place in (names.index(content), names.index(label))
        )
        self.kind = kind_of(contents)
        self.separator = options.label_separator
        are_lists = (isinstance(plain(label), list | tuple) for label in labels)
        self.is_multi_label = bool(self.separator) or any(are_lists)


_REMEDY = "Set --text-column and --label-column, to a name or, without a header, to a number."


def has_header(rows: Sequence[Sequence[str]], options: BuildOptions) -> bool:
    """Whether the first row names the columns: the user or this module knows one of its names, or
    each cell looks like a name. A single name that occurs again below is a label, as "question"."""
    first, named = [cell.strip() for cell in rows[0]], _named(options)
    if any(name in first for name in named):
        return True
    if any(name.isdecimal() for name in named):
        return False
    below = [
        {row[index].strip() for row in rows[1:] if index < len(row)} for index in range(len(first))
    ]
    is_new = [cell not in seen for cell, seen in zip(first, below, strict=True)]
    known = [new for cell, new in zip(first, is_new, strict=True) if cell.lower() in _KNOWN_NAMES]
    if len(known) > 1 or any(known):
        return True
    return len(set(first)) == len(first) and all(is_new) and all(map(_looks_like_a_name, first))


def _named(options: BuildOptions) -> list[str]:
    return [name for name in (options.text_column, options.label_column) if name]


def _looks_like_a_name(cell: str) -> bool:
    is_short = 0 < len(cell) <= _MAX_NAME and len(cell.split()) <= _MAX_NAME_WORDS
    return is_short and any(character.isalpha() for character in cell) and cell[-1] not in ".!?"


def by_name(names: Sequence[str], known: Sequence[str], taken: str | None = None) -> str | None:
    """Returns the column, other than `taken`, with the first of the `known` names that one has."""
    lower = {name.strip().lower(): name for name in reversed(names) if name != taken}
    return next((lower[name] for name in known if name in lower), None)


def _longer(names: Sequence[str], sample: Sequence[Sequence[Any]]) -> str | None:
    """Returns the one of two columns with cells at least twice as long as the other's, if any."""
    first, second = (
        sum(len(str(row[index] or "")) for row in sample if len(row) == 2) for index in (0, 1)
    )
    if first >= 2 * second:
        return names[0]
    return names[1] if second >= 2 * first else None
