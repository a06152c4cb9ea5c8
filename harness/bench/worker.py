"""The measured process's side of the protocol (harness/bench/process.py has the parent's).

The process reads the settings from standard input, builds and compiles what they describe, reports
that it is ready, and trains for a turn at each request. So one process can be measured alone, or
two in turns while both stay loaded. Both directions are JSON, one message a line.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from harness.bench.process import OWN_CODE, PROTOCOL_VERSION
from harness.child_process import die_with_parent, take_standard_output
from harness.errors import InputError
from harness.observe import host
from harness.quiet import quiet_import

if TYPE_CHECKING:
    from harness.data.ragged import RaggedSets
    from harness.trainer import Trainer

Build = Callable[[Mapping[str, Any]], "tuple[Trainer, RaggedSets]"]
"""From settings by their bare names to a trainer, and the rows to train on."""


def serve(build: Build) -> None:
    """Serves one parent until it closes standard input."""
    die_with_parent()
    channel = io.TextIOWrapper(take_standard_output())
    try:
        _serve(channel, build)
    except InputError as error:
        _send(channel, kind="input error", message=str(error))
    except MemoryError as error:
        _send(channel, kind="out of memory", message=str(error) or "Python had none left")


def _serve(channel: TextIO, build: Build) -> None:
    job = json.loads(sys.stdin.readline())
    if job.get("protocol") != PROTOCOL_VERSION:
        raise InputError(
            f"the code in {OWN_CODE} measures by protocol {PROTOCOL_VERSION}, it was asked by "
            f"{job.get('protocol')}; compare versions that share one"
        )
    with quiet_import():
        from harness.bench.measured import Measured
    measured = Measured(*build(job["settings"]))
    _send(
        channel,
        kind="ready",
        code=str(OWN_CODE),
        resolved=measured.resolved,
        pci_bus_ids=measured.pci_bus_ids,
        compile_seconds=measured.compile_seconds,
    )
    for line in sys.stdin:
        request = json.loads(line)
        for window in measured.turn(seconds=request["seconds"], steps=request["steps"]):
            _send(
                channel,
                kind="window",
                seconds=window.seconds,
                num_steps=window.num_steps,
                examples=window.examples,
                data_wait_seconds=window.data_wait_seconds,
            )
        _send(
            channel,
            kind="turn",
            compile_seconds=measured.compile_seconds,
            peak_rss_bytes=host.peak_rss_bytes(),
            peak_device_bytes=measured.peak_device_bytes(),
        )


def _send(channel: TextIO, **message: Any) -> None:
    channel.write(json.dumps(message) + "\n")
    if message["kind"] != "window":  # a turn's windows go together, so the reader wakes up once
        channel.flush()
