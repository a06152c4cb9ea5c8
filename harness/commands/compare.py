"""`harness compare`: two results files, cell by cell."""

import importlib.util
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness.bench.compare import Comparison
from harness.bench.compare import compare as compare_results
from harness.bench.comparison_table import print_comparison
from harness.bench.rows import read_results
from harness.config.bench import CompareConfig, parse_share
from harness.errors import InputError


def compare(config: CompareConfig, console: Console | None = None) -> int:
    """Runs the command.

    Returns:
        Its exit code: 1 where --fail-if-slower finds a cell, else 0.

    Raises:
        InputError: when a file is none of ours, or the two cannot be compared.
    """
    console = console or Console()
    require_package("scipy", "to compare", "compare where it is")
    a, b = (read_results(Path(name)) for name in (config.baseline, config.candidate))
    comparison = compare_results(a, b, across_machines=config.across_machines)
    print_comparison(comparison, console)
    return verdict(comparison, config.fail_if_slower, console)


def verdict(comparison: Comparison, fail_if_slower: str | None, console: Console) -> int:
    """Says which cells are slower by more than was allowed; returns 1 if there are any, else 0."""
    if fail_if_slower is None:
        return 0
    share = parse_share("--fail-if-slower", fail_if_slower)
    slower = [c for c in comparison.cells if c.effect.is_slower_by(share)]
    for compared in slower:
        console.print(
            Text(
                f"B is slower than A by more than {fail_if_slower}: {compared.cell.label()} "
                f"(by {100 * (1 - compared.effect.ratio):.1f} %, at least "
                f"{100 * (1 - compared.effect.high):.1f} %)"
            ),
            soft_wrap=True,
        )
    if not slower:
        console.print(f"no cell is shown to be slower by more than {fail_if_slower}")
    return 1 if slower else 0


def require_package(package: str, purpose: str, instead: str) -> None:
    """Checks for a package of the extra `bench`.

    Raises:
        InputError: when it is not installed.
    """
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"{package} is not installed, which is needed {purpose}; install it "
            f"({sys.executable} -m pip install {package}), or {instead}"
        )
