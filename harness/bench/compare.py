"""Is B slower than A? Two results files, or pairs that took turns, cell by cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from harness.bench.effects import (
    CONFIDENCE,
    Effect,
    log_ratio,
    paired_effect,
    shared_confidence,
    unpaired_effect,
)
from harness.bench.results import Cell, Pair, Results, Row, varying
from harness.bench.tables import print_cells, print_notes
from harness.checks import parse_share
from harness.errors import InputError, printable

EXIT_INCONCLUSIVE = 3


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two results, cell by cell."""

    effects: Mapping[Cell, Effect]
    notes: Sequence[str]
    """What differs besides, and what makes figures doubtful."""


def compare(a: Results, b: Results, *, across_machines: bool) -> Comparison:
    """Compares every cell that both results measured successfully, at least twice each.

    Raises:
        InputError: when the machines differ and `across_machines` is not set, or no cell can be
            compared.
    """
    machines = [_machine(results) for results in (a, b)]
    if machines[0] != machines[1] and not across_machines:
        raise InputError(
            f"A was measured on {machines[0]}, B on {machines[1]}; measure both on one machine, or "
            "set --across-machines to compare the machines"
        )
    sides = {cell: (_good(a, cell), _good(b, cell)) for cell in a.cells}
    sides = {cell: rows for cell, rows in sides.items() if min(map(len, rows)) >= 2}
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
    if left_out := len({*a.cells, *b.cells}) - len(sides):
        notes.append(f"{left_out} cells were not measured twice in both and are left out")
    axes = varying(list(sides))
    for cell, (rows_a, rows_b) in sides.items():
        found = _differences(rows_a[0].resolved, rows_b[0].resolved)
        for side, rows in (("A", rows_a), ("B", rows_b)):
            found += [
                f"{side} repeat {row.repeat + 1}: {mark}" for row in rows for mark in row.marks
            ]
        notes += [f"{cell.label(axes)}: {text}" for text in found]
    confidence = shared_confidence(len(sides))
    effects = {
        cell: unpaired_effect(_rates(rows_a), _rates(rows_b), confidence=confidence)
        for cell, (rows_a, rows_b) in sides.items()
    }
    return Comparison(effects=effects, notes=notes)


def compare_pairs(pairs: Sequence[Pair]) -> Comparison:
    """Compares every cell of which at least two pairs of processes were measured."""
    by_cell: dict[Cell, list[Pair]] = {}
    for pair in pairs:
        by_cell.setdefault(pair.cell, []).append(pair)
    enough = {cell: measured for cell, measured in by_cell.items() if len(measured) >= 2}
    confidence = shared_confidence(len(enough))
    effects, notes = {}, []
    axes = varying(list(enough))
    for cell, measured in enough.items():
        ratios = [log_ratio(pair.log_ratios, pair.num_warm_up) for pair in measured]
        effects[cell] = paired_effect(ratios, confidence=confidence)
        found = _differences(measured[0].resolved_a, measured[0].resolved_b)
        found += [f"pair {pair.repeat + 1}: {mark}" for pair in measured for mark in pair.marks]
        notes += [f"{cell.label(axes)}: {text}" for text in found]
    return Comparison(effects=effects, notes=notes)


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
    """Prints which cells exceed the allowed slowdown, and for which the data cannot tell.

    Args:
        comparison: to judge.
        console: where to print.
        fail_if_slower: the allowed slowdown, as in 5% or 0.05; None allows any.
        fail_if_inconclusive: whether an inconclusive cell has an exit code of its own.

    Returns:
        The exit code: 1 where a cell is shown to be slower by more than allowed, else 3 where one
        is inconclusive and `fail_if_inconclusive` is set, else 0.
    """
    if fail_if_slower is None:
        return 0
    allowed = parse_share("--fail-if-slower", fail_if_slower)
    axes = varying(list(comparison.effects))
    outcomes = set()
    for cell, effect in comparison.effects.items():
        outcomes.add(outcome := effect.gate(allowed))
        if outcome != "passed":
            how = "is" if outcome == "failed" else "may or may not be"
            text = (
                f"{outcome}: B {how} slower than A by more than {fail_if_slower}: "
                f"{cell.label(axes)} (B / A {effect.low:.3f} - {effect.high:.3f})"
            )
            console.out(printable(text))
    if outcomes <= {"passed"}:
        console.print(f"passed: no cell is slower by more than {fail_if_slower}")
    if "inconclusive" in outcomes:
        console.print("to decide what is inconclusive, set more --repeats or longer --seconds")
    if "failed" in outcomes:
        return 1
    return EXIT_INCONCLUSIVE if fail_if_inconclusive and "inconclusive" in outcomes else 0


def _good(results: Results, cell: Cell) -> list[Row]:
    return [row for row in results.rows if row.cell == cell and row.figures is not None]


def _rates(rows: Sequence[Row]) -> list[float]:
    return [row.figures.examples_per_second.median for row in rows if row.figures is not None]


def _machine(results: Results) -> str:
    host = results.provenance.host
    gpus = ", ".join(str(gpu["name"]) for gpu in results.provenance.gpus) or "no GPU"
    memory = round(host["memory_bytes"] / 2**30)  # may differ by some pages from boot to boot
    return f"{host['cpu']}, {host['cores']} cores, {memory} GiB, {gpus}"


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {a.get(name)} in A and {b.get(name)} in B"
        for name in sorted(a.keys() | b.keys())
        if str(a.get(name)) != str(b.get(name))  # of another version: 20 or "20"
    ]
