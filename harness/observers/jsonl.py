"""metrics.jsonl: one JSON object per window and per evaluation, each line whole or absent."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.files import json_text
from harness.records import Evaluation, Inspection, Observer, RunStart, Window, WindowTelemetry

FILE_NAME = "metrics.jsonl"


class JsonlObserver(Observer):
    """Appends to `<run_dir>/metrics.jsonl`; who reads it while the run goes on sees whole lines.

    A window is an object with `step`, `epoch`, `num_steps`, `examples`, `tokens`, `seconds`,
    `data_wait_seconds`, `loss`, `accuracy`, `steps_per_second`, `examples_per_second`,
    `skipped_steps`, `loss_scale` where the precision needs one, and `telemetry` where a sample was
    taken in it: by TensorBoard tag, objects with `mean`, `min`, `max`, `samples`. An evaluation is
    an object with `step`, `epoch`, `validation_loss`, `validation_accuracy`, `examples`, `seconds`;
    an inspection one with `step`, `epoch`, `non_finite_gradient_fraction`, `inspection_seconds`,
    and `underflow_fraction` where 16 bits were compared with float32.

    Finite floats read back exactly. A loss that is not finite is a text; see `json_text`.

    Raises:
        OSError: naming the path, when a line cannot be written. The file then ends with the last
            line that could be.
    """

    def __init__(self) -> None:
        self._path = Path()
        self._file: int | None = None
        self._size_bytes = 0
        self._telemetry: WindowTelemetry | None = None

    def on_start(self, run: RunStart) -> None:
        """Opens the file: empty, or in a resumed run with the lines up to `start_step`.

        Raises:
            InputError: when a resumed run's file holds a line that is none of ours.
        """
        self._path = Path(run.run_dir) / FILE_NAME
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._size_bytes = self._whole_lines_bytes(run.start_step) if run.start_step > 0 else 0
        os.ftruncate(self._file, self._size_bytes)

    def on_telemetry(self, telemetry: WindowTelemetry) -> None:
        """Keeps it for the line of its window."""
        self._telemetry = telemetry

    def on_window(self, window: Window) -> None:
        """Writes the window's line."""
        content: dict[str, Any] = {
            "step": window.step,
            "epoch": window.epoch,
            "num_steps": window.num_steps,
            "examples": window.examples,
            "tokens": window.tokens,
            "seconds": window.seconds,
            "data_wait_seconds": window.data_wait_seconds,
            "loss": window.loss,
            "accuracy": window.accuracy,
            "steps_per_second": window.steps_per_second,
            "examples_per_second": window.examples_per_second,
            "skipped_steps": window.skipped_steps,
        }
        if window.loss_scale is not None:
            content["loss_scale"] = window.loss_scale
        if self._telemetry is not None:
            assert self._telemetry.step == window.step, "telemetry of another window"
            content["telemetry"] = {
                tag: {
                    "mean": spread.mean,
                    "min": spread.min,
                    "max": spread.max,
                    "samples": spread.num_samples,
                }
                for tag, spread in self._telemetry.figures.items()
            }
            self._telemetry = None
        self._append(content)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Writes the evaluation's line."""
        self._append(
            {
                "step": evaluation.step,
                "epoch": evaluation.epoch,
                "validation_loss": evaluation.loss,
                "validation_accuracy": evaluation.accuracy,
                "examples": evaluation.examples,
                "seconds": evaluation.seconds,
            }
        )

    def on_inspection(self, inspection: Inspection) -> None:
        """Writes the inspection's line."""
        content: dict[str, Any] = {
            "step": inspection.step,
            "epoch": inspection.epoch,
            "non_finite_gradient_fraction": inspection.non_finite_fraction,
            "inspection_seconds": inspection.seconds,
        }
        if inspection.underflow_fraction is not None:
            content["underflow_fraction"] = inspection.underflow_fraction
        self._append(content)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, content: dict[str, Any]) -> None:
        assert self._file is not None, "a record came before on_start or after close"
        line = (json_text(content) + "\n").encode()
        try:
            rest = line
            while rest:
                # A nearly full disk takes a part; the write of what is left tells the reason.
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, self._size_bytes)
            error.filename = str(self._path)
            raise
        self._size_bytes += len(line)

    def _whole_lines_bytes(self, last_step: int) -> int:
        """Length of the part that stays: whole lines, in order of steps, up to `last_step`."""
        size_bytes = 0
        for step, length in whole_lines(self._path):
            if step > last_step:
                break
            size_bytes += length
        return size_bytes


def whole_lines(path: Path) -> Iterator[tuple[int, int]]:
    """Step and length in bytes of each line of a metrics.jsonl, without a torn last one.

    Raises:
        InputError: when a line is none of ours.
    """
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return  # torn when the run was killed
        try:
            step = int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: line {number} is not a record of a run ({line[:40]!r}); mend or remove "
                "the file before resuming"
            ) from error
        yield step, len(line)
