"""The measured process: `python -m harness.bench.worker`, its own for each cell and repeat.

It reads a job from standard input, builds what `harness train` would, compiles, says that it is
ready, and trains for a turn whenever it is asked to: so one process can be measured alone, or two
in turn while both stay loaded. Everything it says is JSON, one message a line, on what was standard
output (harness/bench/protocol.py).
"""

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

import harness
from harness.bench.protocol import PROTOCOL_VERSION, Job
from harness.child_process import die_with_parent, take_standard_output
from harness.errors import InputError
from harness.quiet import quiet_import
from harness.telemetry import host


def main() -> None:
    """Serves one job, then ends."""
    die_with_parent()
    channel = io.TextIOWrapper(take_standard_output())
    try:
        _serve(channel)
    except InputError as error:
        _send(channel, kind="input error", message=str(error))
    except MemoryError as error:
        _send(channel, kind="out of memory", message=str(error) or "Python had none left")


def _serve(channel: TextIO) -> None:
    """Answers every request on standard input until it is closed."""
    job = _read_job()
    with quiet_import():
        from harness.bench.measured import Measured
    with tempfile.TemporaryDirectory() as folder:
        measured = Measured(job, unused=Path(folder))
        _send(
            channel,
            kind="ready",
            protocol=PROTOCOL_VERSION,
            code=str(Path(harness.__file__).parents[1]),
            resolved=measured.resolved,
            pci_bus_ids=measured.pci_bus_ids,
            compile_seconds=measured.compile_seconds,
            start_seconds=host.seconds_since_process_start(),
            versions=host.versions(),
            host=host.host(),
        )
        for line in sys.stdin:
            windows = measured.turn(**json.loads(line))
            for window in windows:
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
            channel.flush()


def _read_job() -> Job:
    content = json.loads(sys.stdin.readline())
    if content.get("protocol") != PROTOCOL_VERSION:
        raise InputError(
            f"the code in {Path(harness.__file__).parents[1]} measures by protocol "
            f"{PROTOCOL_VERSION}, it was asked by {content.get('protocol')}; compare versions that "
            "share one"
        )
    return Job(**content)


def _send(channel: TextIO, **message: Any) -> None:
    channel.write(json.dumps(message) + "\n")
    if message["kind"] != "window":  # a turn's windows go together: the reader shall not wake up
        channel.flush()


if __name__ == "__main__":
    main()
