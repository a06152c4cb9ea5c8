"""A comparison as a table in the terminal."""

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.bench.compare import CONFIDENCE, Comparison
from harness.bench.table import varying

_MAX_NOTES = 12


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Prints a line for each cell, what the figures mean, and the notes."""
    cells = comparison.cells
    axes = varying([compared.cell for compared in cells])
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for axis in axes:
        widest = max(len(str(getattr(compared.cell, axis))) for compared in cells)
        table.add_column(axis.replace("_", " "), justify="right", min_width=widest)
    for heading in ("B / A", "interval", "processes", "would show", "B is"):
        table.add_column(heading, justify="right")
    for compared in cells:
        effect = compared.effect
        table.add_row(
            *(str(getattr(compared.cell, axis)) for axis in axes),
            f"{effect.ratio:.3f}",
            f"{effect.low:.3f} - {effect.high:.3f}",
            f"{effect.num_a} + {effect.num_b}",
            f"{100 * effect.detectable:.1f} %",
            effect.verdict,
        )
    console.print(table)
    console.print(
        f"B / A: examples/s. All intervals together hold the true ratios with {CONFIDENCE:.0%} "
        "confidence; 'would show': B slower by this much is found four times in five."
    )
    notes = list(comparison.notes)
    notes += [f"{c.cell.label(axes)}: {note}" for c in cells for note in c.notes]
    for note in notes[:_MAX_NOTES]:
        console.print(Text(note), soft_wrap=True)
    if len(notes) > _MAX_NOTES:
        console.print(f"and {len(notes) - _MAX_NOTES} notes more")
