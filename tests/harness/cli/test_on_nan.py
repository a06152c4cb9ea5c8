"""Runs whose learning rate is absurd: they end with the step, the cause and a good checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.harness.cli.runs import CORPUS, IMPLEMENTATION, Result, call, losses, summary

# Two steps an epoch. Plain descent through linear layers: the loss leaves float32 at step 6.
FLAGS = (
    *CORPUS,
    *IMPLEMENTATION,
    *("--hidden-units", "8", "8", "--dropout", "0", "--activation", "linear"),
    *("--batch-size", "800", "--steps-per-dispatch", "1", "--epochs", "5"),
    *("--optimizer", "sgd", "--learning-rate", "2"),
)


def train(folder: Path, *flags: object) -> Result:
    return call("train", *FLAGS, *flags, "--run-dir", folder)


def is_finite(loss: Any) -> bool:
    return bool(np.isfinite(float(loss)))


def test_it_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    # Its first epoch is good, and leaves a model.
    assert train(tmp_path, "--epochs", "1").code == 0
    model = (tmp_path / "model.keras").read_bytes()

    stopped = train(tmp_path, "--resume")
    assert stopped.code == 1
    (message,) = stopped.err.splitlines()
    step = summary(tmp_path)["steps"]
    assert step < 10
    before = losses(tmp_path)
    saved = (next(s for s, loss in before if not is_finite(loss)) - 1) // 2 * 2
    for part in (
        f"step {step} of 10",
        "likely cause: the learning rate is too high: the loss had risen from ",
        "lower --learning-rate (now 2)",
        f"the last good checkpoint is {tmp_path}/checkpoints/ckpt-{saved}.npz:",
        "no model.keras was saved",
    ):
        assert part in message, message
    assert "diverged: the loss is not finite" in stopped.out
    assert summary(tmp_path)["diverged"] is True
    assert summary(tmp_path)["interrupted"] is False
    assert (tmp_path / "model.keras").read_bytes() == model
    check_finite(tmp_path / "checkpoints", saved)

    # Resumed from there it repeats itself, with --on-nan continue past that; it saves nothing more.
    on = train(tmp_path, "--resume", "--on-nan", "continue")
    assert on.code == 1
    assert json.dumps(losses(tmp_path)[: len(before)]) == json.dumps(before)
    assert summary(tmp_path)["steps"] == 10
    assert on.out.count(f"from step {step} on") == 1
    assert f"checkpoints/ckpt-{saved}.npz:" in on.err
    check_finite(tmp_path / "checkpoints", saved)
    assert (tmp_path / "model.keras").read_bytes() == model


def check_finite(checkpoints: Path, step: int) -> None:
    """Asserts that the last checkpoint is that of the step, and holds only finite numbers."""
    steps = [int(path.stem.removeprefix("ckpt-")) for path in checkpoints.iterdir()]
    assert max(steps) == step
    with np.load(checkpoints / f"ckpt-{step}.npz") as checkpoint:
        for name in set(checkpoint.files) - {"about", "checksum"}:
            assert np.isfinite(checkpoint[name]).all(), name
