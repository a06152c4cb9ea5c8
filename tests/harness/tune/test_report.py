"""What a search leaves: settings that are read back, and rows as TensorBoard's own plugin reads
them."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from harness.tune.report import described, outcome, write_best, write_hparams
from harness.tune.study import Trial
from tests.harness.observe.tensorboard_app import TensorBoardApp


def trial(number: int, **changes: Any) -> Trial:
    epochs = [{"accuracy": 0.5, "loss": 0.7}, {"accuracy": 0.75, "loss": 0.8}]
    usual: dict[str, Any] = {
        "values": {"learning_rate": 1e-3 * number, "width": 8 * number, "ngrams": 2},
        "status": "complete",
        "epochs": epochs,
        "best_epoch": 2,
        "value": 0.75,
        "seconds": 1.5,
        "note": "",
    }
    return Trial(number=number, **usual | changes)


def test_settings_are_read_back(tmp_path: Path) -> None:
    settings = {
        "data": '/a "folder"\\with\x7f\n\ttabs, ä and 🎬',
        "learning_rate": 1e-30,
        "hidden_units": [8, 16],
        "dropout": [],
        "unique": False,
        "num_words": None,
    }
    path = tmp_path / "best.toml"
    write_best(path, settings, comment="the best")
    assert path.read_text().startswith("# the best\n")
    assert tomllib.loads(path.read_text()) == settings | {"num_words": "None"}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "accuracy 0.7500 in epoch 2 of 2"),
        ({"status": "pruned"}, "pruned; accuracy 0.7500 in epoch 2 of 2"),
        ({"status": "diverged", "epochs": [], "value": None}, "diverged"),
        ({"status": "failed", "note": "no memory"}, "failed: no memory"),
    ],
)
def test_a_line_for_a_trial(changes: dict[str, Any], line: str) -> None:
    assert outcome(trial(1, **changes), "accuracy") == line
    assert described({"learning_rate": 0.00123456, "num_tokens": 30_000}) == (
        "learning rate 0.001235, num tokens 30,000"
    )


def test_every_trial_is_a_row(tmp_path: Path) -> None:
    lost = {"status": "failed", "epochs": [], "best_epoch": None, "value": None}
    write_hparams([trial(1), trial(2, status="pruned"), trial(3, **lost)], tmp_path)
    board = TensorBoardApp(tmp_path)
    experiment, rows = board.hparams("STATUS_SUCCESS", "STATUS_FAILURE")
    columns = {info["name"]: info.get("differs", False) for info in experiment["hparamInfos"]}
    assert columns == {"learning_rate": True, "width": True, "ngrams": False}
    found = {row["hparams"]["width"]: row["metrics"] for row in rows}
    assert set(found) == {8, 16, 24}
    assert found[8] == {
        "validation/accuracy": 0.75,
        "validation/loss": pytest.approx(0.8),
        "best/objective": 0.75,
        "best/epoch": 2.0,
        "seconds": 1.5,
    }
    assert found[24] == {"seconds": 1.5}
    curve = board.get("scalars/scalars", run="trial_0001", tag="validation/loss")
    assert [step for _, step, _ in curve] == [1, 2]
