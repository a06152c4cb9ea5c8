"""What a measured process trains: the session of `harness train`, in turns."""

import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from harness.bench.protocol import Job
from harness.bench.variants import PartialEngine, repeated, roofs
from harness.commands.session import build_session
from harness.config import TrainConfig, from_mapping
from harness.engine.engine import Engine
from harness.loop import train
from harness.records import Compilation, StepSums, Window

_NEVER = sys.maxsize
"""As steps per epoch: neither evaluation nor checkpoint belongs to what is measured."""
_EPOCHS = 2**31
"""More than any turn will reach; the stream makes them one after another."""


class Measured:
    """A session that trains when asked to."""

    def __init__(self, job: Job, *, unused: Path) -> None:
        """Builds and compiles.

        Args:
            job: what to train.
            unused: a folder for the checkpoints that are never written.

        Raises:
            InputError: when the settings do not fit the data or the devices.
            MemoryError: when the memory of host or device does not suffice.
        """
        config = from_mapping(TrainConfig, job.settings, where="the benchmark's settings")
        try:
            session = build_session(config, checkpoint_dir=unused / "checkpoints")
            self._remaining = iter(session.dispatches(epochs=_EPOCHS))
            first = next(self._remaining)
            self._engine: Engine | PartialEngine = session.engine
            if job.variant != "full":
                self._engine = PartialEngine(session, config.optimizer, job.variant)
            compilation = self._engine.prepare(*first)
            measured_roofs = (
                roofs(
                    session.devices.names[0], session.choices.precision.name.removeprefix("mixed_")
                )
                if job.roofs
                else None
            )
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(_first_line(error)) from error
        if job.variant in ("full", "input only"):
            self._remaining = itertools.chain([first], self._remaining)
        else:
            self._remaining = repeated(first)
        self._steps = session.steps
        self.compile_seconds = 0.0 if compilation is None else compilation.seconds
        """Of the training step, over all capacities so far."""
        choices, devices = session.choices, session.devices
        self.resolved: dict[str, Any] = {
            "precision": choices.precision.name,
            "implementation": choices.implementation.name,
            "input": choices.input.name,
            "steps_per_dispatch": choices.steps_per_dispatch.name,
            "replicas": devices.num_replicas,
            "devices": list(devices.descriptions),
            "batch_size": config.execution.batch_size,
            "dataset": {
                "name": session.dataset.name,
                "rows": session.dataset.train.num_rows,
                "nnz": session.dataset.train.nnz,
                "num_tokens": session.dataset.num_tokens,
                "num_classes": session.dataset.num_classes,
            },
        }
        if measured_roofs is not None:
            self.resolved["roofs"] = measured_roofs
        self._gpus = devices.names if devices.device_type == "GPU" else ()
        self.pci_bus_ids = devices.pci_bus_ids

    def turn(self, *, seconds: float | None, steps: int | None, slow_down: float) -> list[Window]:
        """Trains for a time or a number of steps, whole dispatches and at least one; sleeps the
        share `slow_down` of each dispatch's time after it.

        Raises:
            MemoryError: when the memory of host or device does not suffice.
        """
        try:
            progress = train(
                self._until(seconds=seconds, steps=steps),
                _Slowed(self._engine, slow_down) if slow_down else self._engine,
                (self._steps,),
                steps_per_epoch=_NEVER,
            )
        except tf.errors.ResourceExhaustedError as error:
            raise MemoryError(_first_line(error)) from error
        self.compile_seconds += sum(c.seconds for c in progress.compilations)
        return list(progress.windows)

    def peak_device_bytes(self) -> int | None:
        """The most memory held on all devices together; None on CPU."""
        if not self._gpus:
            return None
        infos = [tf.config.experimental.get_memory_info(name[1:]) for name in self._gpus]
        return int(sum(info["peak"] for info in infos))

    def _until(self, *, seconds: float | None, steps: int | None) -> Iterator[tuple[Any, Any]]:
        end = time.perf_counter() + (seconds or 0.0)
        done = 0
        while True:
            dispatch, batches = next(self._remaining)
            yield dispatch, batches
            done += dispatch.num_steps
            if done >= steps if steps is not None else time.perf_counter() >= end:
                return


class _Slowed:
    """An engine that sleeps a share of each dispatch's time after it."""

    def __init__(self, engine: Engine | PartialEngine, share: float) -> None:
        self._engine = engine
        self._share = share
        self._start = 0.0

    def prepare(self, dispatch: Any, batches: Any) -> Compilation | None:
        return self._engine.prepare(dispatch, batches)

    def train(self, dispatch: Any, batches: Any) -> Any:
        self._start = time.perf_counter()
        return self._engine.train(dispatch, batches)

    def fetch(self, sums: Any) -> StepSums:
        fetched = self._engine.fetch(sums)
        time.sleep(self._share * (time.perf_counter() - self._start))
        return fetched

    def evaluate(self, *, step: int, epoch: int) -> Any:
        return self._engine.evaluate(step=step, epoch=epoch)

    def inspect(self, dispatch: Any, batches: Any) -> Any:
        return self._engine.inspect(dispatch, batches)

    def save(self, step: int) -> bool:
        return self._engine.save(step)


def _first_line(error: tf.errors.OpError) -> str:
    return str(error.message).splitlines()[0]
