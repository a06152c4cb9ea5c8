"""Runs that were stopped, by Ctrl-C or by force, and went on: as if nothing had happened."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.commands.runs import (
    CORPUS,
    IMPLEMENTATION,
    NETWORK,
    REPOSITORY,
    SMALL,
    Result,
    call,
    command_line,
    contents,
    environment,
    losses,
    records,
    summary,
)

STEPS_PER_EPOCH = 50
# Dispatches that do not divide an epoch.
FLAGS = (*CORPUS, *NETWORK, *IMPLEMENTATION, "--batch-size", "32", "--steps-per-dispatch", "7")


def stopped_run(
    folder: Path, flags: tuple[Any, ...], enough: Callable[[str], bool], how: int
) -> Result:
    """A run of far too many epochs, sent the signal `how` when its metrics are `enough`."""
    arguments = ("train", *FLAGS, *flags, "--epochs", "100000", "--run-dir", folder)
    with subprocess.Popen(
        command_line(*arguments),
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Shells start background jobs, and so whole suites, with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        metrics = folder / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and enough(metrics.read_text())):
            time.sleep(0.005)
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
        return Result(code=process.returncode, out=out, err=err)


def last_checkpoint(folder: Path) -> int:
    """Its number of steps, by the names of the files."""
    return max(int(path.stem.removeprefix("ckpt-")) for path in folder.glob("checkpoints/*.npz"))


def go_on(folder: Path, flags: tuple[Any, ...], reference: Path, *, more_epochs: int) -> int:
    """Resumes, and compares all losses with those of an uninterrupted run; returns its epochs."""
    epochs = last_checkpoint(folder) // STEPS_PER_EPOCH + more_epochs
    arguments = ("train", *FLAGS, *flags, "--epochs", epochs)
    resumed = call(*arguments, "--resume", "--run-dir", folder)
    assert (resumed.code, resumed.err) == (0, "")
    assert "resumed after step" in resumed.out
    assert call(*arguments, "--run-dir", reference, "--tensorboard", "off").code == 0
    assert losses(folder) == losses(reference)
    assert summary(folder)["steps"] == epochs * STEPS_PER_EPOCH
    assert summary(folder)["interrupted"] is False
    assert summary(folder)["test_loss"] == summary(reference)["test_loss"]
    return epochs


@pytest.mark.parametrize("replicas", [1, 2])
def test_ctrl_c_and_resume(replicas: int, tmp_path: Path) -> None:
    folder, flags = tmp_path / "run", ("--replicas", replicas)
    result = stopped_run(folder, flags, lambda text: text.count("\n") >= 3, signal.SIGINT)
    assert (result.code, result.err) == (130, "")
    done = summary(folder)
    step = records(folder)[-1]["step"]
    assert done["interrupted"] is True
    assert done["steps"] == step == last_checkpoint(folder)
    assert done["epochs"] == step / STEPS_PER_EPOCH
    assert f"interrupted after step {step:,} of 5,000,000" in result.out
    assert (folder / "model.keras").exists()
    assert not [name for name in contents(folder) if Path(name).name.startswith(".")]

    epochs = go_on(folder, flags, tmp_path / "reference", more_epochs=1)
    if replicas > 1:
        return
    # It is over now; with more epochs it goes on once more.
    arguments = ("train", *FLAGS, *flags, "--resume", "--run-dir", folder)
    over = call(*arguments, "--epochs", epochs)
    assert over.code == 2
    assert f"all of --epochs {epochs}" in over.err
    assert "set --epochs to more" in over.err
    assert call(*arguments, "--epochs", epochs + 1).code == 0
    assert summary(folder)["steps"] == (epochs + 1) * STEPS_PER_EPOCH
    assert [step for step, _ in losses(folder)] == sorted(step for step, _ in losses(folder))


def test_kill_and_resume(tmp_path: Path) -> None:
    """Killed within an epoch, a run goes on from the epoch's start; what it repeats is dropped."""

    def within_second_epoch(text: str) -> bool:
        _, evaluation, after = text.partition('"validation_loss"')
        return bool(evaluation) and after.count("\n") >= 3

    folder = tmp_path / "run"
    result = stopped_run(folder, (), within_second_epoch, signal.SIGKILL)
    assert result.code == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    assert last_checkpoint(folder) % STEPS_PER_EPOCH == 0
    go_on(folder, (), tmp_path / "reference", more_epochs=2)


def test_a_run_without_auto_and_one_with_it_are_the_same(trained_folder: Path) -> None:
    """What `auto` came to is written down, so naming it is no other setting, nor is `auto`."""
    for precision in ("auto", "float32"):
        flags = ("--precision", precision, "--resume", "--run-dir", trained_folder)
        refused = call("train", *SMALL, *flags)
        assert refused.code == 2
        assert "set --epochs to more" in refused.err
