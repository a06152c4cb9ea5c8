"""`harness smoke`: tests whether everything works on this machine.

With every implementation, precision and number of replicas, it trains a small network, saves it and
loads it again, on a corpus small enough for a minute in all.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table

from harness.base.checks import require, require_count, require_even_shares
from harness.base.errors import DivergenceError, InputError, as_command
from harness.base.quiet import quiet_import
from harness.data.options import SyntheticOptions
from harness.trainer.settings import PRECISIONS, Precision
from kernels.multi_hot import IMPLEMENTATIONS, Implementation, why_unavailable

if TYPE_CHECKING:
    from harness.data.sources import Dataset

_CORPUS = SyntheticOptions(synthetic_rows=640, synthetic_tokens=1_000)
_EPOCHS = 3
_LOSS_TOLERANCE: dict[Precision, float] = {
    "float32": 1e-4,
    "mixed_bfloat16": 2e-2,
    "mixed_float16": 5e-3,
}
"""The relative tolerance between the loss after training and that of the saved model, which
computes in float32."""


@dataclass(frozen=True, kw_only=True)
class SmokeConfig:
    """Train a few steps with every implementation, precision and number of replicas, and check that
    the loss falls, the step is compiled once, event files can be read, and a saved model gives the
    same loss. Exit code 0 when all of it holds, else 1."""

    batch_size: int = 64
    """Rows per step."""

    implementations: tuple[Implementation, ...] = IMPLEMENTATIONS
    """Implementations of the multi-hot product to try."""

    precisions: tuple[Precision, ...] = PRECISIONS
    """Precisions to try."""

    replicas: tuple[int, ...] = (1, 2)
    """Numbers of replicas to try; more than one need as many GPUs."""

    devices: Literal["auto", "cpu", "gpu"] = "auto"
    """Devices to try them on. auto: the GPUs if there are any, else the CPU."""

    def __post_init__(self) -> None:
        require_count("--batch-size", self.batch_size)
        for name in ("implementations", "precisions", "replicas"):
            require(len(getattr(self, name)) > 0, f"--{name} is empty; name at least one")
        for replicas in self.replicas:
            require_count("--replicas", replicas)
            require_even_shares(self.batch_size, replicas)


def smoke(config: SmokeConfig) -> int:
    """Runs the command; returns 0 when all combinations passed, else 1.

    Raises:
        InputError: when the settings do not fit the data, or GPUs are asked for and there are none.
    """
    with quiet_import():
        import tensorflow as tf

        from harness.data.sources import load
        from harness.program.devices import set_up_devices
        from harness.trainer.environment import warn_of_gpus
    console = Console()
    warn_of_gpus(console)
    if config.devices == "cpu":
        tf.config.set_visible_devices([], "GPU")
    num_gpus = len(tf.config.get_visible_devices("GPU"))
    if config.devices == "gpu" and num_gpus == 0:
        raise InputError(
            f"--devices is gpu, but TensorFlow finds none; run: {as_command('doctor')}"
        )
    if usable := [number for number in config.replicas if number <= num_gpus]:
        set_up_devices(max(usable))  # a process cannot take more of them later
    # TensorFlow warns of so many engines in one process as of one function traced again and again.
    tf.get_logger().setLevel("ERROR")
    data = load("synthetic", synthetic=_CORPUS)
    title = f"on {num_gpus} GPUs" if num_gpus else "on the CPU"
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, title=title)  # fits 80 columns
    for column in ("implementation", "precision", "replicas", "loss", "accuracy", "time", "result"):
        table.add_column(column, no_wrap=True)
    results: list[str] = []
    notes: list[str] = []
    with console.status("") as status:
        for combination in itertools.product(
            config.implementations, config.precisions, config.replicas
        ):
            implementation, precision, replicas = combination
            name = f"{implementation} {precision} x {replicas}"
            status.update(name)
            start, figures = time.perf_counter(), ("", "")
            if why := why_skipped(implementation, replicas, num_gpus):
                result = "skipped"
                notes.append(f"skipped: {why}")
            else:
                figures, failures = _try(data, config.batch_size, *combination)
                result = "FAILED" if failures else "ok"
                notes += [f"{name}: {failure}" for failure in failures]
            seconds = f"{time.perf_counter() - start:.1f} s"
            table.add_row(implementation, precision, str(replicas), *figures, seconds, result)
            results.append(result)
    console.print(table)
    for note in dict.fromkeys(notes):
        console.out(note)
    console.print(f"{results.count('ok')} passed, {results.count('FAILED')} failed")
    return 1 if "FAILED" in results else 0


def why_skipped(implementation: Implementation, replicas: int, num_gpus: int) -> str | None:
    """Returns the reason why a combination cannot be tried; None if it can. With 0 for `num_gpus`,
    it is tried on the CPU."""
    if why := why_unavailable(implementation, "GPU" if num_gpus else "CPU"):
        return why
    if replicas > max(num_gpus, 1):
        return f"{replicas} replicas need as many GPUs, and there are {num_gpus}"
    return None


def _try(
    data: Dataset,
    batch_size: int,
    implementation: Implementation,
    precision: Precision,
    replicas: int,
) -> tuple[tuple[str, str], list[str]]:
    """Trains, and checks the results. Returns texts of the loss and the accuracy, and a message for
    each failure."""
    import tensorflow as tf
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from harness.model.network import DefaultNetwork
    from harness.model.saved import load_model
    from harness.trainer.trainer import Trainer

    network = DefaultNetwork(
        hidden_units=(16, 16),
        dropout=(0.1, 0.1),
        activation="relu",
        num_tokens=data.num_tokens,
        num_classes=data.num_classes,
    )
    trainer = Trainer(
        network,
        batch_size=batch_size,
        implementation=implementation,
        precision=precision,
        replicas=replicas,
        steps_per_dispatch=4,
    )
    with tempfile.TemporaryDirectory(prefix="harness-smoke-") as folder:
        try:
            trainer.fit(
                data.train,
                validation=data.test,
                test=data.test,
                epochs=_EPOCHS,
                run_dir=folder,
                verbose=False,
                precision_watch=0,  # a watch would compile two more programs for each combination
            )
        except DivergenceError as error:
            return ("", ""), [str(error.args[0])]
        assert trainer.last is not None
        summary = trainer.last.summary
        assert summary is not None
        if summary.interrupted:  # which by itself only ends the training
            raise KeyboardInterrupt
        failures = []
        if summary.compilations != 1:
            failures.append(f"the step was compiled {summary.compilations} times")
        # As TensorBoard reads them.
        events = EventAccumulator(f"{folder}/tensorboard", size_guidance={"tensors": 0})
        events.Reload()
        if "train/loss" not in events.Tags()["tensors"]:
            return ("", ""), [*failures, "the event file cannot be read"]
        losses = [tf.make_ndarray(e.tensor_proto).item() for e in events.Tensors("train/loss")]
        if not losses[-1] < losses[0]:
            failures.append("the loss did not fall")
        # In float32, where the training may have computed in 16 bits.
        saved = Trainer(load_model(Path(folder) / "model.keras"), batch_size=batch_size)
        before, again = summary.test_loss, saved.evaluate(data.test)["loss"]
        assert before is not None
        if abs(again - before) > _LOSS_TOLERANCE[precision] * before:
            failures.append(f"the saved model's loss is {again:.5f}, not {before:.5f}")
    return (
        f"{losses[0]:.3f} -> {losses[-1]:.3f}",
        f"{summary.test_metrics['accuracy']:.3f}",
    ), failures
