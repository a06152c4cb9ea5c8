"""Is B slower than A? Two results files, or pairs that took turns, cell by cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.bench.effects import (
    CONFIDENCE,
    Effect,
    log_ratio,
    paired_effect,
    shared_confidence,
    unpaired_effect,
)
from harness.bench.results import Cell, Pair, Results, Row, varying
from harness.bench.tables import print_columns, print_notes
from harness.checks import parse_share
from harness.errors import InputError

EXIT_INCONCLUSIVE = 3


@dataclass(frozen=True, kw_only=True)
class CellComparison:
    """One cell in both results."""

    cell: Cell
    effect: Effect
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two results, cell by cell."""

    cells: tuple[CellComparison, ...]
    notes: tuple[str, ...] = ()
    """On the files as a whole."""


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
    shared = [cell for cell in a.cells if cell in b.cells]
    sides = {cell: [_good(results, cell) for results in (a, b)] for cell in shared}
    sides = {cell: rows for cell, rows in sides.items() if min(map(len, rows)) >= 2}
    if not sides:
        raise InputError(
            f"no cell can be compared: A has {len(a.cells)}, B has {len(b.cells)}, both have "
            f"{len(shared)}, and none of these was measured at least twice in each; run the same "
            "grid for both, with --repeats 2 or more"
        )
    notes = [
        f"the {name} settings differ; the ratios include the effect of that"
        for name in ("data", "model", "optimizer")
        if a.config.get(name) != b.config.get(name)
    ]
    notes += _differences(a.provenance.versions, b.provenance.versions)
    notes += _differences(a.provenance.host, b.provenance.host)
    left_out = len({*a.cells, *b.cells}) - len(sides)
    if left_out:
        notes.append(f"{left_out} cells were not measured twice in both and are left out")
    confidence = shared_confidence(len(sides))
    return Comparison(
        cells=tuple(
            CellComparison(
                cell=cell,
                effect=unpaired_effect(_rates(rows_a), _rates(rows_b), confidence=confidence),
                notes=(
                    *_differences(rows_a[0].resolved, rows_b[0].resolved),
                    *(f"A repeat {row.repeat + 1}: {mark}" for row in rows_a for mark in row.marks),
                    *(f"B repeat {row.repeat + 1}: {mark}" for row in rows_b for mark in row.marks),
                ),
            )
            for cell, (rows_a, rows_b) in sides.items()
        ),
        notes=tuple(notes),
    )


def compare_pairs(pairs: Sequence[Pair]) -> Comparison:
    """Compares every cell of which at least two pairs of processes were measured."""
    by_cell: dict[Cell, list[Pair]] = {}
    for pair in pairs:
        by_cell.setdefault(pair.cell, []).append(pair)
    enough = {cell: measured for cell, measured in by_cell.items() if len(measured) >= 2}
    confidence = shared_confidence(len(enough))
    return Comparison(
        cells=tuple(
            CellComparison(
                cell=cell,
                effect=paired_effect(
                    [log_ratio(p.log_ratios, p.num_warm_up) for p in measured],
                    confidence=confidence,
                ),
                notes=(
                    *_differences(measured[0].resolved_a, measured[0].resolved_b),
                    *(f"pair {p.repeat + 1}: {mark}" for p in measured for mark in p.marks),
                ),
            )
            for cell, measured in enough.items()
        ),
    )


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Prints a line for each cell, what the figures mean, and the notes."""
    cells = comparison.cells
    axes = varying([compared.cell for compared in cells])
    effects = [compared.effect for compared in cells]
    print_columns(
        [compared.cell for compared in cells],
        {
            "B / A": [f"{e.ratio:.3f}" for e in effects],
            "interval": [f"{e.low:.3f} - {e.high:.3f}" for e in effects],
            "B is": [e.verdict for e in effects],
            "processes": [f"{e.num_a} + {e.num_b}" for e in effects],
            "detectable": [f"{e.detectable:.1%}" for e in effects],
        },
        console,
    )
    console.print(
        f"B / A: examples/s. With {CONFIDENCE:.0%} confidence all intervals contain the true "
        "ratios. Detectable: four of five such comparisons would find a slowdown of B by this much."
    )
    notes = [f"{c.cell.label(axes)}: {note}" for c in cells for note in c.notes]
    print_notes([*comparison.notes, *notes], console)


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
    outcomes = {compared.effect.gate(allowed) for compared in comparison.cells}
    axes = varying([compared.cell for compared in comparison.cells])
    for compared in comparison.cells:
        effect = compared.effect
        outcome = effect.gate(allowed)
        if outcome == "passed":
            continue
        how = "is" if outcome == "failed" else "may or may not be"
        text = (
            f"{outcome}: B {how} slower than A by more than {fail_if_slower}: "
            f"{compared.cell.label(axes)} (B / A {effect.low:.3f} - {effect.high:.3f})"
        )
        console.print(Text(text), soft_wrap=True)
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
