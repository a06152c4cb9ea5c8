"""Settings that must not change the results: dispatches, replicas of a CPU."""

from pathlib import Path

import numpy as np
import pytest

from tests.harness.cli.runs import SMALL, call, records, summary


@pytest.mark.parametrize(
    ("flags", "tolerance"),
    [
        (("--steps-per-dispatch", "1"), 1e-6),
        (("--steps-per-dispatch", "auto", "--replicas", "4"), 0),
    ],
)
def test_evaluations(
    flags: tuple[str, ...], tolerance: float, trained_folder: Path, tmp_path: Path
) -> None:
    """Windows differ, but evaluations do not, except for their last bits if a loop has a single
    step: XLA then dissolves it, and fuses its contents with the surroundings."""
    how = ("--precision", "float32", *flags, "--tensorboard", "off")
    result = call("train", *SMALL, *how, "--run-dir", tmp_path / "run")
    assert (result.code, result.err) == (0, "")
    names = ("validation_loss", "validation_accuracy")
    found, expected = (
        [[r[name] for name in names] for r in records(folder) if names[0] in r]
        for folder in (tmp_path / "run", trained_folder)
    )
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    figures = summary(tmp_path / "run")
    assert (figures["replicas"], figures["devices"]) == (4 if "4" in flags else 1, ["/CPU:0"])
