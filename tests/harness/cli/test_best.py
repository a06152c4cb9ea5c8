"""The best epoch by rows that are apart from the test rows: best.keras, and early stopping."""

from pathlib import Path

import numpy as np
import pytest

import harness
from harness.cli.saved_model import load_saved_model
from harness.data.options import SyntheticOptions
from harness.model.saved import load_model
from tests.harness.cli.runs import SMALL, call, contents, records

# Overfits after an epoch or two: a learning rate that is too high, few rows.
# The batches divide the rows, so that none needs a program of its own.
FLAGS = (*SMALL, "--batch-size", "80", "--validation-split", "0.2", "--learning-rate", "0.05")


def validation_losses(folder: Path) -> list[float]:
    return [r["validation_loss"] for r in records(folder) if "validation_loss" in r]


def validation_loss(model: Path) -> float:
    """Returns a saved model's loss on the validation rows of the runs here."""
    options = SyntheticOptions(synthetic_rows=2000, synthetic_tokens=1000)
    rows = harness.load("synthetic", synthetic=options, validation_split=0.2).validation
    assert rows is not None
    return load_saved_model(str(model)).trainer.evaluate(rows)["loss"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a run that early stopping ended."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    flags = ("--epochs", "20", "--early-stopping", "1", "--run-dir", folder)
    result = call("train", *FLAGS, *flags)
    assert (result.code, result.err) == (0, "")
    return folder


def test_a_run_stops_and_goes_back_to_its_best_epoch(stopped: Path) -> None:
    losses = validation_losses(stopped)
    assert len(losses) < 20
    assert min(losses) == losses[-2] < losses[-1]
    for name in ("model.keras", "best.keras"):
        assert validation_loss(stopped / name) == pytest.approx(min(losses), rel=1e-4)


def test_the_epochs_before_a_resume_count(stopped: Path, tmp_path: Path) -> None:
    """Early stopping counts them, and the best of them stays the best of the run."""
    flags = ("--early-stopping", "1", "--run-dir", tmp_path / "run")
    epochs = len(validation_losses(stopped))
    assert call("train", *FLAGS, *flags, "--epochs", epochs - 1).code == 0
    before = (tmp_path / "run" / "best.keras").read_bytes()
    result = call("train", "--resume", "--epochs", "20", "--run-dir", tmp_path / "run")
    assert (result.code, result.err) == (0, "")
    assert validation_losses(tmp_path / "run") == validation_losses(stopped)
    assert (tmp_path / "run" / "best.keras").read_bytes() == before
    for name in ("model.keras", "best.keras"):
        found, expected = (
            load_model(folder / name).get_weights() for folder in (tmp_path / "run", stopped)
        )
        assert all(map(np.array_equal, found, expected))


def test_a_run_that_stopped_early_is_complete(stopped: Path) -> None:
    before = contents(stopped)
    flags = ("--epochs", "20", "--early-stopping", "3", "--resume", "--run-dir", stopped)
    result = call("train", *FLAGS, *flags)
    assert (result.code, result.err) == (0, "")
    assert "holds a complete run" in result.out
    assert contents(stopped) == before
