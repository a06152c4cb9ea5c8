"""`harness smoke`: does everything work on this machine?

Every implementation, precision and number of replicas goes through the real `train` and a saved
model, on a corpus small enough for a minute in all; what must hold is read from the files that they
leave.
"""

import dataclasses
import io
import itertools
import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harness.commands.interrupt import EXIT_INTERRUPTED
from harness.commands.run_folder import MODEL_FILE_NAME
from harness.commands.saved_model import load_saved_model
from harness.commands.train import train
from harness.config import (
    DataConfig,
    ExecutionConfig,
    Implementation,
    ModelConfig,
    OutputConfig,
    Precision,
    SmokeConfig,
    SyntheticOptions,
    TrainConfig,
)
from harness.data.sources import load_configured
from harness.engine.devices import set_up_devices
from harness.engine.losses import row_losses
from harness.errors import DivergenceError
from harness.observers.tensorboard import FOLDER_NAME as TENSORBOARD_FOLDER_NAME
from kernels.multi_hot.native.build import NativeUnavailableError
from kernels.multi_hot.native.library import load as load_native

_ROWS = 1_280
_TOKENS = 1_000
_EPOCHS = 3
_LOSS_TOLERANCE: dict[Precision, float] = {
    "float32": 1e-4,
    "mixed_bfloat16": 2e-2,
    "mixed_float16": 5e-3,
}
"""Relative, between training's evaluation and that of the saved model, which is float32."""


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    first_loss: float
    last_loss: float
    accuracy: float
    seconds: float
    failures: tuple[str, ...]


def smoke(config: SmokeConfig, console: Console | None = None) -> int:
    """Runs the command; returns 0 when all combinations passed, else 1."""
    console = console or Console()
    tf.config.set_visible_devices([], "GPU")
    set_up_devices(max(config.replicas))  # more logical devices cannot be added later
    # So many engines in one process look to TensorFlow like one function traced again and again.
    tf.get_logger().setLevel("ERROR")
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)  # 80 columns are just enough
    for column in ("implementation", "precision", "replicas", "loss", "accuracy", "time", "result"):
        table.add_column(column, no_wrap=True)
    failures: list[str] = []
    passed = failed = 0
    combinations = list(
        itertools.product(config.implementations, config.precisions, config.replicas)
    )
    unavailable = _why_no_native() if "native" in config.implementations else None
    with console.status("") as status:
        for number, (implementation, precision, replicas) in enumerate(combinations, start=1):
            name = f"{implementation} {precision} x {replicas}"
            status.update(f"{number}/{len(combinations)} {name}")
            if implementation == "native" and unavailable is not None:
                table.add_row(implementation, precision, str(replicas), "", "", "", "skipped")
                continue
            settings = _settings(config, implementation, precision, replicas)
            outcome = _try(settings, tolerance=_LOSS_TOLERANCE[precision])
            failed += bool(outcome.failures)
            table.add_row(
                implementation,
                precision,
                str(replicas),
                f"{outcome.first_loss:.3f} -> {outcome.last_loss:.3f}",
                f"{outcome.accuracy:.3f}",
                f"{outcome.seconds:.1f} s",
                "FAILED" if outcome.failures else "ok",
            )
            failures += [f"{name}: {failure}" for failure in outcome.failures]
            passed += not outcome.failures
    console.print(table)
    for failure in failures:
        console.print(failure, markup=False)
    if unavailable is not None:
        console.print(f"native was skipped: {unavailable}", markup=False)
    console.print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def _why_no_native() -> str | None:
    """Why the native kernels cannot be had here; None where they can."""
    try:
        load_native()
    except NativeUnavailableError as error:
        return str(error)
    return None


def _settings(
    config: SmokeConfig, implementation: Implementation, precision: Precision, replicas: int
) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(synthetic=SyntheticOptions(synthetic_rows=_ROWS, synthetic_tokens=_TOKENS)),
        model=ModelConfig(hidden_units=(16, 16), dropout=(0.1,)),
        execution=ExecutionConfig(
            batch_size=config.batch_size,
            implementation=implementation,
            precision=precision,
            replicas=replicas,
            steps_per_dispatch=4,
        ),
        epochs=_EPOCHS,
    )


def _try(settings: TrainConfig, *, tolerance: float) -> _Outcome:
    """Trains with `settings`, and checks what it left.

    Raises:
        KeyboardInterrupt: when the training was interrupted; it would only stop itself.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="harness-smoke-") as temporary:
        folder = Path(temporary)
        # No look at gradients: it would compile two programs more for each combination.
        output = OutputConfig(run_dir=temporary, precision_watch=0)
        settings = dataclasses.replace(settings, output=output)
        diverged = []
        try:
            if train(settings, Console(file=io.StringIO())) == EXIT_INTERRUPTED:
                raise KeyboardInterrupt
        except DivergenceError as error:
            diverged = [str(error)]
        summary = json.loads((folder / "summary.json").read_text())
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses = [float(line["loss"]) for line in lines if "loss" in line]  # "NaN" is a text
        failures = diverged
        if not losses[-1] < losses[0]:
            failures.append("the loss did not fall")
        if summary["compilations"] != 1:
            failures.append(f"the step was compiled {summary['compilations']} times")
        failures += _event_file_failures(folder, num_windows=len(losses))
        if not diverged:
            failures += _saved_model_failures(folder, settings, summary, tolerance=tolerance)
    return _Outcome(
        first_loss=losses[0],
        last_loss=losses[-1],
        accuracy=math.nan if summary["test_accuracy"] is None else summary["test_accuracy"],
        seconds=time.perf_counter() - start,
        failures=tuple(failures),
    )


def _event_file_failures(folder: Path, *, num_windows: int) -> list[str]:
    events = EventAccumulator(
        str(folder / TENSORBOARD_FOLDER_NAME), size_guidance={"tensors": num_windows + 1}
    )
    events.Reload()
    if "train/loss" not in events.Tags()["tensors"]:
        return ["the event file cannot be read"]
    written = len(events.Tensors("train/loss"))
    return [] if written == num_windows else [f"{written} of {num_windows} windows in TensorBoard"]


def _saved_model_failures(
    folder: Path, settings: TrainConfig, summary: dict[str, Any], *, tolerance: float
) -> list[str]:
    saved = load_saved_model(str(folder / MODEL_FILE_NAME))
    rows = load_configured(settings.data).test
    # Eagerly: to compile a program for one batch would take longer than all the rest.
    logits = saved.logits({"values": rows.values, "row_splits": rows.row_splits})
    again = float(tf.reduce_mean(row_losses(tf.constant(rows.labels), logits)))
    before = float(summary["test_loss"])
    if abs(again - before) <= tolerance * before:
        return []
    return [f"the saved model's loss is {again:.5f}, not {before:.5f}"]
