"""The page: plots and tables in one HTML file that loads nothing and runs nothing."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from harness.base.errors import InputError
from harness.data.ragged import RaggedSets
from harness.data.vocabulary import Vocabulary
from harness.run.observers.run_files import REPORT_FILE_NAME
from harness.tools.report import plots
from harness.tools.report.curves import Ranking, calibration, ranking
from harness.tools.report.data import MAX_CLASSES, Report, collect
from harness.trainer.trainer import Trainer
from kernels.files import replacing

_TEMPLATE = Path(__file__).with_name("template.html")
_MAX_LISTED = 200
"""Classes in the table."""
_MAX_CONFUSIONS = 20
"""Pairs of classes, where there are too many for a matrix."""


def check_installed() -> None:
    """Raises InputError unless the packages of the extra `report` are there."""
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"a report needs {' and '.join(missing)}; install the extra `report`: "
            "pip install 'multi-hot-harness[report]'"
        )


def write_report(
    folder: Path,
    trainer: Trainer,
    test: RaggedSets,
    *,
    vocabulary: Vocabulary | None = None,
    texts: RaggedSets | None = None,
) -> Path:
    """Writes report.html into a run's folder, whole or not at all.

    Args:
        folder: of the run.
        trainer: of its model.
        test: labelled rows to judge the model by.
        vocabulary: of their ids; None: ids are shown instead of words.
        texts: the same rows with their ids in the text's order; None: as `test`.

    Returns:
        The path of the page.

    Raises:
        InputError: when a package is missing, the rows do not fit the model, or the run's files
            are damaged.
        OSError: when the file cannot be written, naming it.
    """
    check_installed()
    report = collect(folder, trainer, test, vocabulary=vocabulary, texts=texts)
    path = folder / REPORT_FILE_NAME
    content = html(report)
    with replacing(path) as beside:
        beside.write_text(content, encoding="utf-8")
    return path


def html(report: Report) -> str:
    """The whole page; every text in it is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    has_windows = {"seconds", "examples_per_second"} <= report.windows.values.keys()
    has_curves = report.windows.steps.size or report.evaluations.steps.size
    calibrated = _calibration(report)
    return template.render(
        report=report,
        max_classes=MAX_CLASSES,
        curves=plots.learning_curves(report) if has_curves else None,
        throughput=plots.throughput(report.windows) if has_windows else None,
        rankings=_rankings(report),
        reliability=plots.reliability(calibrated),
        calibration=calibrated,
        confusion=_confusion(report),
        confusions=_confusions(report),
        classes=_classes(report),
        max_listed=_MAX_LISTED,
        words=[
            (report.class_names[number], words)
            for number, words in zip(report.shown_classes, report.words, strict=True)
        ],
    )


def _rankings(report: Report) -> plots.Plot | None:
    """Of class 1, or of the shown classes against the rest."""
    numbers = [1] if report.quality.kind == "binary" else report.shown_classes
    areas = report.quality.roc_auc_by_class
    curves: list[tuple[str, float, Ranking]] = []
    for number in numbers:
        several = report.labels.ndim == 2
        among = report.labels[:, number] if several else report.labels == number
        found = ranking(report.probabilities[:, number], among)
        if found is not None and areas is not None:
            area = float(areas[0 if len(areas) == 1 else number])
            curves.append((report.class_names[number], area, found))
    return plots.rankings(curves) if curves else None


def _calibration(report: Report) -> Any:
    """Of the probability of class 1; of the predicted class; or of all labels."""
    if report.quality.kind == "multi_label":
        return calibration(report.probabilities.reshape(-1), report.labels.reshape(-1))
    if report.quality.kind == "binary":
        return calibration(report.probabilities[:, 1], report.labels == 1)
    right = report.probabilities.argmax(axis=1) == report.labels
    return calibration(report.probabilities.max(axis=1), right)


def _confusion(report: Report) -> plots.Plot | None:
    counts = report.quality.confusion
    if counts is None or len(counts) > plots.MAX_CONFUSED:
        return None
    return plots.confusion(counts, report.class_names)


def _confusions(report: Report) -> list[tuple[str, str, int]]:
    """The pairs of a class and another that was predicted, the commonest first."""
    counts = report.quality.confusion
    if counts is None or len(counts) <= plots.MAX_CONFUSED:
        return []
    wrong = counts * ~np.eye(len(counts), dtype=bool)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:_MAX_CONFUSIONS]
    names, pairs = report.class_names, np.unravel_index(largest, wrong.shape)
    found = [(names[a], names[b], int(wrong[a, b])) for a, b in zip(*pairs, strict=True)]
    return [one for one in found if one[2]]


def _classes(report: Report) -> list[tuple[Any, ...]]:
    """Of each class its name, precision, recall, F1 and rows."""
    quality = report.quality
    parts = (quality.precision, quality.recall, quality.f1, quality.support)
    return list(zip(report.class_names, *(part.tolist() for part in parts), strict=True))
