"""`harness compare`: two results files, cell by cell."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console

from harness.base.checks import require, require_extra
from harness.base.decoding import flattened
from harness.cli.bench import GateConfig


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare two results files of `harness bench`, cell by cell: the ratio of throughput and its
    confidence interval. Machines drift: if both versions are available, `harness bench --against`
    detects smaller differences."""

    baseline: tyro.conf.Positional[str]
    """Results file (or folder) A."""

    candidate: tyro.conf.Positional[str]
    """Results file (or folder) B."""

    gate: GateConfig = field(default_factory=GateConfig)


def compare(config: CompareConfig, console: Console | None = None) -> int:
    from harness.tools.bench.compare import compare as compare_rows
    from harness.tools.bench.compare import differences, report
    from harness.tools.bench.results import read_results

    console = console or Console()
    require_extra("bench", "a comparison", "scipy")
    a, b = (read_results(Path(name)) for name in (config.baseline, config.candidate))
    rows = [[row for row in results.rows if row.side == "B"] for results in (a, b)]
    effects, notes = compare_rows(*rows)
    require(
        len(effects) > 0,
        "no cell was measured at least twice in both A and B; run the same grid for both, with "
        "--repeats 2 or more",
    )
    groups = ("data", "model", "optimizer")
    facts = [
        {"machine": r.machine, **r.versions, **flattened({n: r.config.get(n) for n in groups})}
        for r in (a, b)
    ]
    return report(effects, notes + differences(*facts), console, **vars(config.gate))
