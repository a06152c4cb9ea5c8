"""The plots of a report, as SVG in data URIs."""

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.base.errors import printable
from harness.tools.report.curves import Calibration, Ranking
from harness.tools.report.data import Report, Series

MAX_CONFUSED = 30
"""Classes up to which the confusion matrix is drawn."""
_MAX_NUMBERED = 12
"""Classes up to which its cells show their counts."""
_MAX_POINTS = 500
"""Of a curve."""


@dataclass(frozen=True)
class Plot:
    """A picture in a page."""

    uri: str
    alt: str


def learning_curves(report: Report) -> Plot:
    """The loss and, where it is a metric, the accuracy over steps."""
    names = [n for n in ("loss", "accuracy") if _has(report, n)]

    def draw(figure: Any) -> None:
        for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
            for series, key, label in (
                (report.windows, name, "training"),
                (report.evaluations, f"validation_{name}", "validation"),
            ):
                if key in series.values:
                    marker = "o" if label == "validation" else None
                    steps, values = _thinned(series.steps, series.values[key])
                    axes.plot(steps, values, marker=marker, label=label)
            axes.set(xlabel="step", title=name)
            axes.legend()
            axes.grid(alpha=0.3)

    return _plot(draw, "loss and accuracy over steps", width=4.5 * len(names))


def throughput(series: Series) -> Plot:
    """Examples per second over the time of training."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        seconds, rates = np.cumsum(series.values["seconds"]), series.values["examples_per_second"]
        axes.plot(*_thinned(seconds, rates), marker=".")
        axes.set(xlabel="seconds of training", ylabel="examples/s", ylim=(0, 1.05 * rates.max()))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.grid(alpha=0.3)

    return _plot(draw, "examples per second over the time of training", width=9)


def rankings(curves: Sequence[tuple[str, float, Ranking]]) -> Plot:
    """ROC and precision-recall.

    Args:
        curves: of each class its name, its ROC-AUC and its points.
    """

    def draw(figure: Any) -> None:
        roc, precision = figure.subplots(1, 2)
        roc.plot([0, 1], [0, 1], linestyle="dotted", color="gray")
        for name, area, every in curves:
            points = every.thinned(_MAX_POINTS)
            label = f"{_label(name)}: {area:.3f}"
            roc.plot(points.false_positive_rate, points.recall, label=label)
            label = f"{_label(name)}: {points.average_precision:.3f}"
            precision.plot(points.recall, points.precision, label=label)
        roc.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
        precision.set(title="precision and recall", xlabel="recall", ylabel="precision")
        for axes, title in ((roc, "area under the curve"), (precision, "average precision")):
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
            axes.legend(title=title, fontsize="small")
            axes.grid(alpha=0.3)

    return _plot(draw, "ROC and precision-recall curves", width=9, height=4.5)


def reliability(found: Calibration) -> Plot:
    """The share of right answers over their probability."""

    def draw(figure: Any) -> None:
        axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        axes.plot([0, 1], [0, 1], linestyle="dotted", color="gray", label="perfect")
        axes.plot(found.probability, found.share, marker="o", label="the model")
        axes.set(ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
        axes.legend()
        counts.bar(found.probability, found.counts, width=0.05)
        counts.set(xlabel="probability", ylabel="answers")
        axes.grid(alpha=0.3)

    return _plot(draw, "share of right answers over their probability", width=5, height=4.5)


def confusion(counts: npt.NDArray[np.int64], names: Sequence[str]) -> Plot:
    """Rows of each class by the class that was predicted, as shares of the class."""
    size = len(names)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        figure.colorbar(picture, label="share of the class's rows")
        labels = [_label(name) for name in names]
        axes.set_xticks(range(size), labels, rotation=90 if size > 2 else 0)
        axes.set_yticks(range(size), labels)
        axes.set(xlabel="predicted", ylabel="class")
        if size <= _MAX_NUMBERED:
            for (row, column), count in np.ndenumerate(counts):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour)

    side = 3.5 + 0.25 * size
    return _plot(draw, "confusion matrix", width=side + 1, height=side)


def _has(report: Report, name: str) -> bool:
    return name in report.windows.values or f"validation_{name}" in report.evaluations.values


def _thinned(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Means over equal stretches, at most as many as a curve may have points."""
    if len(x) <= _MAX_POINTS:
        return x, y
    return tuple(  # type: ignore[return-value]
        np.array([part.mean() for part in np.array_split(one, _MAX_POINTS)]) for one in (x, y)
    )


def _label(name: str) -> str:
    """A class's name as matplotlib shows it and no other way: dollars begin no formula, and a
    leading underscore hides nothing."""
    shown = printable(name, most=30, one_line=True).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _plot(draw: Callable[[Any], None], alt: str, *, width: float, height: float = 3.5) -> Plot:
    # Without pyplot, which keeps state and looks for a display.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    content = io.BytesIO()
    # Text stays text: the browser has fonts for any script, and the files are small.
    style = {"svg.fonttype": "none", "svg.hashsalt": "harness"}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # matplotlib measures text in its own font, which lacks most scripts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None})
    encoded = base64.b64encode(content.getvalue()).decode()
    return Plot(f"data:image/svg+xml;base64,{encoded}", alt)
