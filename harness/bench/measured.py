"""What a measured process does: it trains a trainer's model on request."""

import time
from typing import Any

import tensorflow as tf

from harness.data.ragged import RaggedSets
from harness.environment import gpu_warnings
from harness.records import Observer, Window
from harness.trainer import Trainer

_EPOCHS = 2
"""Whose orders of rows are repeated."""


class Measured:
    """A training that goes on in turns."""

    def __init__(self, trainer: Trainer, rows: RaggedSets) -> None:
        """Compiles.

        Raises:
            InputError: when the settings do not fit the data or the devices.
            MemoryError: when the memory of host or device does not suffice.
        """
        warnings = gpu_warnings()
        try:
            self._steps = trainer.steps(rows, epochs=_EPOCHS)
            compilations = self._steps.compile()
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(_first_line(error)) from error
        self.compile_seconds = sum(made.seconds for made in compilations)
        """Of the training step, over all its programs so far."""
        start = self._steps.start
        info = start.dataset
        self.resolved: dict[str, Any] = {
            **{name: choice.value for name, choice in start.choices.items()},
            "devices": list(start.devices),
            "batch_size": start.batch_size,
            "dataset": {
                "name": info.name,
                "rows": info.rows,
                "nnz": info.nnz,
                "num_tokens": info.num_tokens,
                "num_classes": info.num_classes,
            },
        }
        """The settings with every `auto` resolved, the devices and the data."""
        if warnings:
            self.resolved["warnings"] = list(warnings)
        devices = trainer.devices
        self._gpus = devices.names if devices.device_type == "GPU" else ()
        self.pci_bus_ids = devices.pci_bus_ids

    def turn(self, *, seconds: float | None, steps: int | None) -> list[Window]:
        """Trains for a time or a number of steps: whole dispatches, and at least one.

        Raises:
            MemoryError: when the memory of host or device does not suffice.
        """
        end = time.perf_counter() + (seconds or 0.0)
        windows = _Windows()
        try:
            progress = self._steps.run(
                num_steps=steps,
                until=lambda: steps is None and time.perf_counter() >= end,
                observers=(windows,),
            )
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(_first_line(error)) from error
        self.compile_seconds += sum(made.seconds for made in progress.compilations)
        return windows.taken

    def peak_device_bytes(self) -> int | None:
        """The peak memory of all devices together; None on a CPU."""
        if not self._gpus:
            return None
        infos = [tf.config.experimental.get_memory_info(name[1:]) for name in self._gpus]
        return int(sum(info["peak"] for info in infos))


class _Windows(Observer):
    """Keeps every window."""

    def __init__(self) -> None:
        self.taken: list[Window] = []

    def on_window(self, window: Window) -> None:
        self.taken.append(window)


def _first_line(error: tf.errors.OpError) -> str:
    return str(error.message).splitlines()[0]
