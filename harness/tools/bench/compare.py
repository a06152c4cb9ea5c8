"""Is B slower than A? Two results files, or pairs that took turns, cell by cell."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from harness.base.checks import parse_share
from harness.base.errors import InputError, printable
from harness.tools.bench.effects import (
    CONFIDENCE,
    Effect,
    log_ratio,
    paired_effect,
    unpaired_effect,
)
from harness.tools.bench.results import Cell, Pair, Results, varying
from harness.tools.bench.show import print_cells, print_notes

EXIT_INCONCLUSIVE = 3


class Comparison(NamedTuple):
    effects: Mapping[Cell, Effect]
    notes: Sequence[str]
    """What differs besides, and what makes figures doubtful."""


def compare(a: Results, b: Results, *, across_machines: bool) -> Comparison:
    """Compares every cell that both results measured successfully, at least twice each; raises
    InputError when there is none, or the machines differ and `across_machines` is not set."""
    machines = [results.provenance.machine for results in (a, b)]
    if machines[0] != machines[1] and not across_machines:
        raise InputError(
            f"A was measured on {machines[0]}, B on {machines[1]}; measure both on one machine, or "
            "set --across-machines to compare the machines"
        )
    cells = list(dict.fromkeys((*a.cells, *b.cells)))
    good = {
        cell: [[row for row in side.rows if row.cell == cell and row.figures] for side in (a, b)]
        for cell in cells
    }
    sides = {cell: rows for cell, rows in good.items() if min(map(len, rows)) >= 2}
    if not sides:
        raise InputError(
            "no cell was measured at least twice in both A and B; run the same grid for both, with "
            "--repeats 2 or more"
        )
    notes = [
        f"the {name} settings differ; the ratios include the effect of that"
        for name in ("data", "model", "optimizer")
        if a.config.get(name) != b.config.get(name)
    ]
    notes += _differences(a.provenance.versions, b.provenance.versions)
    notes += _differences(a.provenance.host, b.provenance.host)
    if left_out := len(cells) - len(sides):
        notes.append(f"{left_out} cells were not measured twice in both and are left out")
    found: dict[Cell, list[str]] = {}
    rates: dict[Cell, list[list[float]]] = {}
    for cell, rows in sides.items():
        found[cell] = _differences(rows[0][0].resolved, rows[1][0].resolved)
        rates[cell] = []
        for name, side in zip("AB", rows, strict=True):
            marks = [(row.repeat + 1, mark) for row in side for mark in row.marks]
            found[cell] += [f"{name} repeat {repeat}: {mark}" for repeat, mark in marks]
            rates[cell].append([r.figures.examples_per_second.median for r in side if r.figures])
    return _compared(unpaired_effect, rates, notes, found)


def compare_pairs(pairs: Sequence[Pair]) -> Comparison:
    """Compares every cell of which at least two pairs of processes were measured."""
    found, ratios = {}, {}
    for cell in dict.fromkeys(pair.cell for pair in pairs):
        measured = [pair for pair in pairs if pair.cell == cell]
        if len(measured) >= 2:
            ratios[cell] = [[log_ratio(pair.log_ratios) for pair in measured]]
            found[cell] = _differences(measured[0].resolved_a, measured[0].resolved_b)
            found[cell] += [f"pair {p.repeat + 1}: {mark}" for p in measured for mark in p.marks]
    return _compared(paired_effect, ratios, [], found)


def _compared(
    effect_of: Callable[..., Effect],
    values: Mapping[Cell, list[list[float]]],
    notes: list[str],
    found: Mapping[Cell, list[str]],
) -> Comparison:
    """The effects of the cells, whose intervals together have `CONFIDENCE` (Bonferroni): a large
    grid must not raise more false alarms than a small one."""
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(values))
    effects = {cell: effect_of(*lists, confidence=confidence) for cell, lists in values.items()}
    axes = varying(list(values))
    notes += [f"{cell.label(axes)}: {text}" for cell, texts in found.items() for text in texts]
    return Comparison(effects, notes)


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Prints a line for each cell, what the figures mean, and the notes."""
    lines = {
        cell: {
            "B / A": f"{effect.ratio:.3f}",
            "interval": f"{effect.low:.3f} - {effect.high:.3f}",
            "B is": effect.verdict,
            "processes": f"{effect.num_a} + {effect.num_b}",
            "detectable": f"{effect.detectable:.1%}",
        }
        for cell, effect in comparison.effects.items()
    }
    print_cells(lines, console)
    console.print(
        f"B / A: examples/s. With {CONFIDENCE:.0%} confidence all intervals contain the true "
        "ratios. Detectable: four of five such comparisons would find a slowdown of B by this much."
    )
    print_notes(comparison.notes, console)


def judge(
    comparison: Comparison,
    console: Console,
    *,
    fail_if_slower: str | None,
    fail_if_inconclusive: bool,
) -> int:
    """Prints which cells exceed the allowed slowdown (as in 5% or 0.05; None allows any), and for
    which the data cannot tell. Returns the exit code: 1 where a cell is slower than allowed, else 3
    where one is inconclusive and `fail_if_inconclusive` is set, else 0."""
    if fail_if_slower is None:
        return 0
    allowed = parse_share("--fail-if-slower", fail_if_slower)
    axes, found = varying(list(comparison.effects)), set()
    for cell, effect in comparison.effects.items():
        found.add(outcome := effect.gate(allowed))
        if outcome != "passed":
            how = "is" if outcome == "failed" else "may or may not be"
            text = (
                f"{outcome}: B {how} slower than A by more than {fail_if_slower}: "
                f"{cell.label(axes)} (B / A {effect.low:.3f} - {effect.high:.3f})"
            )
            console.out(printable(text))
    if not found - {"passed"}:
        console.print(f"passed: no cell is slower by more than {fail_if_slower}")
    if "inconclusive" in found:
        console.print("to decide what is inconclusive, set more --repeats or longer --seconds")
    if "failed" in found:
        return 1
    return EXIT_INCONCLUSIVE if fail_if_inconclusive and "inconclusive" in found else 0


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {a.get(name)} in A and {b.get(name)} in B"
        for name in sorted(a.keys() | b.keys())
        if str(a.get(name)) != str(b.get(name))  # of another version: 20 or "20"
    ]
