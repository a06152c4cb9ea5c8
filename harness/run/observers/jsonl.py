"""metrics.jsonl: one JSON object per window, evaluation and inspection, one per line."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.base.files import json_text
from harness.base.reading import damage, json_object, opened
from harness.run.records import (
    CheckpointDue,
    Epoch,
    Evaluation,
    Inspection,
    Observer,
    Record,
    RunStart,
    Window,
)
from harness.run.tf_errors import os_errors
from kernels.files import own_file

FILE_NAME = "metrics.jsonl"
_MAX_LINE_BYTES = 1_000_000
# What a window's line has of it, beside its metrics and what only some windows have.
_OF_WINDOW = (
    *("step", "epoch", "num_steps", "examples", "tokens", "seconds", "data_wait_seconds", "loss"),
    *("steps_per_second", "examples_per_second", "skipped_steps"),
)


class JsonlObserver(Observer):
    """Appends to `<run_dir>/metrics.jsonl`; whoever reads it during the run sees whole lines. A
    resumed run keeps the lines up to the step that it starts from, and appends after them."""

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()

    def tell(self, record: Record) -> None:
        match record:
            case RunStart():
                self._path = Path(record.run_dir) / FILE_NAME
                self._start_step = record.start_step
                size_bytes = kept_bytes(self._path, record.start_step)
                self._file = own_file(self._path, os.O_CREAT | os.O_APPEND)
                self._closing.callback(os.close, self._file)
                with os_errors(self._path):
                    os.ftruncate(self._file, size_bytes)
            case Window():
                content: dict[str, Any] = {name: getattr(record, name) for name in _OF_WINDOW}
                content |= record.metrics
                if record.loss_scale is not None:
                    content["loss_scale"] = record.loss_scale
                if record.telemetry:
                    content["telemetry"] = {
                        tag: {"mean": s.mean, "min": s.min, "max": s.max, "samples": s.num_samples}
                        for tag, s in record.telemetry.items()
                    }
                self._append(content)
            # The file has an evaluation from before the run was resumed.
            case Epoch(evaluation=Evaluation() as found) if found.step > self._start_step:
                self._append(
                    {
                        "step": found.step,
                        "epoch": found.epoch,
                        **{f"validation_{name}": value for name, value in found.values.items()},
                        "examples": found.examples,
                        "seconds": found.seconds,
                    }
                )
            case Inspection():
                content = {
                    "step": record.step,
                    "epoch": record.epoch,
                    "gradient_norm": record.gradient_norm,
                    "non_finite_gradient_fraction": record.non_finite_fraction,
                    "inspection_seconds": record.seconds,
                }
                self._append(content)
            case CheckpointDue():
                # No run could resume from a checkpoint whose records are lost.
                with os_errors(self._path):
                    os.fsync(self._file)

    def close(self) -> None:
        self._closing.close()

    def _append(self, content: dict[str, Any]) -> None:
        rest = (json_text(content) + "\n").encode()
        with os_errors(self._path):
            size_bytes = os.fstat(self._file).st_size
            try:
                while rest:
                    # A nearly full disk takes a part; writing the rest gives the reason.
                    rest = rest[os.write(self._file, rest) :]
            except OSError:
                os.ftruncate(self._file, size_bytes)  # after the last whole line
                raise


def kept_bytes(path: Path, start_step: int) -> int:
    """Returns how many bytes of a metrics.jsonl a run that starts after `start_step` keeps."""
    if start_step == 0:
        return 0  # whatever the file holds
    # The run repeats the steps of the other lines.
    return sum(size for size, record in _lines(path) if int(record["step"]) <= start_step)


def validation_losses(path: Path, *, up_to_step: int) -> list[float]:
    """Returns the validation losses up to a step in a metrics.jsonl, which may be missing."""
    known = (r for r in records(path) if r["step"] <= up_to_step)
    return [float(r["validation_loss"]) for r in known if "validation_loss" in r]


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the windows, evaluations and inspections in a metrics.jsonl, which may be missing."""
    return (record for _, record in _lines(path))


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the size in bytes and the content of each line, except one that a killed run tore."""
    if not os.path.exists(path):
        return
    remedy = "Repair or remove the file before resuming."
    with opened(path, remedy=remedy) as file:
        for number in itertools.count(1):
            line = file.readline(_MAX_LINE_BYTES)
            if not line.endswith(b"\n") and len(line) < _MAX_LINE_BYTES:
                return
            with damage(f"{path}: line {number}", what="a record of a run", remedy=remedy):
                record = json_object(line)
                step, epoch = int(record["step"]), int(record["epoch"])
                float(record.get("validation_loss", 0))
                if not 0 <= epoch < step >= int(record.get("num_steps", 0)) >= 0:
                    raise ValueError("its step and its epoch contradict each other")
            yield len(line), record
