"""The plots of a report."""

import base64
import functools
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.base.errors import printable
from harness.tools.report.answers import Floats, Ranking

_MAX_POINTS = 500
# Text stays text: the browser has fonts for any script, and the files are small.
_STYLE = {"axes.grid": True, "grid.alpha": 0.3, "legend.fontsize": "small", "svg.fonttype": "none"}


def _svg(draw: Callable[..., None]) -> Callable[..., str]:
    """Makes a function that draws into a figure one that returns an SVG as a data URI."""

    @functools.wraps(draw)
    def drawn(*what: Any) -> str:
        import matplotlib
        from matplotlib.figure import Figure  # not pyplot, which looks for a display

        content = io.BytesIO()
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            # matplotlib measures text in its own font, which lacks most scripts.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure = Figure(figsize=(9, 4), layout="constrained")
            draw(figure, *what)
            figure.savefig(content, format="svg")
        return f"data:image/svg+xml;base64,{base64.b64encode(content.getvalue()).decode()}"

    return drawn


@_svg
def learning_curves(figure: Any, series: Mapping[str, Floats], held_out: str) -> None:
    names = [n for n in ("loss", "accuracy") if n in series or f"validation_{n}" in series]
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        axes.set(xlabel="step", title=name)
        if name in series:
            axes.plot(*_thinned(*series[name]), label="training")
        if (key := f"validation_{name}") in series:
            axes.plot(*_thinned(*series[key]), marker="o", label=held_out)
        axes.legend()


@_svg
def rankings(figure: Any, curves: Sequence[tuple[str, Ranking]]) -> None:
    roc, precision = figure.subplots(1, 2)
    roc.plot([0, 1], [0, 1], linestyle="dotted", color="gray")
    for name, (fall_out, recall, precisions, average) in curves:
        area, label = np.trapezoid(recall, fall_out), _label(name)
        roc.plot(*_thinned(fall_out, recall), label=f"{label}: {area:.3f}")
        precision.plot(*_thinned(recall, precisions), label=f"{label}: {average:.3f}")
    roc.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
    precision.set(title="precision and recall", xlabel="recall", ylabel="precision")
    for axes, title in ((roc, "area under the curve"), (precision, "average precision")):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(title=title)


def _thinned(*columns: Floats) -> list[Floats]:
    kept = np.unique(np.linspace(0, len(columns[0]) - 1, _MAX_POINTS).astype(int))
    return [column[kept] for column in columns]


def _label(name: str) -> str:
    # In matplotlib dollars begin a formula, and a leading underscore hides an entry of the legend.
    shown = printable(name, most=30, one_line=True).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
