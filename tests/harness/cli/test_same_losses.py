"""Settings that must not change the results: replicas, input, dispatches, determinism."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness.cli.runs import (
    CORPUS,
    IMPLEMENTATION,
    SMALL,
    call,
    losses,
    records,
    summary,
)


def losses_of(folder: Path, *flags: Any) -> np.ndarray:
    """Trains; returns the losses of all windows and evaluations of the run."""
    result = call("train", *flags, "--tensorboard", "off", "--run-dir", folder)
    assert (result.code, result.err) == (0, "")
    return np.array([loss for _, loss in losses(folder)])


# The flags of 208 steps. Sums have another order for another number of replicas. The activation is
# smooth, since with ReLU one row that crosses a kink can part two runs by percents; there is no
# dropout, since each replica drops units of its own.
COMPARABLE = (
    *(*CORPUS, *IMPLEMENTATION, "--hidden-units", "8", "8", "--dropout", "0"),
    *("--activation", "gelu", "--batch-size", "100", "--precision", "float32", "--epochs", "13"),
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Returns the losses of one replica, with a window for each epoch."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return losses_of(folder, *COMPARABLE, "--steps-per-dispatch", "16")


def test_four_replicas(alone: np.ndarray, tmp_path: Path) -> None:
    flags = (*COMPARABLE, "--steps-per-dispatch", "16", "--replicas", 4)
    shared = losses_of(tmp_path / "run", *flags)
    assert len(alone) == 2 * 13
    assert alone[-2] < 0.8 * alone[0], "the network has learned nothing that could differ"
    np.testing.assert_allclose(shared, alone, rtol=1e-5)
    figures = summary(tmp_path / "run")
    assert (figures["replicas"], figures["devices"]) == (4, ["/CPU:0"])


@pytest.mark.parametrize(("steps", "tolerance"), [("1", 1e-6), ("auto", 0)])
def test_steps_per_dispatch(
    steps: str, tolerance: float, trained_folder: Path, tmp_path: Path
) -> None:
    """Windows differ, but evaluations do not, except for their last bits if a loop has a single
    step: XLA then dissolves it, and fuses its contents with the surroundings."""
    flags = ("--precision", "float32", "--steps-per-dispatch", steps)
    losses_of(tmp_path / "run", *SMALL, *flags)
    names = ("validation_loss", "validation_accuracy")
    found, expected = (
        [[r[name] for name in names] for r in records(folder) if names[0] in r]
        for folder in (tmp_path / "run", trained_folder)
    )
    np.testing.assert_allclose(found, expected, rtol=tolerance)


def test_a_run_goes_on_with_another_number_of_replicas(alone: np.ndarray, tmp_path: Path) -> None:
    """Two replicas can end what one began: a checkpoint does not depend on the devices' number."""
    flags = (*COMPARABLE, "--steps-per-dispatch", "16", "--tensorboard", "off")
    assert call("train", *flags, "--epochs", "1", "--run-dir", tmp_path).code == 0
    result = call(
        *("train", *flags, "--epochs", "3", "--replicas", "2", "--resume", "--run-dir", tmp_path)
    )
    assert (result.code, result.err) == (0, "")
    found = [loss for _, loss in losses(tmp_path)]
    np.testing.assert_allclose(found, alone[: 2 * 3], rtol=1e-5)
