"""The doctor's report, and its exit code."""

import dataclasses
import json
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.commands.doctor.computing import computing
from harness.commands.doctor.finding import Finding
from harness.commands.doctor.gpu import gpus
from harness.commands.doctor.kernels import kernels
from harness.commands.doctor.software import software
from harness.commands.doctor.surroundings import surroundings
from harness.config import DoctorConfig
from harness.engine.devices import set_up_devices

_SHOWN_AS = {"ok": "OK", "limited": "limited", "broken": "BROKEN"}


def doctor(config: DoctorConfig, console: Console | None = None) -> int:
    """Runs the command.

    Returns:
        Its exit code: 1 when something is broken, or is missing that `--need` names; else 0.
    """
    console = console or Console()
    findings = list(examine())
    missing = [f for f in findings if f.state == "broken" or is_missing(f, config)]
    if config.json:
        content = {
            "ok": not missing,
            "missing": [finding.subject for finding in missing],
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        console.out(json.dumps(content, indent=2), highlight=False)
        return 1 if missing else 0
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")  # a path that is cut short is of no use
    for finding in findings:
        shown = "MISSING" if is_missing(finding, config) else _SHOWN_AS[finding.state]
        table.add_row(finding.subject, shown, Text(finding.text))
    console.print(table)
    return 1 if missing else 0


def is_missing(finding: Finding, config: DoctorConfig) -> bool:
    """Whether it was asked for and is not all there."""
    return finding.part in config.need and finding.state != "ok"


def examine() -> Iterator[Finding]:
    """All findings, in the order in which they depend on one another."""
    yield from software()
    devices = set_up_devices("auto")
    yield from gpus(devices)
    yield from computing(devices)
    yield from kernels()
    yield from surroundings()
