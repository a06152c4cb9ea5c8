"""Clocks before 1980 or set back: nothing is lost or disordered."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import tensorflow as tf

from harness.model.saved import load_model
from tests.harness.cli.runs import SMALL, command_line, environment, losses, run
from tests.harness.clock import library

At = Callable[[datetime], dict[str, str]]


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> At:
    """Returns a function for the environment of a process whose clock is set to a moment."""
    clock = library.build(tmp_path_factory.mktemp("clock"))
    return lambda moment: environment() | library.at(moment, clock)


def points(folder: Path) -> list[int]:
    """Returns the step of every training loss, in the order in which TensorBoard reads them."""
    return [
        event.step
        for path in sorted(folder.iterdir(), key=lambda path: path.name)
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        for event in [tf.compat.v1.Event.FromString(record)]
        if any(value.tag == "train/loss" for value in event.summary.value)
    ]


def test_a_run_in_1970_and_its_resumption_ten_days_before(tmp_path: Path, at: At) -> None:
    moment = datetime(1970, 1, 12)
    began = run(command_line("train", *SMALL, "--epochs", "1"), cwd=tmp_path, env=at(moment))
    assert (began.code, began.err) == (0, "")
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("1970-01-12_00-0")
    assert load_model(folder / "model.keras").count_params()

    flags = ("--epochs", "2", "--resume", "--run-dir", folder)
    on = run(command_line("train", *SMALL, *flags), env=at(moment - timedelta(days=10)))
    assert (on.code, on.err) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == [
        *("checkpoints", "config.json", "metrics.jsonl", "model.keras"),
        *("summary.json", "tensorboard"),
    ]
    steps = list(range(4, 36, 4))
    assert [step for step, _ in losses(folder)] == [*steps[:4], 16, *steps[4:], 32]
    assert points(folder / "tensorboard") == steps
