"""The page: plots and tables in one HTML file that loads nothing and runs nothing."""

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import Dataset, RaggedSets, Trainer
from harness.base.errors import InputError, printable
from harness.data.options import DataConfig
from harness.data.sources import load_configured
from harness.data.vocabulary import Vocabulary
from harness.model.export import names_of
from harness.run.observers import run_files
from harness.run.observers.console import FIGURES
from harness.task.measures import MAX_RANKED
from harness.tools.report import plots
from harness.tools.report.answers import Answers
from harness.tools.report.run_folder import RunFolder
from harness.tools.report.words import speaking_words, word_weights
from kernels.files import replacing

_MAX_CLASSES = 12
_MAX_CONFUSED = 20  # classes of a confusion matrix, and pairs in a list if there are more
_MAX_WORD_ROWS = 5_000  # rows that words are weighed on
_MAX_TEXT = 800  # characters of a text, from its beginning and its end
_MAX_REREAD = 20_000_000  # ids up to which texts are loaded again in their own order


def write_report(
    folder: Path,
    trainer: Trainer,
    data: Dataset,
    source: DataConfig,
    vocabulary: Vocabulary | None,
) -> Path:
    """Writes report.html into a run's folder, whole or not at all, and returns its path. The test
    rows are judged, or as many as there may be probabilities, evenly among them."""
    test = data.test
    if not test.is_labelled:
        raise InputError(f"{test.name} has no labels; give the rows to test on")
    numbers = _evenly(test.num_rows, MAX_RANKED // test.num_classes)
    rows = test if len(numbers) == test.num_rows else test.take(numbers)
    quality = trainer.measure(rows)
    given = vocabulary.class_names if vocabulary is not None else ()
    names = names_of([printable(n, most=60, one_line=True) for n in given], len(quality.support))
    answers = Answers.of(quality, names)
    worst = np.lexsort([quality.f1, quality.support == 0]).tolist()  # those without rows last
    shown = worst[:_MAX_CLASSES]
    word_numbers = _evenly(rows.num_rows, _MAX_WORD_ROWS)
    word_rows, truth = rows.take(word_numbers), answers.truth[np.ix_(word_numbers, shown)]
    takes_logits = trainer.task.from_logits
    weights = word_weights(
        trainer.model, word_rows, quality.kind, shown, truth, from_logits=takes_logits
    )
    texts = _in_order(data, source, vocabulary) if vocabulary is not None else test
    parts = (quality.precision, quality.recall, quality.f1, quality.support)
    columns = [names[number] for number in worst], *(part[worst].tolist() for part in parts)
    run = RunFolder(folder)
    facts = {
        "data": source.data if data.name in source.data else data.name,
        "training rows": data.train.num_rows,
        "test rows": f"{rows.num_rows:,} of {test.num_rows:,}",
        "task": quality.kind,
        "classes": len(names),
        "test accuracy": quality.accuracy,
        **{f"test {FIGURES[name]}": value for name, value in quality.figures().items()},
        **run.settings(),
        **run.origin(),
    }
    content = _render(
        title=printable(folder.absolute().name, most=_MAX_TEXT, one_line=True),
        facts=facts,
        run=run,
        answers=answers,
        shown=shown,
        confusion=quality.confusion,
        confused=_confused(quality.confusion, names),
        classes=list(zip(*columns, strict=True)),
        words=speaking_words(weights, word_rows, truth, vocabulary, most=10),
        num_word_rows=word_rows.num_rows,
        mistakes=[
            (int(numbers[row]), *others, _text(texts.row(int(numbers[row])), vocabulary))
            for row, *others in answers.mistakes(20)
        ],
        in_order=not texts.is_unique,
    )
    path = folder / run_files.REPORT_FILE_NAME
    with replacing(path) as beside:
        beside.write_text(content, encoding="utf-8")
    return path


def _confused(
    confusion: npt.NDArray[np.int64] | None, names: Sequence[str]
) -> list[tuple[str, str, int]] | None:
    """Returns the most frequent pairs of class and wrong prediction; None for few classes."""
    if confusion is None or len(names) <= _MAX_CONFUSED:
        return None
    wrong = confusion * ~np.eye(len(names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_CONFUSED]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(names[i], names[j], int(wrong[i, j])) for i, j in pairs if wrong[i, j]]


def _evenly(num_rows: int, most: int) -> npt.NDArray[np.int64]:
    """Numbers of at most so many rows, at least one."""
    return np.linspace(0, num_rows - 1, min(num_rows, max(1, most))).astype(np.int64)


def _in_order(data: Dataset, source: DataConfig, vocabulary: Vocabulary) -> RaggedSets:
    # Unique and weighted rows are sorted by id, so texts are read again, in their own order.
    is_small = data.train.nnz + data.test.nnz <= _MAX_REREAD
    has_own_weights = data.test.weights is not None and not vocabulary.is_weighted
    if not data.test.is_unique or has_own_weights or not is_small:
        return data.test
    plain: dict[str, Any] = {"weighting": "binary", "normalize": "none", "ngrams": 1}
    vocabulary = replace(vocabulary, **plain, idf=None)
    source = replace(source, unique=False, build=replace(source.build, **plain))
    with contextlib.redirect_stderr(io.StringIO()):  # its notes were printed with the data
        return load_configured(source, known=vocabulary).test


def _text(ids: npt.NDArray[np.int32], vocabulary: Vocabulary | None) -> str:
    if vocabulary is not None and vocabulary.ids:
        return vocabulary.decode(ids)
    return f"ids {', '.join(map(str, ids.tolist()))}"


def _render(**content: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # names and texts are the users'
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["shown"] = _shown
    environment.filters["breakable"] = _breakable
    return environment.get_template("template.html").render(plots=plots, **content)


def _breakable(value: Any) -> Any:
    """Returns HTML in which a long name, such as a path or `comp.sys.ibm`, may be broken after each
    of its parts."""
    import markupsafe

    escaped = str(markupsafe.escape(_shown(value)))
    return markupsafe.Markup(re.sub(r"(?<=[^\W\d_])[._/](?=\w\w)", r"\g<0><wbr>", escaped))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 100 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    text = ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)
    return printable(text, most=_MAX_TEXT, one_line=True)
