"""`harness smoke`: tests whether everything works on this machine, within a minute."""

from __future__ import annotations

import itertools
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, get_args

from rich.console import Console

import harness
from harness.base.checks import Checked, Whole, require, require_even_shares
from harness.base.decoding import from_mapping
from harness.base.errors import DivergenceError, printable
from harness.base.quiet import hide_retracing_warnings, quiet_import
from harness.base.terminal import markdown_table
from harness.cli import github
from harness.data.options import SyntheticOptions
from harness.tools.experiment import TrainConfig, trainer_of
from harness.trainer.settings import PRECISIONS, Precision
from kernels.files import replacing
from kernels.multi_hot import IMPLEMENTATIONS, Implementation, why_unavailable

Outcome = Literal["passed", "failed", "skipped"]
_CORPUS = SyntheticOptions(synthetic_rows=640, synthetic_tokens=1_000)
_BATCHES = 10  # rows of the corpus, in batches at least, so that large batches are several as well
_EPOCHS = 3
# The relative tolerance between the loss after training and that of the saved model in float32.
_LOSS_TOLERANCE = {"float32": 1e-4, "mixed_bfloat16": 2e-2, "mixed_float16": 5e-3}


@dataclass(frozen=True, kw_only=True)
class SmokeConfig(Checked):
    """Train a few steps with every implementation, precision and number of replicas, and check that
    the loss falls, the step is compiled once, event files can be read, and a saved model gives the
    same loss. Exit code 0 when all of it holds, else 1, also where nothing could be tried.
    CUDA_VISIBLE_DEVICES=-1 tries the CPU."""

    implementation: tuple[Implementation, ...] = IMPLEMENTATIONS
    """Implementations of the multi-hot product to try."""
    precision: tuple[Precision, ...] = PRECISIONS
    """Precisions to try."""
    replicas: Annotated[tuple[int, ...], Whole()] = (1, 2)
    """Numbers of replicas to try; more than one need as many GPUs."""
    batch_size: Annotated[int, Whole(most=2**17)] = 64
    """Rows per optimizer step, over all replicas."""
    junit: str | None = None
    """Also write the results as JUnit XML to this file, as CI services read it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("implementation", "precision", "replicas"):
            require(len(getattr(self, name)) > 0, f"--{name} is empty; name at least one")
        for replicas in self.replicas:
            require_even_shares(self.batch_size, replicas)


class Tried(NamedTuple):
    """A combination, and what came of it."""

    name: str
    outcome: Outcome
    text: str
    seconds: float = 0.0


def smoke(config: SmokeConfig) -> int:
    """Prints a line for each combination that is tried, and the reasons for those that are not;
    returns 0 if some were tried and all passed, else 1."""
    with quiet_import():
        import tensorflow as tf

        from harness.program.devices import set_up_devices
        from harness.trainer.environment import warn_of_gpus
    console = Console()
    junit = None if config.junit is None else Path(config.junit).absolute()
    if junit is not None:  # checked before the minute that the rest may take
        require(not junit.is_dir(), f"--junit is {junit}, which is a folder; name a file")
        junit.parent.mkdir(parents=True, exist_ok=True)
    warn_of_gpus(console)
    num_gpus = len(tf.config.get_visible_devices("GPU"))
    if usable := [number for number in config.replicas if number <= num_gpus]:
        set_up_devices(max(usable))  # a process cannot take more of them later
    hide_retracing_warnings()
    num_rows = max(_CORPUS.synthetic_rows, _BATCHES * config.batch_size)
    data = harness.load("synthetic", synthetic=replace(_CORPUS, synthetic_rows=num_rows))
    console.out(f"on {num_gpus} GPUs" if num_gpus else "on the CPU")
    tried: list[Tried] = []
    for combination in itertools.product(config.implementation, config.precision, config.replicas):
        implementation, precision, replicas = combination
        name = f"{implementation} {precision} x {replicas}"
        if why := why_skipped(implementation, replicas, num_gpus):
            tried.append(Tried(name, "skipped", why))
            continue
        start = time.perf_counter()
        with console.status(name):
            losses, failures = _try(data, config.batch_size, *combination)
        seconds = time.perf_counter() - start
        result = "; ".join([f"FAILED: {failure}" for failure in failures]) or "ok"
        tried.append(Tried(name, "failed" if failures else "passed", result, seconds))
        shown = f"{implementation:6}  {precision:14}  x {replicas}"
        console.out(f"{shown}  {losses}  {seconds:.1f} s  {result}")
        if failures:
            github.error(f"harness smoke: {name}", result)
    for why, number in Counter(one.text for one in tried if one.outcome == "skipped").items():
        console.out(f"skipped {number} of {len(tried)}: {why}")
    counts = Counter(one.outcome for one in tried)
    verdict = ", ".join(f"{counts[outcome]} {outcome}" for outcome in get_args(Outcome))
    if counts["skipped"] == len(tried):
        github.error("harness smoke", f"no combination could be tried: {verdict}")
    if junit is not None:
        _write_junit(junit, tried, counts)
    rows = ((one.name, f"{one.seconds:.1f}", one.text) for one in tried)
    table = markdown_table(("combination", "seconds", "result"), rows)
    github.step_summary(f"### harness smoke: {verdict}\n\n{table}")
    console.out(verdict)
    return 0 if counts["passed"] and not counts["failed"] else 1


def _write_junit(path: Path, tried: Sequence[Tried], counts: Counter[Outcome]) -> None:
    suite = ET.Element("testsuite", name="harness smoke", tests=str(len(tried)))
    suite.set("failures", str(counts["failed"]))
    suite.set("skipped", str(counts["skipped"]))
    suite.set("time", f"{sum(one.seconds for one in tried):.3f}")
    for one in tried:
        case = ET.SubElement(suite, "testcase", classname="harness.smoke", name=one.name)
        case.set("time", f"{one.seconds:.3f}")
        if tag := {"failed": "failure", "skipped": "skipped"}.get(one.outcome):
            text = printable(one.text)
            ET.SubElement(case, tag, message=text).text = text
    with replacing(path) as beside:
        ET.ElementTree(suite).write(beside, encoding="utf-8", xml_declaration=True)


def why_skipped(implementation: Implementation, replicas: int, num_gpus: int) -> str | None:
    if replicas > max(num_gpus, 1):
        return f"{replicas} replicas need as many GPUs, and there are {num_gpus}"
    return why_unavailable(implementation, "GPU" if num_gpus else "CPU")


def _try(
    data: harness.Dataset,
    batch_size: int,
    implementation: Implementation,
    precision: Precision,
    replicas: int,
) -> tuple[str, list[str]]:
    """Trains; returns the first and the last loss, and a message for each failure."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sizes = {"hidden_units": (16, 16), "dropout": (0.1, 0.1), "batch_size": batch_size}
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
        saved = harness.Trainer(model, batch_size=batch_size)
        before, again = history.history["val_loss"][-1], saved.evaluate(data.test)["loss"]
        if abs(again - before) > _LOSS_TOLERANCE[precision] * before:
            failures.append(f"the saved model's loss is {again:.5f}, not {before:.5f}")
    return f"{losses[0]:.3f} -> {losses[-1]:.3f}", failures
