"""Whole runs: their folders, their repetition bit for bit, and their output."""

import dataclasses
import re
import statistics
import time
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harness.base.decoding import from_mapping
from harness.cli.train import train
from harness.run.stretches import stretches_of
from harness.tools.experiment import OutputConfig, TrainConfig
from tests.harness.cli.runs import (
    SMALL,
    Result,
    call,
    command_line,
    losses,
    names_in,
    records,
    run,
    settings_of,
    summary,
)

FILES = {"config.json", "summary.json", "metrics.jsonl", "model.keras", "checkpoints"}
TAGS = {
    *("train/loss", "train/accuracy", "validation/loss", "validation/accuracy"),
    *("test/loss", "test/accuracy"),
    *(f"throughput/{unit}_per_second" for unit in ("steps", "examples", "tokens")),
    *("throughput/step_time_ms", "throughput/data_wait_fraction", "train/learning_rate"),
    *("~summary/examples_per_second", "~summary/step_time_ms"),
}


def tags(folder: Path) -> set[str]:
    """Returns the tags of curves and histograms, without those of telemetry, any part of which may
    be in runs as short as these."""
    reader = EventAccumulator(str(folder)).Reload()
    found = [*reader.PluginTagToContent("scalars")]
    if "weights/logits/bias" in reader.Tags()["tensors"]:
        found += reader.PluginTagToContent("histograms")
    return {tag for tag in found if not tag.startswith("~host/")}


@pytest.fixture(scope="module")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Runs `harness train --summary` as a newcomer does; returns the working folder and the
    result."""
    place = tmp_path_factory.mktemp("newcomer")
    return place, run(command_line("train", "--summary"), cwd=place)


def test_a_newcomers_run(default_run: tuple[Path, Result]) -> None:
    place, result = default_run
    assert result.code == 0
    # No line of TensorFlow's, whose own settings nobody has touched.
    assert result.err == ""
    assert not re.search(r"^[IWEF]\d{4} |oneDNN|cuInit", result.out, re.MULTILINE)
    assert "505,201" in result.out
    assert "MultiHotDense" in result.out
    (runs,) = place.iterdir()
    (folder,) = runs.iterdir()
    assert runs.name == "runs"
    assert time.strptime(folder.name, "%Y-%m-%d_%H-%M-%S.%f")
    assert str(folder) in result.out
    assert names_in(folder) == FILES | {"events"}


def test_the_default_run_learns(default_run: tuple[Path, Result]) -> None:
    (folder,) = default_run[0].glob("runs/*")
    figures = summary(folder)
    assert 0.87 <= figures["test_accuracy"] <= 0.92
    assert figures["dataset"]["rows"] == 40_000
    assert figures["dataset"]["num_tokens"] == 10_000
    assert 1 <= figures["compilations"] <= 2
    assert figures["steps"] == 160


def test_the_folder_of_a_run(trained_folder: Path) -> None:
    assert names_in(trained_folder) == FILES | {"events"}
    checkpoints = {path.name for path in (trained_folder / "checkpoints").iterdir()}
    assert checkpoints == {"ckpt-16.npz", "ckpt-32.npz"}
    assert tags(trained_folder) == TAGS
    config = settings_of(trained_folder)
    assert "auto" not in repr(config)
    assert config["execution"]["steps_per_dispatch"] == 4
    assert config["execution"]["replicas"] == 1


def test_the_lines_of_metrics(trained_folder: Path) -> None:
    lines = records(trained_folder)
    windows = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "loss" not in line]
    evaluated = {"step", "epoch", "validation_loss", "validation_accuracy", "examples", "seconds"}
    assert all(set(line) >= evaluated for line in evaluations)
    assert [line["step"] for line in windows] == list(range(4, 33, 4))
    assert [(line["step"], line["epoch"]) for line in evaluations] == [(16, 0), (32, 1)]
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 16, 20, 24, 28, 32, 32]


def test_the_summary_agrees_with_the_lines(trained_folder: Path) -> None:
    figures = summary(trained_folder)
    windows = [line for line in records(trained_folder) if "loss" in line]
    last = records(trained_folder)[-1]
    assert figures["test_loss"] == last["validation_loss"]
    assert figures["test_accuracy"] == last["validation_accuracy"]
    assert figures["test_f1_micro"] == pytest.approx(figures["test_accuracy"])
    totals = {"steps": 32, "examples": 3200, "tokens": figures["dataset"]["nnz"] * 2}
    for unit, total in totals.items():
        mean = total / figures["train_seconds"]
        assert figures[f"mean_{unit}_per_second"] == pytest.approx(mean)
    stretches = stretches_of(windows, batch_size=100)
    for unit in totals:
        rates = [getattr(stretch, f"{unit}_per_second") for stretch in stretches]
        assert figures[f"{unit}_per_second"] == pytest.approx(statistics.median(rates))
    for kind in ("", "mean_"):
        steps, examples = (figures[f"{kind}{u}_per_second"] for u in ("steps", "examples"))
        assert steps * 100 == pytest.approx(examples)
    assert figures["train_seconds"] == pytest.approx(sum(line["seconds"] for line in windows))
    waits = sum(line["data_wait_seconds"] for line in windows)
    assert figures["data_wait_fraction"] == pytest.approx(waits / figures["train_seconds"])
    rows, nnz = figures["dataset"]["rows"], figures["dataset"]["nnz"]
    assert sum(line["examples"] for line in windows) == rows * figures["epochs"] == 1600 * 2
    assert sum(line["tokens"] for line in windows) == nnz * figures["epochs"]
    assert figures["steps"] == sum(line["num_steps"] for line in windows) == 32
    assert figures["compilations"] == 1
    assert figures["interrupted"] is False
    assert (figures["precision"], figures["implementation"]) == ("float32", "gather")
    assert (figures["replicas"], figures["devices"]) == (1, ["/CPU:0"])
    assert {"name", "rows", "num_tokens", "nnz"} <= set(figures["dataset"])
    assert figures["wall_seconds"] > figures["train_seconds"] + figures["compile_seconds"]
    assert figures["peak_rss_bytes"] > 100e6
    assert figures["gpu_hours"] is figures["joules_per_1000_examples"] is None


def test_config_json_gives_the_run_again_bit_for_bit(trained_folder: Path, tmp_path: Path) -> None:
    settings = from_mapping(TrainConfig, settings_of(trained_folder), where="config.json")
    output = OutputConfig(run_dir=str(tmp_path / "[again]"), tensorboard="off")
    console = Console(quiet=True)
    assert train(dataclasses.replace(settings, output=output), console) == 0
    folder = tmp_path / "[again]"
    assert losses(folder) == losses(trained_folder)
    assert names_in(folder) == FILES


def test_two_replicas_with_a_scaled_loss_in_the_place_of_another_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "model.keras").write_text("of another run")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "ckpt-99.npz").write_text("of another run")
    flags = ("--precision", "mixed_float16", "--replicas", "2", "--epochs", "1")
    result = call(
        "train", *SMALL, *flags, "--histograms", "1", "--overwrite", "--run-dir", tmp_path
    )
    assert (result.code, result.err) == (0, "")
    assert "naive Bayes" not in result.out, "no recipe ran"
    weights = {
        f"{layer}/{name}" for layer in ("multi_hot_dense", "logits") for name in ("kernel", "bias")
    }
    assert tags(tmp_path) == TAGS | {
        *("train/gradient_norm", "precision/loss_scale", "precision/skipped_steps"),
        "precision/non_finite_gradient_fraction",
        *(f"{of}/{name}" for of in ("weights", "gradients") for name in weights),
    }
    assert names_in(tmp_path) == FILES | {"events", "notes.txt"}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["ckpt-16.npz"]
    figures = summary(tmp_path)
    assert (figures["replicas"], figures["precision"]) == (2, "mixed_float16")
    windows = [line for line in records(tmp_path) if "loss" in line]
    assert all(line["loss_scale"] > 0 for line in windows)
    assert figures["skipped_steps"] == sum(line["skipped_steps"] for line in windows)
    assert sum(line["examples"] for line in windows) == 1600
    (inspection,) = [line for line in records(tmp_path) if "inspection_seconds" in line]
    assert inspection["step"] == 16
    assert figures["non_finite_gradient_fraction"] == 0
