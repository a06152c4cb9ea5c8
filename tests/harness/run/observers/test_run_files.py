"""config.json and summary.json: their keys are what other programs read."""

import dataclasses
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.base.decoding import from_mapping
from harness.base.errors import InputError
from harness.data.options import DataConfig
from harness.run.history import Progress
from harness.run.observers.run_files import SummaryObserver, read_config, summarize
from harness.run.records import Choice, RunStart, Summary
from harness.tools.experiment import TrainConfig
from harness.trainer.settings import Settings
from tests.harness.cli.runs import settings_of
from tests.harness.run.observers.samples import (
    DATASET,
    choices,
    epoch,
    progress_of,
    run_start,
    summary,
    window,
)

# Promised in design.md; what follows `host` came on top.
SUMMARY_KEYS = {
    *("test_accuracy", "test_loss", "examples_per_second", "steps_per_second"),
    *("tokens_per_second", "data_wait_fraction", "train_seconds", "compile_seconds"),
    *("wall_seconds", "peak_rss_bytes", "epochs", "steps", "batch_size", "steps_per_dispatch"),
    *("precision", "implementation", "replicas", "devices", "compilations", "dataset"),
    *("versions", "host"),
    *("precision_watch", "input", "skipped_steps", "interrupted", "gpu_hours"),
    *("joules_per_1000_examples", "gpus"),
    *("mean_examples_per_second", "mean_steps_per_second", "mean_tokens_per_second"),
    *("examples", "diverged", "non_finite_gradient_fraction"),
    *("test_f1_macro", "test_f1_micro", "test_precision_macro", "test_recall_macro"),
    "test_roc_auc",
    *("total_examples", "total_train_seconds", "resumes", "workers"),
    *("all_reduce", "table_optimizer"),
}

TWO = Choice(name="2", why="two GPUs")


def test_summary_json_holds_the_promised_keys(tmp_path: Path) -> None:
    observer = SummaryObserver()
    for name in ("summary.json", "report.html"):
        (tmp_path / name).write_text("of the run before")
    observer.tell(run_start(tmp_path))
    assert os.listdir(tmp_path) == ["config.json"], "a run that fails has no summary"
    observer.tell(summary())
    content = json.loads((tmp_path / "summary.json").read_text())
    assert set(content) == SUMMARY_KEYS
    assert {"name", "rows", "num_tokens", "nnz"} <= set(content["dataset"])
    assert content["devices"] == ["CPU:0"]
    assert content["test_accuracy"] == 0.885


def test_figures_of_validation_rows_are_not_called_test(tmp_path: Path) -> None:
    alone = {"validation_rows": 8_000, "test_rows": 0}
    both = {"validation_rows": 8_000, "test_rows": 10_000}
    for rows, kinds in ((alone, {"validation"}), (both, {"validation", "test"})):
        observer = SummaryObserver()
        observer.tell(run_start(tmp_path, dataset=dataclasses.replace(DATASET, **rows)))
        observer.tell(summary(validation={"accuracy": 0.9, "loss": 0.25}))
        content = json.loads((tmp_path / "summary.json").read_text())
        assert (content["validation_accuracy"], content["validation_loss"]) == (0.9, 0.25)
        shown = {key.partition("_")[0] for key in content if key.endswith(("_loss", "_accuracy"))}
        assert shown == kinds


def test_a_metric_keeps_its_name_from_a_measure(tmp_path: Path) -> None:
    found = epoch(160).evaluation
    assert found is not None
    total = summarize(
        run_start(tmp_path),
        progress_of(),
        test=dataclasses.replace(found, metrics={"roc_auc": 0.5}),
        validation=None,
        figures={"roc_auc": 0.9, "f1_macro": 0.884},
        wall_seconds=36.0,
    )
    assert total.test == {"roc_auc": 0.5, "f1_macro": 0.884, "loss": found.loss}


def test_config_json_says_what_every_auto_came_to(tmp_path: Path) -> None:
    SummaryObserver().tell(run_start(tmp_path, choices=choices(replicas=TWO)))
    content = json.loads((tmp_path / "config.json").read_text())
    assert "auto" not in json.dumps(content)
    assert content["execution"]["precision"] == "float32"
    assert content["resolved"]["precision"] == {
        "name": "float32",
        "why": "no device with bfloat16 units",
    }
    assert content["resolved"]["replicas"] == 2
    assert content["resolved"]["replicas_why"] == "two GPUs"
    assert content["resolved"]["task"] == {"name": "binary", "why": "2 classes"}
    assert content["resolved"]["dataset"]["rows"] == 40_000
    assert content["resolved"]["dataset"]["fingerprint"] == DATASET.fingerprint


def test_the_settings_come_back_as_they_were_resolved(tmp_path: Path) -> None:
    asked = TrainConfig(epochs=3, data=DataConfig(data="imdb"))
    start = run_start(tmp_path, config=asdict(asked), choices=choices(replicas=TWO))
    SummaryObserver().tell(start)
    settings = from_mapping(TrainConfig, settings_of(tmp_path), where="config.json")
    resolved = Settings(
        precision="float32",
        implementation="gather",
        table_optimizer="dense",
        input="stream",
        steps_per_dispatch=20,
        replicas=2,
        all_reduce="ring",
    )
    output = dataclasses.replace(asked.output, precision_watch=0)
    assert settings == dataclasses.replace(asked, execution=resolved, output=output)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{}", "was not written by a run"),
        ('{"resolved": {}}', "is damaged, or was not written by a run"),
        ('{"resolved": 7}', "is damaged, or was not written by a run"),
    ],
)
def test_a_folder_that_holds_no_run_is_said_to_be_none(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_config(tmp_path)


def of(start: RunStart, progress: Progress) -> Summary:
    return summarize(start, progress, test=None, validation=None, figures={}, wall_seconds=36.0)


def test_steps_per_dispatch_are_the_most_that_there_were(tmp_path: Path) -> None:
    start = run_start(tmp_path)
    assert start.choices["steps_per_dispatch"].name == "20"
    grown = progress_of(window(20), window(70, num_steps=50), window(80, num_steps=10))
    assert of(start, grown).choices["steps_per_dispatch"] == 50
    rest = progress_of(window(160, num_steps=5))  # of a run that is resumed near its end
    assert of(start, rest).choices["steps_per_dispatch"] == 20


def test_without_windows_there_are_no_rates(tmp_path: Path) -> None:
    total = of(run_start(tmp_path, start_step=160), progress_of(num_gpus=2))
    assert (total.steps, total.epochs, total.train_seconds) == (160, 0, 0)
    assert total.choices["steps_per_dispatch"] == 20
    assert total.examples_per_second is total.mean_examples_per_second is None
    assert total.data_wait_fraction is total.joules_per_1000_examples is None
    assert (total.wall_seconds, total.gpu_hours) == (36.0, 0.02)
