"""Reads the GPUs in a separate process, once for each line of its input.

Arguments: the PCI addresses of TensorFlow's GPUs.
"""

import json
import subprocess
import sys
from collections.abc import Callable
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


def read_gpus(
    nvml: Nvml,
    *bus_ids: str,
    times: int = 1,
    then: Callable[[], None] = lambda: None,
    **environment: str,
) -> Told:
    """Runs this module with the scripted library; calls `then` after the first reading."""
    answers: list[dict[str, Any]] = []
    with subprocess.Popen(
        [sys.executable, "-m", "tests.harness.run.telemetry.reading", *bus_ids],
        env=nvml.environment(**environment),
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in range(times):
            if number == 1:
                then()
            process.stdin.write("\n")
            process.stdin.flush()
            answers.append(json.loads(process.stdout.readline() or "{}"))
        _, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (0, "")
    told = {
        kind: [text for told_as, text in answers[-1]["messages"] if told_as == kind]
        for kind in ("note", "warning")
    }
    readings = [answer["reading"] for answer in answers]
    return Told(readings=readings, notes=told["note"], warnings=told["warning"])


def _main(*bus_ids: str) -> None:
    from harness.run.telemetry.nvml import opened_gpus

    messages: list[tuple[str, str]] = []
    with opened_gpus(lambda kind, text: messages.append((kind, text)), bus_ids=bus_ids) as read:
        for _ in sys.stdin:
            print(json.dumps({"reading": read(), "messages": messages}), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
