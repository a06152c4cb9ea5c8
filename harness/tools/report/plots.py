"""The plots of a report, each an SVG element: lines in the page's color and on its background, so
that they suit a light page and a dark one."""

import functools
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from harness.base.errors import printable
from harness.tools.report.answers import Floats, Ranking

_MAX_POINTS = 500
_FEW_POINTS = 30  # up to which every point is marked
_MOST_OF_SHORT_LABEL = 20  # characters of a label, two of which fit side by side
_WIDTH, _HEIGHT, _LINE_HEIGHT = 4.6, 2.8, 0.2  # inches: the width of a phone, at its text size
_PAGE_COLOR = "#010203"  # stands for `currentColor`, which matplotlib does not know
_STYLE = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor"), _PAGE_COLOR),
    **dict.fromkeys(("xtick.color", "ytick.color", "grid.color"), _PAGE_COLOR),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.grid": True,
    "grid.alpha": 0.2,
    "svg.fonttype": "none",  # text stays text: the browser has fonts for any script
}


def _svg(draw: Callable[..., str | None]) -> Callable[..., str]:
    """Turns a function that draws into axes and returns the legend's title, or None, into one that
    returns an SVG element, with the legend below the axes."""

    @functools.wraps(draw)
    def drawn(*what: Any) -> str:
        import matplotlib
        from matplotlib.figure import Figure  # not pyplot, which looks for a display

        content = io.StringIO()
        with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
            # matplotlib measures text in its own font, which lacks most scripts.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
            axes = figure.subplots()
            # Colors that are readable on white and on black; dashes tell the next ten lines apart.
            colors = matplotlib.color_sequences["tab10"]
            dashes = ["-"] * len(colors) + ["--"] * len(colors)
            axes.set_prop_cycle(color=[*colors, *colors], linestyle=dashes)
            title = draw(axes, *what)
            labels = axes.get_legend_handles_labels()[1]
            if len(labels) > 1 or title:
                columns = 2 if max(map(len, labels)) <= _MOST_OF_SHORT_LABEL else 1
                lines = -(-len(labels) // columns) + (title is not None)
                figure.set_figheight(_HEIGHT + _LINE_HEIGHT * lines)
                figure.legend(loc="outside lower left", ncols=columns, title=title)
            figure.savefig(content, format="svg", metadata={"Date": None})
        svg = content.getvalue().replace(_PAGE_COLOR, "currentColor")
        # Ids such as `axes_1` would be the same in all plots of a page.
        return re.sub(r' id="[\w.]+_\d+"', "", svg[svg.index("<svg") :])

    return drawn


@_svg
def curves(axes: Any, title: str, lines: Mapping[str, Floats], bottom: float | None) -> None:
    """Draws lines over the steps, each an array [2, points] by its label. The axis of the values
    begins at `bottom`, or where matplotlib lets it."""
    for label, points in lines.items():
        marker = "." if points.shape[1] <= _FEW_POINTS else ""
        axes.plot(*_thinned(*points), marker=marker, label=label)
    axes.set(title=title, xlabel="step", ylim=(bottom, None))
    axes.xaxis.get_major_locator().set_params(integer=True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.10g}")


@_svg
def ranking(axes: Any, title: str, rankings: Sequence[tuple[str, Ranking]]) -> str:
    is_roc = title == "ROC"
    for name, (fall_out, recall, precision, average) in rankings:
        points = (fall_out, recall) if is_roc else (recall, precision)
        area = np.trapezoid(recall, fall_out) if is_roc else average
        axes.plot(*_thinned(*points), label=f"{_label(name)}: {area:.3f}")
    names = ("false positive rate", "true positive rate") if is_roc else ("recall", "precision")
    axes.set(title=title, xlabel=names[0], ylabel=names[1], xlim=(0, 1), ylim=(0, 1.02))
    if is_roc:
        axes.plot([0, 1], [0, 1], linestyle="dotted", color="gray")
    return "area under the curve" if is_roc else "average precision"


def _thinned(*columns: Floats) -> list[Floats]:
    kept = np.unique(np.linspace(0, len(columns[0]) - 1, _MAX_POINTS).astype(int))
    return [column[kept] for column in columns]


def _label(name: str) -> str:
    # In matplotlib dollars begin a formula, and a leading underscore hides an entry of the legend.
    shown = printable(name, most=30, one_line=True).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
