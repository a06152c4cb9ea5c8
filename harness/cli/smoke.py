"""`harness smoke`: does everything work on this machine?

Every implementation, precision and number of replicas goes through the real `train` and a saved
model, on a corpus small enough for a minute in all. What must hold is read from the files that they
leave.
"""

import dataclasses
import io
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from harness.checks import require, require_count
from harness.cli.train import ModelConfig, OutputConfig, TrainConfig, train
from harness.data.options import DataConfig, SyntheticOptions
from harness.errors import DivergenceError, InputError, as_command
from harness.interrupt import EXIT_INTERRUPTED
from harness.quiet import quiet_import
from harness.settings import PRECISIONS, Precision, Settings, require_even_shares
from kernels.multi_hot import IMPLEMENTATIONS, Implementation, why_unavailable

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


@dataclass(frozen=True, kw_only=True)
class SmokeConfig:
    """Train a few steps with every implementation, precision and number of replicas, on the CPU and
    on the GPUs, and check that the loss falls, the step is compiled once, event files can be read,
    and a saved model gives the same loss. Exit code 0 when all of it holds, else 1."""

    batch_size: int = 64
    """Rows per step."""

    implementations: tuple[Implementation, ...] = IMPLEMENTATIONS
    """Implementations of the multi-hot product to try."""

    precisions: tuple[Precision, ...] = PRECISIONS
    """Precisions to try."""

    replicas: tuple[int, ...] = (1, 2)
    """Numbers of replicas to try."""

    devices: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to try them. auto: on the CPU, then on the GPUs if there are any."""

    def __post_init__(self) -> None:
        require_count("--batch-size", self.batch_size)
        for name in ("implementations", "precisions", "replicas"):
            require(len(getattr(self, name)) > 0, f"--{name} is empty; name at least one")
        for replicas in self.replicas:
            require_count("--replicas", replicas)
            require_even_shares(self.batch_size, replicas)


def smoke(config: SmokeConfig, console: Console | None = None) -> int:
    """Runs the command; returns 0 when all combinations passed, else 1.

    Raises:
        InputError: when the settings do not fit the data, or GPUs are asked for and there are none.
    """
    with quiet_import():
        import tensorflow as tf

        from harness.environment import warn_of_gpus
    console = console or Console()
    warn_of_gpus(console)
    num_gpus = len(tf.config.get_visible_devices("GPU"))
    if config.devices == "gpu":
        if num_gpus == 0:
            raise InputError(
                f"--devices is gpu, but TensorFlow finds none; run: {as_command('doctor')}"
            )
        return _try_all(config, num_gpus, console)
    tf.config.set_visible_devices([], "GPU")
    code = _try_all(config, 0, console)
    if config.devices == "cpu" or num_gpus == 0:
        return code
    # TensorFlow cannot change its devices any more: another process tries the GPUs.
    console.file.flush()
    command = [sys.executable, "-m", "harness", *on_gpus(config)]
    return 1 if subprocess.run(command, check=False).returncode else code


def on_gpus(config: SmokeConfig) -> list[str]:
    """The command line that tries the same on the GPUs alone."""
    words = ["smoke", "--devices", "gpu", "--batch-size", str(config.batch_size)]
    for name in ("implementations", "precisions", "replicas"):
        words += [f"--{name}", *map(str, getattr(config, name))]
    return words


def _try_all(config: SmokeConfig, num_gpus: int, console: Console) -> int:
    """Tries every combination on `num_gpus` GPUs; 0 means on the CPU."""
    import tensorflow as tf

    from harness.engine.devices import set_up_devices

    # So many engines in one process look to TensorFlow like one function traced again and again.
    tf.get_logger().setLevel("ERROR")
    title = f"on {num_gpus} GPUs" if num_gpus else "on the CPU"
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, title=title)  # fits 80 columns
    for column in ("implementation", "precision", "replicas", "loss", "accuracy", "time", "result"):
        table.add_column(column, no_wrap=True)
    failures: list[str] = []
    passed = failed = 0
    combinations = list(
        itertools.product(config.implementations, config.precisions, config.replicas)
    )
    skipped = left_out(config, num_gpus)
    if usable := [n for n in config.replicas if n <= num_gpus]:
        set_up_devices(max(usable))  # a process cannot take more of them later
    with console.status("") as status:
        for number, (implementation, precision, replicas) in enumerate(combinations, start=1):
            name = f"{implementation} {precision} x {replicas}"
            status.update(f"{number}/{len(combinations)} {name}")
            if implementation in skipped or f"x {replicas}" in skipped:
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
    for what, why in skipped.items():
        console.print(f"{what} was skipped: {why}", markup=False)
    console.print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def left_out(config: SmokeConfig, num_gpus: int) -> dict[str, str]:
    """The implementations and numbers of replicas (`x 2`) that cannot be tried, with why."""
    device_type = "GPU" if num_gpus else "CPU"
    reasons = {name: why_unavailable(name, device_type) for name in config.implementations}
    found: dict[str, str] = {name: why for name, why in reasons.items() if why is not None}
    if num_gpus:
        too_many = [n for n in config.replicas if n > num_gpus]
        found |= {f"x {n}": f"this machine has {num_gpus} GPUs" for n in too_many}
    return found


def _settings(
    config: SmokeConfig, implementation: Implementation, precision: Precision, replicas: int
) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(synthetic=SyntheticOptions(synthetic_rows=_ROWS, synthetic_tokens=_TOKENS)),
        model=ModelConfig(hidden_units=(16, 16), dropout=(0.1,)),
        execution=Settings(
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
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from harness.observe.run_files import TENSORBOARD_FOLDER_NAME

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
    from harness.cli.saved_model import load_saved_model
    from harness.data.sources import load_configured

    saved = load_saved_model(str(folder), batch_size=settings.execution.batch_size)
    again = saved.trainer.evaluate(load_configured(settings.data).test)["loss"]
    before = float(summary["test_loss"])
    if abs(again - before) <= tolerance * before:
        return []
    return [f"the saved model's loss is {again:.5f}, not {before:.5f}"]
