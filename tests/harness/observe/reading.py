"""Reads the GPUs so many times in a process of its own, and what it told; for test_gpu.

Arguments: the number of readings, then the PCI addresses of TensorFlow's GPUs. A
reading that is None says that there are no more.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from harness.records import Message
from tests.harness.observe.nvml.library import Nvml
from tests.harness.observe.samples import REPOSITORY


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the process printed."""

    readings: list[dict[str, float] | None]
    notes: list[str]
    warnings: list[str]

    @property
    def first(self) -> dict[str, float]:
        """The first reading, of which there is one."""
        assert self.readings[0] is not None
        return self.readings[0]


def read_gpus(nvml: Nvml, *bus_ids: str, times: int = 1, **environment: str) -> Told:
    """Runs this module with the scripted library."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.harness.observe.reading", str(times), *bus_ids],
        env=nvml.environment(**environment),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    content: dict[str, Any] = json.loads(done.stdout)
    told = {
        kind: [m["text"] for m in content["messages"] if m["kind"] == kind]
        for kind in ("note", "warning")
    }
    return Told(readings=content["readings"], notes=told["note"], warnings=told["warning"])


def _main(times: str, *bus_ids: str) -> None:
    from harness.observe.gpu import gpus

    messages: list[Message] = []
    readings: list[Any] = []
    with gpus(messages.append, bus_ids=bus_ids) as read:
        for _ in range(int(times)):
            readings.append(read())
            if readings[-1] is None:
                break
    print(json.dumps({"readings": readings, "messages": [asdict(m) for m in messages]}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
