"""Runs that were stopped, by Ctrl-C or by force, continue as if nothing had happened."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from harness.cli.saved_model import load_saved_model
from tests.harness.cli.runs import (
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
    run,
    summary,
)

STEPS_PER_EPOCH = 50
# Dispatches that do not divide an epoch.
FLAGS = (*CORPUS, *NETWORK, *IMPLEMENTATION, "--batch-size", "32", "--steps-per-dispatch", "7")


def stopped_run(folder: Path) -> Result:
    """Starts a run of far too many epochs, and interrupts it after a few windows."""
    with subprocess.Popen(
        command_line("train", *FLAGS, "--epochs", "100000", "--run-dir", folder),
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Shells start background jobs, and so whole suites, with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        metrics = folder / "metrics.jsonl"
        while process.poll() is None:
            if metrics.exists() and metrics.read_text().count("\n") >= 3:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
        return Result(code=process.returncode, out=out, err=err)


def test_ctrl_c_and_resume(tmp_path: Path) -> None:
    """All losses of the resumed run are those of an uninterrupted one."""
    folder, reference = tmp_path / "run", tmp_path / "reference"
    result = stopped_run(folder)
    assert (result.code, result.err) == (130, "")
    done = summary(folder)
    step = records(folder)[-1]["step"]
    assert done["interrupted"] is True
    assert done["steps"] == step
    assert (folder / "checkpoints" / f"ckpt-{step}.npz").exists()
    assert done["epochs"] == step / STEPS_PER_EPOCH
    assert f"interrupted after step {step:,} of 5,000,000" in result.out
    assert (folder / "model.keras").exists()
    assert not [name for name in contents(folder) if Path(name).name.startswith(".")]

    epochs = step // STEPS_PER_EPOCH + 1
    arguments = ("train", *FLAGS, "--epochs", epochs)
    resumed = call(*arguments, "--resume", "--run-dir", folder)
    assert (resumed.code, resumed.err) == (0, "")
    assert "resumed after step" in resumed.out
    assert call(*arguments, "--run-dir", reference, "--tensorboard", "off").code == 0
    assert losses(folder) == losses(reference)
    assert summary(folder)["steps"] == epochs * STEPS_PER_EPOCH
    assert summary(folder)["interrupted"] is False
    assert summary(folder)["test_loss"] == summary(reference)["test_loss"]


# All steps are done, and the model is being written.
KILLED_AT_THE_MODEL = """
import os, signal, sys
opened = []

def kill(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".keras"):
        opened.append(arguments[0])
        if len(opened) == 2:  # the first only made it
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
from harness.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_killed_after_the_last_step_it_is_completed(
    trained: tuple[Path, Result], tmp_path: Path
) -> None:
    folder, board = tmp_path / "run", tmp_path / "board"
    places = ("--run-dir", str(folder), "--tensorboard", str(board))
    arguments = ("train", *SMALL, "--precision", "float32", *places)
    killed = run([sys.executable, "-c", KILLED_AT_THE_MODEL, *arguments])
    assert killed.code == -signal.SIGKILL, killed
    left = {path.name for path in folder.iterdir()}
    assert len(left & {"summary.json", "model.keras"}) == 0
    assert len([name for name in left if name.startswith(".")]) == 2, "a lock and half a model"
    (board / ".partial-0").mkdir()
    before, drawn = records(folder), curves(board)

    start = time.perf_counter()
    completed = call(*arguments, "--resume")
    seconds = time.perf_counter() - start
    assert (completed.code, completed.err) == (0, "")
    assert "epoch 2/2  step 32/32  test loss" in completed.out
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "summary.json", "metrics.jsonl", "model.keras", "checkpoints")
    }
    assert not list(board.glob(".*"))
    assert records(folder) == before
    assert curves(board) == drawn
    figures, whole = summary(folder), summary(trained[0])
    assert figures["test_loss"] == whole["test_loss"] == before[-1]["validation_loss"]
    assert figures["test_accuracy"] == whole["test_accuracy"]
    assert (figures["steps"], figures["interrupted"], figures["epochs"]) == (32, False, 0)
    assert (figures["examples_per_second"], figures["train_seconds"]) == (None, 0)
    # This process is older than the command.
    assert 0 < figures["wall_seconds"] < seconds
    assert same_weights(folder / "model.keras", trained[0] / "model.keras")

    (folder / ".partial-0").mkdir()  # killed once more, after all else was written
    assert call(*arguments, "--resume").code == 0
    assert not list(folder.glob(".*"))


def test_no_flag_need_be_repeated_and_a_damaged_checkpoint_is_skipped(
    trained_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained_folder, tmp_path / "run")
    newest = folder / "checkpoints" / "ckpt-32.npz"
    newest.write_bytes(newest.read_bytes()[:5000])
    result = call("train", "--resume", "auto", "--run-dir", folder, "--epochs", 3)
    assert (result.code, result.err) == (0, "")
    assert f"warning: {newest} is damaged, or not a checkpoint: " in result.out
    assert "; resumed after step 16" in result.out
    reference = tmp_path / "reference"
    assert call("train", *SMALL, "--epochs", 3, "--run-dir", reference).code == 0
    assert losses(folder) == losses(reference)
    assert curves(folder) == curves(reference)
    assert same_weights(folder / "model.keras", reference / "model.keras")
    assert {path.name for path in newest.parent.iterdir()} == {"ckpt-32.npz", "ckpt-48.npz"}

    figures, whole = summary(folder), summary(reference)
    assert (figures["epochs"], figures["steps"], figures["resumes"]) == (2, 48, 1)
    assert figures["total_examples"] == whole["total_examples"] == 3 * 1600
    assert figures["total_train_seconds"] > figures["train_seconds"] > 0
    assert whole["total_train_seconds"] == whole["train_seconds"]
    config = json.loads((folder / "config.json").read_text())
    assert config["resolved"]["resumed"] == [{"step": 16, "changed": {}}]
    with np.load(folder / "checkpoints" / "ckpt-48.npz") as checkpoint:
        about = json.loads(checkpoint["about"].item())
    assert about["config"] == config
    assert about["counters"]["examples"] == 3 * 1600


def test_resume_auto_starts_a_run_and_leaves_a_complete_one(
    trained_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained_folder, tmp_path / "run")
    auto = ("train", "--run-dir", folder, "--resume", "auto")
    before = contents(folder)
    over = call(*auto)
    assert (over.code, over.err) == (0, "")
    assert over.out.startswith(f"{folder} holds a complete run of 32 steps")
    refused = call(*auto, "--seed", 3)
    assert (refused.code, refused.out) == (2, "")
    assert "--seed was 0 and is now 3" in refused.err
    assert contents(folder) == before
    # A model whose checkpoints are gone, and a folder of somebody else's, are not replaced.
    shutil.rmtree(folder / "checkpoints")
    (tmp_path / "own" / "checkpoints").mkdir(parents=True)
    for place in (folder, tmp_path / "own"):
        before = contents(place)
        refused = call("train", *SMALL, "--epochs", 3, "--run-dir", place, "--resume", "auto")
        assert (refused.code, refused.out) == (2, "")
        assert contents(place) == before
    # Killed before its first checkpoint, a run is started anew.
    for name in ("model.keras", "summary.json"):
        (folder / name).unlink()
    anew = call(*auto, *SMALL, "--epochs", 1)
    assert (anew.code, anew.err, "resumed" in anew.out) == (0, "", False)
    assert losses(folder) == losses(trained_folder)[:5]


def curves(board: Path) -> list[tuple[int, str]]:
    """Step and tag of each scalar of training and evaluation, over all event files, but for the
    learning rate: stretches, of which each has a point, depend on timing."""
    return sorted(
        (event.step, value.tag)
        for path in board.glob("events.out*")
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        for event in [tf.compat.v1.Event.FromString(record)]
        for value in event.summary.value
        if value.tag.startswith(("train/", "validation/")) and value.tag != "train/learning_rate"
    )


def same_weights(*paths: Path) -> bool:
    one, other = (load_saved_model(str(path)).trainer.model.get_weights() for path in paths)
    return all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
