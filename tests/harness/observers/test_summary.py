"""config.json and summary.json: their keys are what other programs read."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from harness.config import DataConfig, ExecutionConfig, TrainConfig, from_mapping, to_mapping
from harness.errors import InputError
from harness.observers.summary import SummaryObserver, read_settings
from tests.harness.observers.samples import run_start, summary

# Promised in design.md; what follows `host` came on top.
SUMMARY_KEYS = {
    *("test_accuracy", "test_loss", "examples_per_second", "steps_per_second"),
    *("tokens_per_second", "data_wait_fraction", "train_seconds", "compile_seconds"),
    *("wall_seconds", "peak_rss_bytes", "epochs", "steps", "batch_size", "steps_per_dispatch"),
    *("precision", "implementation", "replicas", "devices", "compilations", "dataset"),
    *("versions", "host"),
    *("input", "skipped_steps", "interrupted", "joules_per_1000_examples", "gpu_hours"),
    *("mean_examples_per_second", "mean_steps_per_second", "mean_tokens_per_second"),
    *("cached_programs", "diverged", "non_finite_gradient_fraction", "underflow_fraction"),
}


def test_summary_json_holds_the_promised_keys(tmp_path: Path) -> None:
    observer = SummaryObserver()
    (tmp_path / "summary.json").write_text("of the run before")
    observer.on_start(run_start(tmp_path))
    assert not (tmp_path / "summary.json").exists(), "a run that fails has no summary"
    observer.on_end(summary())
    content = json.loads((tmp_path / "summary.json").read_text())
    assert set(content) == SUMMARY_KEYS
    assert {"name", "rows", "num_tokens", "nnz"} <= set(content["dataset"])
    assert content["devices"] == ["CPU:0"]
    assert content["test_accuracy"] == 0.885


def test_figures_that_there_are_none_of_are_null(tmp_path: Path) -> None:
    observer = SummaryObserver()
    observer.on_start(run_start(tmp_path))
    observer.on_end(summary(test_accuracy=None, test_loss=math.nan, interrupted=True))
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["test_accuracy"] is None
    assert content["test_loss"] == "NaN"


def test_config_json_says_what_every_auto_came_to(tmp_path: Path) -> None:
    SummaryObserver().on_start(run_start(tmp_path, replicas=2))
    content = json.loads((tmp_path / "config.json").read_text())
    assert "auto" not in json.dumps(content)
    assert content["execution"]["precision"] == "float32"
    assert content["resolved"]["precision"] == {
        "name": "float32",
        "why": "no device with bfloat16 units",
    }
    assert content["resolved"]["dataset"]["rows"] == 40_000


def test_the_settings_come_back_as_they_were_resolved(tmp_path: Path) -> None:
    asked = TrainConfig(epochs=3, data=DataConfig(data="imdb"))
    SummaryObserver().on_start(run_start(tmp_path, config=to_mapping(asked), replicas=2))
    settings = from_mapping(TrainConfig, read_settings(tmp_path), where="config.json")
    resolved = ExecutionConfig(
        precision="float32",
        implementation="gather",
        input="stream",
        steps_per_dispatch=20,
        replicas=2,
    )
    output = dataclasses.replace(asked.output, precision_watch=0)
    assert settings == dataclasses.replace(
        asked, execution=resolved, output=output, compilation_cache="on"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "was not written by a run"),
        ("{}", "was not written by a run"),
    ],
)
def test_a_folder_that_holds_no_run_is_said_to_be_none(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_settings(tmp_path)
