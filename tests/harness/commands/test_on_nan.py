"""Runs whose learning rate is absurd: they end with the step, the cause and a good checkpoint."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.harness.commands.runs import CORPUS, IMPLEMENTATION, Result, call, losses, summary

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
    stopped = train(tmp_path / "stopped")
    assert stopped.code == 1
    (message,) = stopped.err.splitlines()
    step = summary(tmp_path / "stopped")["steps"]
    assert step < 10
    before = losses(tmp_path / "stopped")
    last_good = next(s for s, loss in before if not is_finite(loss)) - 1
    saved = last_good // 2 * 2
    for part in (
        f"step {step} of 10",
        "likely cause: the learning rate 2 is too high: the loss had risen from 0.7",
        "lower --learning-rate",
        f"the last good checkpoint is {tmp_path}/stopped/checkpoints/ckpt-{saved}:",
        "no model.keras was saved",
    ):
        assert part in message, message
    assert summary(tmp_path / "stopped")["diverged"] is True
    assert summary(tmp_path / "stopped")["interrupted"] is False
    assert not (tmp_path / "stopped" / "model.keras").exists()
    assert "diverged: the loss is not finite" in stopped.out
    checkpoint = tf.train.latest_checkpoint(str(tmp_path / "stopped" / "checkpoints"))
    assert Path(checkpoint).name == f"ckpt-{saved}"
    for name, _ in tf.train.list_variables(checkpoint):
        value = tf.train.load_variable(checkpoint, name)
        assert (
            not isinstance(value, np.ndarray) or value.dtype.kind != "f" or np.isfinite(value).all()
        )

    # Resumed, it repeats itself; with --on-nan continue it goes past that, and saves nothing more.
    again = train(tmp_path / "stopped", "--resume")
    assert again.code == 1
    assert f"step {step} of 10" in again.err
    assert f"checkpoints/ckpt-{saved}:" in again.err
    assert json.dumps(losses(tmp_path / "stopped")) == json.dumps(before)
    on = train(tmp_path / "stopped", "--resume", "--on-nan", "continue")
    assert on.code == 1
    assert summary(tmp_path / "stopped")["steps"] == 10
    assert f"from step {step} on" in on.out
    assert f"checkpoints/ckpt-{saved}:" in on.err
    assert not (tmp_path / "stopped" / "checkpoints" / "ckpt-10.index").exists()
    assert not (tmp_path / "stopped" / "model.keras").exists()


def test_a_model_from_before_is_named(tmp_path: Path) -> None:
    done = train(tmp_path, "--epochs", "2")
    assert (done.code, done.err) == (0, "")
    kept = (tmp_path / "model.keras").read_bytes()
    stopped = train(tmp_path, "--resume")
    assert stopped.code == 1
    assert f"{tmp_path}/model.keras is from before this run" in stopped.err
    assert (tmp_path / "model.keras").read_bytes() == kept


def test_from_the_first_step_there_is_nothing_to_keep(tmp_path: Path) -> None:
    stopped = call(
        *("train", *CORPUS, *IMPLEMENTATION, "--hidden-units", "8", "--dropout", "0"),
        *("--batch-size", "100", "--steps-per-dispatch", "8", "--learning-rate", "1e30"),
        *("--run-dir", tmp_path),
    )
    assert stopped.code == 1
    assert stopped.err == (
        "error: the loss became nan in steps 1 to 8 of 32; likely cause: the learning rate 1e+30 "
        "is too high: there was no finite loss before; lower --learning-rate; no checkpoint had "
        "been saved; no model.keras was saved\n"
    )
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    "flags", [["--histograms", "1", "--tensorboard", "off"], ["--histograms", "-1"]]
)
def test_settings_that_would_be_ignored(flags: list[str], tmp_path: Path) -> None:
    refused = train(tmp_path / "run", *flags)
    assert refused.code == 2
    assert f"--histograms is {flags[1]}" in refused.err
