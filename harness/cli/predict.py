"""`harness predict`: predicts the class of any texts, by a saved network."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.base.checks import Checked, Number, Whole, require
from harness.base.errors import InputError, printable
from harness.base.files import json_text
from harness.base.quiet import quiet_import
from harness.base.reading import UTF8_MARK, opened, require_text
from harness.base.terminal import table_of

if TYPE_CHECKING:
    from harness.model.judge import Ids, Judge

_SHOWN = 60
_ROWS_AT_ONCE = 4_096
_BLOCK_BYTES = 1 << 18
_MAX_LINE_BYTES = 100_000_000
_REMEDY = "Name a file with a text in each line; a pipe goes to standard input."
# What is said of texts of each kind that is counted.
_NOTES = {
    "blank": "blank and were not judged",
    "undecodable": "not UTF-8; what is wrong in them was replaced by U+FFFD",
}
_NONE = "(none)"  # what stands for the classes of a text that has none


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Checked):
    """Predict the class of texts with a saved model that was trained on word ids."""

    model: str
    """Path to a .keras file, or to a run folder that holds one."""
    texts: tuple[str, ...] = ()
    """The texts. Left out: one a line from --files, or from standard input."""
    files: tuple[str, ...] = ()
    """Files with a text in each line, in UTF-8."""
    threshold: Annotated[float | None, Number(least=0, below=1)] = None
    """Give classes whose probability is above this. Left out: the likeliest class; or, where a row
    may have several, those above the thresholds saved with the model, or above 0.5."""
    top_k: Annotated[int | None, Whole()] = None
    """Give this many classes, the likeliest first, however likely they are."""
    json: bool = False
    """Print one JSON object for each text."""
    explain: Annotated[int, Whole(0)] = 0
    """Number of words of each text to show with their weights: how much the log-odds of the
    predicted class fall when the word is left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not (self.texts and self.files), "give --texts or --files, not both")
        ok = self.threshold is None or self.top_k is None
        require(ok, "give --threshold or --top-k, not both")


def predict(config: PredictConfig) -> int:
    console, notes = Console(), Console(stderr=True)
    counts = Counter[str]()
    blocks = blocks_of_texts(config.texts, config.files, counts)
    first = next(blocks, [])  # a missing file is told before TensorFlow is loaded
    with quiet_import():
        from harness.cli.saved_model import load_saved_model
        from harness.model.heads import head_of
        from harness.model.judge import Judge
    saved = load_saved_model(config.model)
    saved.require_classes()
    model = saved.trainer.model
    if (words := saved.vocabulary) is None:
        raise InputError(
            f"no vocabulary.json lies beside {saved.path}; name the run folder that the model is "
            "from, or, if its training found no words, train again with --word-index"
        )
    head = head_of(model, saved.kind)
    judge = Judge(model, words, head, from_logits=saved.trainer.task.from_logits)
    thresholds: Sequence[float] | None = words.thresholds or [0.5] * len(judge.class_names)
    if config.threshold is not None:
        thresholds = [config.threshold] * len(judge.class_names)
    elif not judge.is_multi_label:
        thresholds = None  # the likeliest class
    found = _predictions(judge, itertools.chain([first], blocks), config, thresholds)
    if config.texts and not config.json:
        console.print(_table(itertools.chain.from_iterable(found), explains=config.explain > 0))
    else:  # a block at a time, so that answers come while texts still do
        for block in found:
            sys.stdout.write("".join(f"{_line(one, as_json=config.json)}\n" for one in block))
            sys.stdout.flush()
    if counts["texts"] == counts["blank"]:
        raise InputError("all texts are blank; give others by --texts, --files or standard input")
    for kind, what in _NOTES.items():
        if counts[kind]:
            text = f"note: {counts[kind]:,} of {counts['texts']:,} texts are {what}"
            notes.print(text, soft_wrap=True, highlight=False)
    return 0


def _predictions(
    judge: Judge,
    blocks: Iterable[list[str]],
    config: PredictConfig,
    thresholds: Sequence[float] | None,
) -> Iterator[list[dict[str, Any]]]:
    """Yields predictions as `--json` prints them, in blocks of at most `_ROWS_AT_ONCE` texts."""
    names, numbers = judge.class_names, itertools.count()

    def prediction(text: str, row: Ids, outputs: list[float]) -> dict[str, Any]:
        order, given = sorted(range(len(names)), key=lambda n: -outputs[n]), list[int]()
        known, words, is_blank = 0, 0, not text.strip()
        if not is_blank:
            known, words = judge.known(text, row)
            given = order[: config.top_k or 1]
            if config.top_k is None and thresholds is not None:
                given = [n for n in order if outputs[n] > thresholds[n]]
        found = {
            "index": next(numbers),
            "text": text,
            "labels": [names[n] for n in given],  # the likeliest first, if one is likely
            "probability": None if is_blank else outputs[order[0]],  # of the likeliest class
            "probabilities": None if is_blank else dict(zip(names, outputs, strict=True)),
            "known_words": known,
            "words": words,
        }
        most = 0 if is_blank else config.explain
        if most and (weights := judge.explain(text, row, order[0], most=most)):
            found["explanation"] = weights
        return found

    for block in blocks:
        for start in range(0, len(block), _ROWS_AT_ONCE):
            texts = block[start : start + _ROWS_AT_ONCE]
            rows = judge.encode(texts)
            yield [*map(prediction, texts, rows, judge.probabilities(rows).tolist())]


def _answer(one: Mapping[str, Any], *, digits: int) -> tuple[str, str]:
    """Returns the classes given and their probabilities, both "" for a blank text."""
    if one["probabilities"] is None:
        return "", ""
    shown = (f"{one['probabilities'][name]:.{digits}f}" for name in one["labels"])
    return ", ".join(one["labels"]) or _NONE, ", ".join(shown)


def _explained(one: Mapping[str, Any]) -> str:
    return ", ".join(f"{word} {weight:+.2f}" for word, weight in one.get("explanation", ()))


def _line(one: Mapping[str, Any], *, as_json: bool) -> str:
    if as_json:
        return json_text(one)
    parts = [*_answer(one, digits=6), f"{one['known_words']}/{one['words']}", one["text"]]
    parts += filter(None, [_explained(one)])
    return "\t".join(printable(part, one_line=True) for part in parts)


def _table(predictions: Iterable[Mapping[str, Any]], *, explains: bool) -> Table:
    table = table_of(("text", "known words", "class", "its probability"), ())
    if explains:
        table.add_column("words that decided")
    for one in predictions:
        classes, probabilities = _answer(one, digits=3)
        known = f"{one['known_words']} of {one['words']}"
        explained = [Text(printable(_explained(one), one_line=True))] if explains else []
        text = Text(printable(one["text"], most=_SHOWN, one_line=True))
        named = Text(printable(classes, one_line=True), overflow="fold")
        table.add_row(text, known, named, probabilities, *explained)
    return table


def blocks_of_texts(
    texts: Sequence[str], files: Sequence[str], counts: Counter[str]
) -> Iterator[list[str]]:
    """Yields the texts, or the lines of the files, or those of standard input, as they come. Counts
    the texts, and those that are blank or not UTF-8."""
    for block in _blocks(texts, files):
        found = [line.decode(errors="replace") for line in block]
        counts["undecodable"] += sum(t.encode() != b for t, b in zip(found, block, strict=True))
        found = [text.removeprefix(UTF8_MARK) for text in found]
        counts["texts"] += len(found)
        counts["blank"] += sum(not text.strip() for text in found)
        yield found


def _blocks(texts: Sequence[str], files: Sequence[str]) -> Iterator[list[bytes]]:
    if texts:
        # Python has lone surrogates for the bytes of an argument that it could not decode: those
        # that are not UTF-8 or, where the locale is C without UTF-8, all beyond ASCII.
        yield [text.encode(errors="surrogateescape") for text in texts]
        return
    from harness.data.readers.formats import TABLES  # imports NumPy, which --help need not wait for

    for name in files:
        if name.lower().endswith(TABLES):
            raise InputError(f"{name} is a table, whose lines are no texts. {_REMEDY}")
        with opened(name, remedy=_REMEDY):
            pass  # so that a file that cannot be read is reported before the others are judged
    for name in files:
        with opened(name, remedy=_REMEDY) as file:
            yield from _lines(file, name)
    if not files:
        yield from _lines(getattr(sys.stdin, "buffer", sys.stdin), "standard input")


def _lines(stream: Any, name: str) -> Iterator[list[bytes]]:
    rest = b""
    for number, block in enumerate(iter(lambda: stream.read1(_BLOCK_BYTES), b"")):
        if number == 0:
            require_text(block, name, remedy=_REMEDY)
        *lines, rest = (rest + block).split(b"\n")
        if len(rest) > _MAX_LINE_BYTES:
            raise InputError(
                f"{name}: the line that begins with {rest[:40]!r} has more than "
                f"{_MAX_LINE_BYTES:,} bytes; give one text a line"
            )
        yield [line.removesuffix(b"\r") for line in lines]
    if rest:
        yield [rest.removesuffix(b"\r")]
