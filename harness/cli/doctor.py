"""`harness doctor`: checks what this machine can do for a run, each line with OK or the remedy."""

import json
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.base.quiet import quiet_import

Part = Literal["gpu", "native", "tensorboard", "profile", "data"]  # a part that `--need` can name
_SHOWN_AS = {"ok": "OK", "limited": "limited", "broken": "BROKEN"}


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Check what this machine can do for a run, line by line, each with OK or the remedy. Exit code
    1 when something is broken."""

    need: tuple[Part, ...] = ()
    """Parts that must work: exit code 1 when one of them does not."""
    json: bool = False
    """Print one JSON object instead of a table."""


def doctor(config: DoctorConfig, console: Console | None = None) -> int:
    """Returns 1 when something is broken or a part of `--need` is not ok, else 0."""
    with quiet_import():
        from harness.cli.doctor_machine import examine
    console = console or Console()
    findings = list(examine())
    needed = [f for f in findings if f.part in config.need and f.state != "ok"]
    missing = [f for f in findings if f.state == "broken" or f in needed]
    if config.json:
        content = {
            "ok": not missing,
            "missing": [finding.subject for finding in missing],
            "findings": [finding._asdict() for finding in findings],
        }
        console.out(json.dumps(content, indent=2), highlight=False)
    else:
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            shown = "MISSING" if finding in needed else _SHOWN_AS[finding.state]
            text = Text(finding.text, overflow="fold")  # a path cut short is of no use
            table.add_row(finding.subject, shown, text)
            if not console.is_terminal:  # whose lines have no width
                console.out(f"{finding.subject:{width}} {shown:7} {finding.text}", highlight=False)
        if console.is_terminal:
            console.print(table)
    return 1 if missing else 0
