"""`python -m harness.cli.measured`: a process that `harness bench` measures.

It reads the settings from standard input, builds and compiles what `harness train` would train with
them, reports that it is ready, and trains for a turn at each request. harness/bench/process.py has
the parent's side, and describes the messages.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from harness.bench.process import PROTOCOL_VERSION
from harness.child import OWN_CODE, channel_to_parent, write_message
from harness.cli.train import TrainConfig, trainer_of
from harness.decoding import from_mapping
from harness.errors import InputError
from harness.memory import OutOfMemoryError
from harness.observe import host
from harness.quiet import quiet_import
from harness.records import Observer, Window

_EPOCHS = 2
"""Whose orders of rows are repeated."""


class _Windows(Observer):
    """Keeps the windows of a turn: sending them meanwhile would take time from the next."""

    def __init__(self) -> None:
        self.taken: list[Window] = []

    def on_window(self, window: Window) -> None:
        self.taken.append(window)


def main() -> None:
    """Serves one parent until it closes standard input."""
    with channel_to_parent() as channel:
        try:
            with quiet_import():
                import tensorflow as tf
            _serve(channel)
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            message = str(error).partition("\n")[0] or "Python had none left"
            write_message(channel, "out of memory", message=message)
        except InputError as error:
            kind = "out of memory" if isinstance(error, OutOfMemoryError) else "input error"
            write_message(channel, kind, message=error.args[0])


def _serve(channel: TextIO) -> None:
    import tensorflow as tf

    from harness.data.sources import load_configured
    from harness.environment import gpu_warnings

    job = json.loads(sys.stdin.readline())
    if job["protocol"] != PROTOCOL_VERSION:
        raise InputError(
            f"the code in {OWN_CODE} measures by protocol {PROTOCOL_VERSION}, it was asked by "
            f"{job['protocol']}; compare versions that share one"
        )
    config = from_mapping(TrainConfig, job["settings"], where="the benchmark's settings")
    data = load_configured(config.data)
    trainer = trainer_of(config, data, config.execution, epochs=config.epochs)
    warnings = gpu_warnings()
    steps = trainer.steps(data.train, epochs=_EPOCHS)
    compile_seconds = sum(made.seconds for made in steps.compile())
    start, devices = steps.start, trainer.devices
    resolved: dict[str, Any] = {
        **{name: choice.value for name, choice in start.choices.items()},
        "devices": list(start.devices),
        "batch_size": start.batch_size,
    }
    if warnings:
        resolved["warnings"] = list(warnings)
    write_message(
        channel,
        "ready",
        code=str(OWN_CODE),
        resolved=resolved,
        pci_bus_ids=devices.pci_bus_ids,
    )
    channel.flush()
    gpus = devices.names if devices.device_type == "GPU" else ()
    for line in sys.stdin:
        request = json.loads(line)
        windows = _Windows()
        progress = steps.run(
            num_steps=request["steps"], until=_after(request["seconds"]), observers=(windows,)
        )
        compile_seconds += sum(made.seconds for made in progress.compilations)
        for window in windows.taken:
            write_message(
                channel,
                "window",
                seconds=window.seconds,
                num_steps=window.num_steps,
                examples=window.examples,
                data_wait_seconds=window.data_wait_seconds,
            )
        peaks = [tf.config.experimental.get_memory_info(name[1:])["peak"] for name in gpus]
        write_message(
            channel,
            "turn",
            compile_seconds=compile_seconds,
            peak_rss_bytes=host.peak_rss_bytes(),
            peak_device_bytes=sum(peaks) if gpus else None,
        )
        channel.flush()  # a turn's windows go together, so the parent wakes up once


def _after(seconds: float | None) -> Callable[[], bool]:
    """Tells whether so many seconds have passed since now; None: they never have."""
    end = time.perf_counter() + (math.inf if seconds is None else seconds)
    return lambda: time.perf_counter() >= end


if __name__ == "__main__":
    main()
