"""`harness compare`: two results files, cell by cell."""

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from rich.console import Console

from harness.base.checks import require_extra
from harness.cli.bench import GateConfig


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare two results files of `harness bench`, cell by cell: the ratio of throughput, its
    confidence interval, and the smallest slowdown that the data could have shown. Machines drift:
    if both versions are available, `harness bench --against` detects smaller differences."""

    baseline: tyro.conf.Positional[str]
    """Results file (or folder) A."""

    candidate: tyro.conf.Positional[str]
    """Results file (or folder) B."""

    across_machines: bool = False
    """Compare even if the files come from different machines."""

    gate: GateConfig = field(default_factory=GateConfig)


def compare(config: CompareConfig, console: Console | None = None) -> int:
    """Runs the command, and returns its exit code: 1 where --fail-if-slower finds a cell, 3 where
    --fail-if-inconclusive does, else 0."""
    from harness.tools.bench import compare as comparing
    from harness.tools.bench.results import read_results

    console = console or Console()
    require_extra("bench", "a comparison", "scipy")
    a, b = (read_results(Path(name)) for name in (config.baseline, config.candidate))
    comparison = comparing.compare(a, b, across_machines=config.across_machines)
    comparing.print_comparison(comparison, console)
    return comparing.judge(comparison, console, **vars(config.gate))
