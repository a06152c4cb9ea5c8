"""Records of a small run, for the observers' tests, with real values that a test may replace."""

import dataclasses
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tensorflow as tf

from harness.run.history import History, Progress
from harness.run.records import (
    Choice,
    DatasetInfo,
    Epoch,
    Evaluation,
    Inspection,
    RunStart,
    Summary,
    Window,
)
from harness.run.telemetry.recorder import TelemetryRecorder
from harness.tools.experiment import TrainConfig

DATASET = DatasetInfo(
    name="synthetic",
    rows=40_000,
    test_rows=10_000,
    num_tokens=10_000,
    num_classes=2,
    nnz=5_208_000,
    unique=True,
    fingerprint="0" * 64,
)

GRAPH = tf.compat.v1.GraphDef()
for _name, _kind, _inputs in (
    ("values", "InputLayer", ()),
    ("row_splits", "InputLayer", ()),
    ("first", "MultiHotDense", ("values", "row_splits")),
    ("logits", "Dense", ("first",)),
):
    GRAPH.node.add(name=_name, op=_kind, input=_inputs)


def choices(**changes: Choice) -> dict[str, Choice]:
    """Returns the choice of every setting that may be `auto`."""
    taken = {
        "replicas": Choice(name="1", why="no GPU"),
        "precision": Choice(name="float32", why="no device with bfloat16 units"),
        "implementation": Choice(name="gather", why="on CPU"),
        "input": Choice(name="stream", why="the only one"),
        "table_optimizer": Choice(name="dense", why="the table is small"),
        "steps_per_dispatch": Choice(name="20", why="four windows per epoch"),
        "precision_watch": Choice(name="0", why="not needed in float32"),
        "all_reduce": Choice(name="ring", why="CPU"),
    }
    return taken | changes


def run_start(run_dir: Path, **changes: Any) -> RunStart:
    """Returns the start of a run of two epochs of 80 steps."""
    start = RunStart(
        run_dir=str(run_dir),
        config=asdict(TrainConfig(recipe="tutorial")),
        dataset=DATASET,
        strategy="OneDeviceStrategy",
        devices=("CPU:0",),
        task=Choice(name="binary", why="2 classes"),
        metrics=("accuracy",),
        choices=choices(),
        batch_size=500,
        learning_rate=0.001,
        num_parameters=505_201,
        graph=GRAPH.SerializeToString(),
        steps_per_epoch=80,
        epochs=2,
        start_step=0,
        versions={"tensorflow": "2.21.0"},
        host={"cpus": 2},
    )
    return dataclasses.replace(start, **changes)


def window(step: int, **changes: Any) -> Window:
    """Returns the window of twenty steps that ends with `step`."""
    taken = Window(
        step=step,
        epoch=(step - 1) // 80,
        batch_size=500,
        num_steps=20,
        examples=10_000,
        tokens=1_302_000,
        seconds=0.16,
        data_wait_seconds=0.004,
        loss=0.5 - step / 1000,
        metrics={"accuracy": 0.8},
    )
    return dataclasses.replace(taken, **changes)


def progress_of(*windows: Window, num_gpus: int = 0) -> Progress:
    """Returns the progress of a run with these windows, as its history sums them up."""
    recorder = TelemetryRecorder(hz=0.0, bus_ids=[f"0000:0{n}:00.0" for n in range(num_gpus)])
    history = History((), telemetry=recorder, start_step=0 if windows else 160)
    for window in windows:
        history.window(window)
    return history.end()


def evaluation(step: int, **changes: Any) -> Evaluation:
    """Returns the evaluation of the held-out rows after an epoch that ends with `step`."""
    taken = Evaluation(
        step=step,
        epoch=step // 80 - 1,
        examples=10_000,
        seconds=0.3,
        loss=0.29,
        metrics={"accuracy": 0.885},
    )
    return dataclasses.replace(taken, **changes)


def epoch(step: int, **changes: Any) -> Epoch:
    """Returns an epoch that ends with `step`, with its evaluation."""
    taken = Epoch(
        epoch=step // 80 - 1,
        step=step,
        loss=0.44,
        metrics={"accuracy": 0.8},
        evaluation=evaluation(step),
    )
    return dataclasses.replace(taken, **changes)


def inspection(step: int, **changes: Any) -> Inspection:
    """Returns a look at the gradients after an epoch that ends with `step`."""
    taken = Inspection(
        step=step,
        epoch=step // 80 - 1,
        seconds=0.01,
        gradient_norm=0.75,
        non_finite_fraction=0.0,
    )
    return dataclasses.replace(taken, **changes)


def summary(**changes: Any) -> Summary:
    """Returns the summary of the whole run."""
    total = Summary(
        test={
            "accuracy": 0.885,
            "loss": 0.29,
            "f1_macro": 0.884,
            "f1_micro": 0.885,
            "precision_macro": 0.886,
            "recall_macro": 0.883,
            "roc_auc": 0.951,
        },
        examples_per_second=62_500.0,
        steps_per_second=125.0,
        tokens_per_second=8_137_500.0,
        mean_examples_per_second=60_000.0,
        mean_steps_per_second=120.0,
        mean_tokens_per_second=7_812_000.0,
        data_wait_fraction=0.025,
        train_seconds=1.28,
        examples=80_000,
        most_steps=20,
        compile_seconds=1.5,
        wall_seconds=5.25,
        peak_rss_bytes=1_230_000_000,
        epochs=2.0,
        steps=160,
        choices={name: choice.value for name, choice in choices().items()},
        compilations=1,
        skipped_steps=0,
        non_finite_gradient_fraction=None,
        interrupted=False,
        diverged=False,
    )
    return dataclasses.replace(total, **changes)
