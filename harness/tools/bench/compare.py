"""Is B slower than A? Answered cell by cell, with confidence intervals.

A process is the unit of a comparison. Windows of one process share its memory layout, its luck with
the scheduler and its minute of the day, so thousands of windows of one process say nothing about
the next one (Kalibera and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013). Each
process, or pair of processes that took turns, therefore counts as one value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.console import Console

from harness.base.checks import parse_share
from harness.base.errors import printable
from harness.base.terminal import markdown_table
from harness.tools.bench.results import Cell, Row, print_table, varying

LEAST_PROCESSES = 3  # on each side: an interval of two would be of no use
CONFIDENCE = 0.99  # that all intervals of a comparison, over all cells, contain the true ratios


@dataclass(frozen=True)
class Effect:
    """Throughput of B over that of A, with its confidence interval."""

    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> Literal["slower", "faster", "no difference shown"]:
        if self.high < 1:
            return "slower"
        return "faster" if self.low > 1 else "no difference shown"

    def gate(self, allowed: float) -> Literal["passed", "inconclusive", "failed"]:
        """Judges B against an allowed slowdown, a share: failed if the interval is below it."""
        if self.high < 1 - allowed:
            return "failed"
        return "passed" if self.low >= 1 - allowed else "inconclusive"


def paired_effect(ratios: Sequence[float], confidence: float) -> Effect:
    """Compares processes that took turns, by the trimmed mean of their ratios and its t interval:
    the machine may slow down one side of a pair throughout."""
    from scipy import stats

    logs = np.log(ratios)
    num_trimmed = len(logs) // 10  # at each end: one of ten to nineteen pairs, none of fewer
    if num_trimmed == 0:
        half = stats.t.ppf((1 + confidence) / 2, len(logs) - 1) * stats.sem(logs)
        return Effect(*np.exp(logs.mean() + half * np.array([0, -1, 1])).tolist())
    # SciPy widens the interval by the share that it is given, which it rounds down to whole pairs.
    share = (num_trimmed + 1e-6) / len(logs)
    # A bootstrap would not do: of ten pairs, six times as many of its intervals miss the truth.
    interval = stats.mstats.trimmed_mean_ci(logs, limits=(share, share), alpha=1 - confidence)
    return Effect(*np.exp([stats.trim_mean(logs, share), *interval]).tolist())


def unpaired_effect(a: Sequence[float], b: Sequence[float], confidence: float) -> Effect:
    """Compares processes that did not take turns, by Welch's t interval of their logarithms."""
    from scipy import stats

    logs = np.log(a), np.log(b)
    found = stats.ttest_ind(logs[1], logs[0], equal_var=False).confidence_interval(confidence)
    return Effect(*np.exp([logs[1].mean() - logs[0].mean(), found.low, found.high]).tolist())


def compare(rows: Sequence[Row]) -> tuple[dict[Cell, Effect], list[str]]:
    """Returns the effects in cells measured often enough on both sides, and what else differs. Rows
    of B have ratios if their processes took turns with those of A."""
    cells = list(dict.fromkeys(row.cell for row in rows))
    # Bonferroni: a large grid must not raise more false alarms than a small one.
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(cells))
    effects, notes = {}, []
    for cell in cells:
        good = [row for row in rows if row.cell == cell and row.figures]
        a, b = ([row for row in good if row.side == side] for side in "AB")
        if min(len(a), len(b)) < LEAST_PROCESSES:
            few = f"was not measured {LEAST_PROCESSES} times on both sides"
            notes.append(f"{cell.label(varying(cells))} {few}")
            continue
        if b[0].ratio is not None:
            effects[cell] = paired_effect([row.ratio for row in b if row.ratio], confidence)
        else:
            rates = [[row.figures["examples_per_second"] for row in side] for side in (a, b)]
            effects[cell] = unpaired_effect(rates[0], rates[1], confidence)
        of_a, of_b = a[0].resolved, b[0].resolved
        notes += [
            f"{cell.label(varying(cells))}: {n} is {of_a.get(n)} in A and {of_b.get(n)} in B"
            for n in sorted(of_a.keys() | of_b.keys())
            if str(of_a.get(n)) != str(of_b.get(n))  # another version may write 20 as "20"
        ]
    return effects, notes


def report(
    effects: Mapping[Cell, Effect],
    notes: Sequence[str],
    console: Console,
    fail_if_slower: str | None,
    fail_if_inconclusive: bool,
    *,
    markdown: bool = False,
) -> int:
    """Prints a line for each cell, perhaps as Markdown, the notes and the gate's verdict; returns
    the exit code."""
    axes, gates = varying(effects), []
    table = [[*(axis.replace("_", " ") for axis in axes), "B / A", "interval", "B is"]]
    for cell, effect in effects.items():
        interval = f"{effect.low:.3f} - {effect.high:.3f}"
        values = [str(getattr(cell, axis)) for axis in axes]
        table.append([*values, f"{effect.ratio:.3f}", interval, effect.verdict])
        if fail_if_slower is not None:
            gates.append(effect.gate(parse_share("--fail-if-slower", fail_if_slower)))
    if gates:
        table = [[*texts, gate] for texts, gate in zip(table, ["gate", *gates], strict=True)]
    if markdown:
        console.out(printable(markdown_table(table[0], table[1:])) + "\n")
    else:
        print_table(table, console)
    meaning = f"With {CONFIDENCE:.0%} confidence all intervals contain the true ratios."
    console.out(f"B / A: examples/s. {meaning}")
    for note in notes:
        console.out(printable(note, most=1000))
    slower = f"slower than A by more than {fail_if_slower}"
    if "failed" in gates:
        console.out(f"failed: B is {slower}")
        return 1
    if "inconclusive" in gates:
        console.out(f"inconclusive: B may be {slower}; set more --repeats or longer --seconds")
        return 3 if fail_if_inconclusive else 0
    if "passed" in gates:
        console.out(f"passed: no cell is {slower}")
    return 0
