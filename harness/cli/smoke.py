"""`harness smoke`: tests whether everything works on this machine, within a minute."""

from __future__ import annotations

import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

import harness
from harness.base.checks import Checked, Whole, require, require_even_shares
from harness.base.decoding import from_mapping
from harness.base.errors import DivergenceError
from harness.base.quiet import hide_retracing_warnings, quiet_import
from harness.data.options import SyntheticOptions
from harness.tools.experiment import TrainConfig, trainer_of
from harness.trainer.settings import PRECISIONS, Precision
from kernels.multi_hot import IMPLEMENTATIONS, Implementation, why_unavailable

_CORPUS = SyntheticOptions(synthetic_rows=640, synthetic_tokens=1_000)
_BATCH_SIZE = 64
_EPOCHS = 3
# The relative tolerance between the loss after training and that of the saved model in float32.
_LOSS_TOLERANCE = {"float32": 1e-4, "mixed_bfloat16": 2e-2, "mixed_float16": 5e-3}


@dataclass(frozen=True, kw_only=True)
class SmokeConfig(Checked):
    """Train a few steps with every implementation, precision and number of replicas, and check that
    the loss falls, the step is compiled once, event files can be read, and a saved model gives the
    same loss. Exit code 0 when all of it holds, else 1, also where nothing could be tried.
    CUDA_VISIBLE_DEVICES=-1 tries the CPU."""

    implementations: tuple[Implementation, ...] = IMPLEMENTATIONS
    """Implementations of the multi-hot product to try."""
    precisions: tuple[Precision, ...] = PRECISIONS
    """Precisions to try."""
    replicas: Annotated[tuple[int, ...], Whole()] = (1, 2)
    """Numbers of replicas to try; more than one need as many GPUs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("implementations", "precisions", "replicas"):
            require(len(getattr(self, name)) > 0, f"--{name} is empty; name at least one")
        for replicas in self.replicas:
            require_even_shares(_BATCH_SIZE, replicas)


def smoke(config: SmokeConfig) -> int:
    """Prints a line for each combination; returns 0 if some were tried and all passed, else 1."""
    with quiet_import():
        import tensorflow as tf

        from harness.program.devices import set_up_devices
        from harness.trainer.environment import warn_of_gpus
    console = Console()
    warn_of_gpus(console)
    num_gpus = len(tf.config.get_visible_devices("GPU"))
    if usable := [number for number in config.replicas if number <= num_gpus]:
        set_up_devices(max(usable))  # a process cannot take more of them later
    hide_retracing_warnings()
    data = harness.load("synthetic", synthetic=_CORPUS)
    console.out(f"on {num_gpus} GPUs" if num_gpus else "on the CPU")
    passed: list[bool] = []
    for combination in itertools.product(*vars(config).values()):
        implementation, precision, replicas = combination
        name = f"{implementation:6}  {precision:14}  x {replicas}"
        if why := why_skipped(implementation, replicas, num_gpus):
            console.out(f"{name}  skipped: {why}")
            continue
        start = time.perf_counter()
        with console.status(name):
            losses, failures = _try(data, *combination)
        result = "; ".join([f"FAILED: {failure}" for failure in failures]) or "ok"
        console.out(f"{name}  {losses}  {time.perf_counter() - start:.1f} s  {result}")
        passed.append(not failures)
    console.out(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if passed and all(passed) else 1


def why_skipped(implementation: Implementation, replicas: int, num_gpus: int) -> str | None:
    if replicas > max(num_gpus, 1):
        return f"{replicas} replicas need as many GPUs, and there are {num_gpus}"
    return why_unavailable(implementation, "GPU" if num_gpus else "CPU")


def _try(
    data: harness.Dataset, implementation: Implementation, precision: Precision, replicas: int
) -> tuple[str, list[str]]:
    """Trains; returns the first and the last loss, and a message for each failure."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sizes = {"hidden_units": (16, 16), "dropout": (0.1, 0.1), "batch_size": _BATCH_SIZE}
    settings = {"implementation": implementation, "precision": precision, "replicas": replicas}
    config: TrainConfig = from_mapping(TrainConfig, sizes | settings, where="the smoke test")
    trainer = trainer_of(config, data, config.execution, epochs=_EPOCHS)
    with tempfile.TemporaryDirectory(prefix="harness-smoke-") as folder:
        try:
            history = trainer.fit(
                data.train,
                validation=data.test,
                epochs=_EPOCHS,
                run_dir=folder,
                verbose=False,
                precision_watch=0,  # a watch would compile two more programs for each combination
            )
        except DivergenceError as error:
            return "", [str(error.args[0])]
        assert trainer.last is not None
        summary = trainer.last.summary
        assert summary is not None
        if summary.interrupted:  # which by itself only ends the training
            raise KeyboardInterrupt
        losses, failures = history.history["loss"], []
        if summary.compilations != 1:
            failures.append(f"the step was compiled {summary.compilations} times")
        if not losses[-1] < losses[0]:
            failures.append("the loss did not fall")
        events = EventAccumulator(folder).Reload()
        if "train/loss" not in events.Tags()["tensors"]:
            failures.append("TensorBoard cannot read the event file")
        # In float32, where the training may have computed in 16 bits.
        model = harness.load_model(Path(folder) / "model.keras")
        saved = harness.Trainer(model, batch_size=_BATCH_SIZE)
        before, again = history.history["val_loss"][-1], saved.evaluate(data.test)["loss"]
        if abs(again - before) > _LOSS_TOLERANCE[precision] * before:
            failures.append(f"the saved model's loss is {again:.5f}, not {before:.5f}")
    return f"{losses[0]:.3f} -> {losses[-1]:.3f}", failures
