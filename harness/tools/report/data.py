"""What a report shows, gathered from a run's folder, its model and the test rows.

Letters: B rows, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.base.errors import InputError, printable
from harness.base.reading import damage, read_json
from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.data.vocabulary import Vocabulary
from harness.model.export import head_of, names_of
from harness.run.observers.console import FIGURES
from harness.run.observers.jsonl import FILE_NAME as METRICS_FILE_NAME
from harness.run.observers.jsonl import records
from harness.run.observers.run_files import (
    CONFIG_FILE_NAME,
    RESOLVED,
    SUMMARY_FILE_NAME,
    read_config,
)
from harness.task.measures import MAX_RANKED, Quality, class_labels
from harness.tools.report.words import Word, heaviest_words, word_weights
from harness.trainer.trainer import Trainer

MAX_CLASSES = 12
"""Classes whose curves and words are shown: those with the most rows."""
_MAX_WORDS = 15
_MAX_MISTAKES = 20
_MAX_TEXT = 800
"""Characters of a row's text, from its beginning and its end."""
_MAX_WORD_ROWS = 5_000
"""Rows that words are weighed on."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A row whose class was given a low probability."""

    row: int
    """Among the test rows, from 0."""
    truth: str
    predicted: str
    probability: float
    """Of the truth."""
    text: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One kind of records of metrics.jsonl."""

    steps: npt.NDArray[np.float64]
    values: Mapping[str, npt.NDArray[np.float64]]
    """By key, as long as `steps`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """All that the page shows."""

    title: str
    facts: Sequence[tuple[str, str]]
    windows: Series
    evaluations: Series
    quality: Quality
    labels: npt.NDArray[Any]
    """Classes [B]; for multi-label bool [B, K]."""
    probabilities: npt.NDArray[np.float32]
    """[B, K]."""
    class_names: Sequence[str]
    """[K]."""
    shown_classes: Sequence[int]
    words: Sequence[Sequence[Word]]
    """Of the shown classes."""
    num_word_rows: int
    mistakes: Sequence[Mistake]
    in_order: bool
    """Whether the mistakes' ids stand in the text's order, repetitions included."""


def collect(
    folder: Path,
    trainer: Trainer,
    test: RaggedSets,
    *,
    vocabulary: Vocabulary | None,
    texts: RaggedSets | None,
) -> Report:
    """Judges the test rows, or as many as there may be probabilities, evenly among them.

    Args:
        folder: of the run.
        trainer: of its model.
        test: labelled rows.
        vocabulary: of their ids.
        texts: the same rows with their ids in the text's order; None: as `test`.

    Raises:
        InputError: when the rows have no labels, or the run's files are damaged.
    """
    if not test.is_labelled:
        raise InputError(f"{test.name} has no labels; give the rows to test on")
    texts = test if texts is None else texts
    if texts.num_rows != test.num_rows:
        raise InputError(
            f"texts are {texts.num_rows} rows for {test.num_rows} test rows; give one for each"
        )
    numbers = _evenly(test.num_rows, MAX_RANKED // test.num_classes)
    rows = test if len(numbers) == test.num_rows else test.take(numbers)
    quality = trainer.measure(rows)
    kind, num_classes = quality.kind, len(quality.support)
    assert quality.probabilities is not None
    probabilities = quality.probabilities
    if not np.isfinite(probabilities).all():
        raise InputError(
            f"the model in {folder} gives probabilities that are not finite, so there is nothing "
            "to report; train it again, with a lower --learning-rate"
        )
    if kind == "binary":
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
    labels = class_labels(Examples.of(rows), kind=kind, num_classes=num_classes)
    given = vocabulary.class_names if vocabulary is not None else ()
    names = [printable(name, most=60, one_line=True) for name in names_of(given, num_classes)]
    shown = np.argsort(-quality.support, kind="stable")[:MAX_CLASSES].tolist()
    word_rows = rows.take(_evenly(rows.num_rows, _MAX_WORD_ROWS))
    weights = word_weights(
        trainer.model,
        word_rows,
        head=head_of(trainer.model, kind),
        classes=shown,
        is_binary=kind == "binary",
    )
    windows, evaluations = _series(folder / METRICS_FILE_NAME)
    return Report(
        title=printable(str(folder.absolute().name), most=100, one_line=True),
        facts=_facts(folder, rows, test.num_rows, quality),
        windows=windows,
        evaluations=evaluations,
        quality=quality,
        labels=labels,
        probabilities=probabilities,
        class_names=names,
        shown_classes=shown,
        words=heaviest_words(weights, word_rows, vocabulary, most=_MAX_WORDS),
        num_word_rows=word_rows.num_rows,
        in_order=not texts.is_unique,
        mistakes=[
            Mistake(
                row=int(numbers[place]),
                truth=_named(labels[place], names),
                predicted=_named(_taken(probabilities[place], kind), names),
                probability=probability,
                text=_text(texts.row(int(numbers[place])), vocabulary),
            )
            for place, probability in _worst(probabilities, labels)
        ],
    )


def _evenly(num_rows: int, most: int) -> npt.NDArray[np.int64]:
    """Numbers of at most so many rows, at least one."""
    return np.linspace(0, num_rows - 1, min(num_rows, max(1, most))).astype(np.int64)


def _worst(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[Any]
) -> list[tuple[int, float]]:
    """The rows that are wrong and whose truth has the lowest probability; of several labels, the
    mean over them in the logarithm, which is the cross-entropy."""
    if labels.ndim == 1:
        truth = probabilities[np.arange(len(labels)), labels]
        wrong = probabilities.argmax(axis=1) != labels
    else:
        of_each = np.where(labels, probabilities, 1 - probabilities)
        truth = np.exp(np.log(np.maximum(of_each, 1e-30)).mean(axis=1))
        wrong = ((probabilities > 0.5) != labels).any(axis=1)
    order = np.argsort(np.where(wrong, truth, np.inf), kind="stable")
    count = min(_MAX_MISTAKES, int(wrong.sum()))
    return [(place, float(truth[place])) for place in order[:count].tolist()]


def _taken(probabilities: npt.NDArray[np.float32], kind: str) -> Any:
    return probabilities > 0.5 if kind == "multi_label" else probabilities.argmax()


def _named(label: Any, names: Sequence[str]) -> str:
    """A class's name, or those of several, which may be none."""
    if np.ndim(label) == 0:
        return names[int(label)]
    return ", ".join(names[number] for number in np.flatnonzero(label).tolist()) or "none"


def _text(ids: npt.NDArray[np.int32], vocabulary: Vocabulary | None) -> str:
    if vocabulary is not None and vocabulary.ids:
        text = vocabulary.decode(ids)
    else:
        text = "ids " + ", ".join(map(str, ids.tolist()))
    return printable(text, most=_MAX_TEXT, one_line=True)


def _series(path: Path) -> tuple[Series, Series]:
    """The windows and the evaluations."""
    windows: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    for record in records(path):
        if "num_steps" in record:
            windows.append(record)
        elif "validation_loss" in record:
            evaluations.append(record)
    with damage(path, what="a record of a run", remedy="Restore or remove the file."):
        return _columns(windows), _columns(evaluations)


def _columns(rows: Sequence[Mapping[str, Any]]) -> Series:
    """The numbers that all records have; what is not finite is text there."""
    keys = set(rows[0]).intersection(*rows) - {"telemetry"} if rows else set()
    values = {key: np.array([float(row[key]) for row in rows]) for key in keys}
    return Series(steps=values.get("step", np.zeros(0)), values=values)


def _facts(
    folder: Path, rows: RaggedSets, num_rows: int, quality: Quality
) -> list[tuple[str, str]]:
    """The run in a table: what was trained and how, and what came of it."""
    config: Mapping[str, Any] = {}
    if (folder / CONFIG_FILE_NAME).is_file():
        config = read_config(folder)
    summary: Mapping[str, Any] = {}
    if (folder / SUMMARY_FILE_NAME).is_file():
        summary = read_json(folder / SUMMARY_FILE_NAME, remedy="Restore or remove the file.")
    resolved = config.get(RESOLVED, {})
    dataset, task = resolved.get("dataset", {}), resolved.get("task")
    model = config.get("model") if isinstance(config.get("model"), Mapping) else {}
    optimizer = config.get("optimizer")
    if isinstance(optimizer, Mapping):
        model = {**(model or {}), **optimizer}
    measured = {FIGURES[name]: value for name, value in quality.figures().items()}
    some = "" if rows.num_rows == num_rows else f", {rows.num_rows:,} of them shown here"
    facts = [
        ("data set", dataset.get("name", rows.name)),
        ("training rows", dataset.get("rows")),
        ("test rows", f"{num_rows:,}{some}"),
        ("task", task.get("name") if isinstance(task, Mapping) else quality.kind),
        ("classes", len(quality.support)),
        ("test accuracy", quality.accuracy),
        *((f"test {name}", value) for name, value in measured.items()),
        ("test loss", summary.get("test_loss")),
        *(model or {}).items(),
        *((name, summary.get(name)) for name in _SHOWN),
    ]
    return [(name.replace("_", " "), _shown(value)) for name, value in facts if value is not None]


_SHOWN = (
    *("epochs", "steps", "batch_size", "precision", "implementation", "replicas", "devices"),
    *("examples_per_second", "train_seconds", "compile_seconds", "wall_seconds"),
)
"""Keys of summary.json in the table."""


def _shown(value: Any) -> str:
    if isinstance(value, float):
        text = f"{value:.4g}" if abs(value) < 100 else f"{value:,.0f}"
    elif isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:,}"
    elif isinstance(value, list):
        text = ", ".join(map(str, value))
    else:
        text = str(value)
    return printable(text, most=200, one_line=True)
