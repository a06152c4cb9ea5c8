"""`harness train --profile-steps`: a profile of a run that is not changed by it."""

import shutil
from pathlib import Path

from harness.run.profiling.step_times import divide, read
from tests.harness.cli.runs import SMALL, Result, call, contents, losses, summary


def profiles(folder: Path) -> list[Path]:
    return sorted(folder.glob("tensorboard/plugins/profile/*/*.xplane.pb"))


def test_the_run_is_the_same(trained: tuple[Path, Result], tmp_path: Path) -> None:
    # Over the end of an epoch, with its evaluation and checkpoint.
    flags = ("--precision", "float32", "--run-dir", tmp_path, "--profile-steps", "14:18")
    result = call("train", *SMALL, *flags)
    assert result.code == 0, result
    assert losses(tmp_path) == losses(trained[0])

    (path,) = profiles(tmp_path)
    assert "profiled       8 steps, 12 to 20, in 2 dispatches (always whole" in result.out
    assert f"harness tensorboard {tmp_path / 'tensorboard'}" in result.out
    events = read(path)
    markers = [event for event in events if event.name == "train"]
    assert len(markers) == 2
    # The evaluation between them counts in neither.
    between = markers[1].start_ns - markers[0].end_ns
    assert between > 0
    assert divide(events).ms < (markers[1].end_ns - markers[0].start_ns - between / 2) / 1e6


def test_from_the_first_step_on_without_compilation(tmp_path: Path) -> None:
    flags = ("--epochs", "1", "--run-dir", tmp_path, "--profile-steps", "0:4")
    result = call("train", *SMALL, "--tensorboard", "off", *flags)
    assert result.code == 0, result
    events = read(*profiles(tmp_path))
    assert len([event for event in events if event.name == "train"]) == 1
    # The capture began again behind it.
    captured_ns = max(e.end_ns for e in events) - min(e.start_ns for e in events)
    assert captured_ns < 1e9 * summary(tmp_path)["compile_seconds"]
    assert not any("Compile" in event.name for event in events)


def test_a_resumed_run_profiles_what_it_trains(trained_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained_folder, tmp_path / "run")
    before = contents(folder)
    flags = ("--precision", "float32", "--epochs", "3", "--run-dir", folder, "--resume")
    refused = call("train", *SMALL, *flags, "--profile-steps", "28:40")
    assert refused.code == 2
    assert "--profile-steps is 28:40, but the run trains the steps 32:" in refused.err
    assert contents(folder) == before
    resumed = call("train", *SMALL, *flags, "--profile-steps", "32:36")
    assert resumed.code == 0, resumed
    assert "profiled       4 steps, 32 to 36, in 1 dispatches" in resumed.out
