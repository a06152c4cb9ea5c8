"""metrics.jsonl: one JSON object per window, evaluation and inspection, one per line."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.base.errors import InputError
from harness.base.files import json_text
from harness.base.reading import damage, json_object, opened
from harness.run.records import CheckpointDue, Epoch, Inspection, Observer, Record, RunStart, Window
from kernels.files import own_file

FILE_NAME = "metrics.jsonl"
_MAX_LINE_BYTES = 1_000_000


class JsonlObserver(Observer):
    """Appends to `<run_dir>/metrics.jsonl`; whoever reads it during the run sees whole lines.
    A resumed run keeps the lines up to the step that it starts from, and appends after them.

    Windows, evaluations and inspections are objects of their own, told apart by `num_steps`,
    `validation_loss` and `inspection_seconds`; the methods below list their keys.

    Finite floats read back exactly. Other floats are texts; see `json_text`.

    Raises:
        OSError: naming the path, when a line cannot be written. The file then ends with the
            previous line.
    """

    def __init__(self) -> None:
        self._closing = contextlib.ExitStack()
        self._path: Path  # from `RunStart` on, as the three below
        self._file: int
        self._size_bytes: int
        self._start_step: int

    def tell(self, record: Record) -> None:
        match record:
            case RunStart():
                self._start(record)
            case Window():
                self._window(record)
            case Epoch():
                self._epoch(record)
            case Inspection():
                self._inspection(record)
            case CheckpointDue():
                self._checkpoint()

    def _start(self, run: RunStart) -> None:
        """Opens the file: empty, or in a resumed run with the lines up to `start_step`.

        Raises:
            InputError: when a resumed run's file is damaged; see `kept_bytes`.
        """
        self._path = Path(run.run_dir) / FILE_NAME
        self._start_step = run.start_step
        every_epoch = run.config.get("validation_freq", 1) == 1
        self._size_bytes = kept_bytes(self._path, run.start_step, every_epoch=every_epoch)
        self._file = own_file(self._path, os.O_CREAT | os.O_APPEND)
        self._closing.callback(os.close, self._file)
        self._cut()

    def _window(self, window: Window) -> None:
        content: dict[str, Any] = {
            "step": window.step,
            "epoch": window.epoch,
            "num_steps": window.num_steps,
            "examples": window.examples,
            "tokens": window.tokens,
            "seconds": window.seconds,
            "data_wait_seconds": window.data_wait_seconds,
            "loss": window.loss,
            **window.metrics,
            "steps_per_second": window.steps_per_second,
            "examples_per_second": window.examples_per_second,
            "skipped_steps": window.skipped_steps,
        }
        if window.loss_scale is not None:
            content["loss_scale"] = window.loss_scale
        if window.telemetry:
            content["telemetry"] = {
                tag: {
                    "mean": spread.mean,
                    "min": spread.min,
                    "max": spread.max,
                    "samples": spread.num_samples,
                }
                for tag, spread in window.telemetry.items()
            }
        self._append(content)

    def _epoch(self, epoch: Epoch) -> None:
        """Writes the evaluation's line, unless the file has it from before the run was resumed."""
        evaluation = epoch.evaluation
        if evaluation is None or evaluation.step <= self._start_step:
            return
        self._append(
            {
                "step": evaluation.step,
                "epoch": evaluation.epoch,
                "validation_loss": evaluation.loss,
                **{f"validation_{name}": value for name, value in evaluation.metrics.items()},
                "examples": evaluation.examples,
                "seconds": evaluation.seconds,
            }
        )

    def _inspection(self, inspection: Inspection) -> None:
        content: dict[str, Any] = {
            "step": inspection.step,
            "epoch": inspection.epoch,
            "non_finite_gradient_fraction": inspection.non_finite_fraction,
            "inspection_seconds": inspection.seconds,
        }
        if inspection.underflow_fraction is not None:
            content["underflow_fraction"] = inspection.underflow_fraction
        self._append(content)

    def _checkpoint(self) -> None:
        """Syncs the file to disk: no run could resume from a checkpoint whose records are lost."""
        try:
            os.fsync(self._file)
        except OSError as error:
            error.filename = str(self._path)
            raise

    def close(self) -> None:
        self._closing.close()

    def _append(self, content: dict[str, Any]) -> None:
        line = (json_text(content) + "\n").encode()
        try:
            rest = line
            while rest:
                # A nearly full disk takes a part; writing the rest gives the reason.
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self._cut()
            error.filename = str(self._path)
            raise
        self._size_bytes += len(line)

    def _cut(self) -> None:
        """Truncates the file after its last whole line."""
        try:
            os.ftruncate(self._file, self._size_bytes)
        except OSError as error:
            error.filename = str(self._path)
            raise


def kept_bytes(path: Path, start_step: int, *, every_epoch: bool = True) -> int:
    """Returns how many bytes of a metrics.jsonl a run that starts after `start_step` keeps; 0
    without a file.

    The file may begin at a later step than the first: a run resumed without a file starts one.
    Missing evaluations are an error only with `every_epoch`, when each epoch ends with one.

    Raises:
        InputError: when a line is no record of a run, or a window up to `start_step` or an epoch's
            evaluation is missing. Lost inspections and the loss of all evaluations are not noticed.
    """
    # `Path.exists` would raise if a link leads to a name that is too long.
    if start_step == 0 or not os.path.exists(path):
        return 0
    size_bytes = 0
    first: int | None = None
    done = 0  # steps at the end of the window before
    evaluations: dict[int, int] = {}  # steps done, by epoch
    gaps: list[str] = []
    for size, record in _lines(path):
        step, num_steps = int(record["step"]), int(record.get("num_steps", 0))
        if first is None:
            first = done = step - num_steps
        if step > start_step:
            continue  # the run repeats these
        size_bytes += size
        if num_steps > 0:
            if step - num_steps != done:
                gaps.append(f"step {done} is followed by step {step - num_steps + 1}")
            done = step
        elif "validation_loss" in record:
            evaluations[int(record["epoch"])] = step
    if done != start_step:
        gaps.append(f"step {done} is followed by step {start_step + 1}")
    for epoch, step in list(evaluations.items())[:1] if every_epoch else ():
        per_epoch = step // (epoch + 1)
        expected = range(per_epoch, start_step + 1, per_epoch)
        evaluated = {first or 0, *evaluations.values()}
        missing = (end for end in expected if end >= (first or 0) and end not in evaluated)
        gaps += [f"there is no evaluation after step {end}" for end in itertools.islice(missing, 1)]
    if gaps:
        raise InputError(
            f"{path} has lost records: {gaps[0]}; restore the file, or remove it to resume without "
            "the earlier records"
        )
    return size_bytes


def validation_losses(path: Path, *, up_to_step: int) -> list[float]:
    """Returns the validation losses up to a step in a metrics.jsonl, which may be missing.

    Raises:
        InputError: when a line is no record of a run.
    """
    known = (r for r in records(path) if r["step"] <= up_to_step)
    return [float(r["validation_loss"]) for r in known if "validation_loss" in r]


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the windows, evaluations and inspections in a metrics.jsonl, which may be missing.

    Raises:
        InputError: when a line is no record of a run.
    """
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
