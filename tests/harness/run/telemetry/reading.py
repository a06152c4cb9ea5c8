"""Reads the GPUs so many times in a separate process, and returns its output, for test_gpu.

Arguments: the number of readings, then the PCI addresses of TensorFlow's GPUs.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tests.emulated_gpu.nvml import Nvml
from tests.harness.cli.runs import REPOSITORY


@dataclass(frozen=True, kw_only=True)
class Told:
    """The output of the process."""

    readings: list[dict[str, float]]
    notes: list[str]
    warnings: list[str]

    @property
    def first(self) -> dict[str, float]:
        """The first reading, of which there is one."""
        return self.readings[0]


def read_gpus(nvml: Nvml, *bus_ids: str, times: int = 1, **environment: str) -> Told:
    """Runs this module with the scripted library."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.harness.run.telemetry.reading", str(times), *bus_ids],
        env=nvml.environment(**environment),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    content: dict[str, Any] = json.loads(done.stdout)
    told = {
        kind: [text for told_as, text in content["messages"] if told_as == kind]
        for kind in ("note", "warning")
    }
    return Told(readings=content["readings"], notes=told["note"], warnings=told["warning"])


def _main(times: str, *bus_ids: str) -> None:
    from harness.run.telemetry.nvml import opened_gpus

    messages: list[tuple[str, str]] = []
    with opened_gpus(lambda kind, text: messages.append((kind, text)), bus_ids=bus_ids) as read:
        readings = [read() for _ in range(int(times))]
    print(json.dumps({"readings": readings, "messages": messages}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
