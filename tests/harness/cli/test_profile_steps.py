"""`harness train --profile-steps`: a profile of a run that is not changed by it."""

from pathlib import Path

from harness.run.profiling.step_times import divide, read
from tests.harness.cli.runs import SMALL, Result, call, losses


def profiles(folder: Path) -> list[Path]:
    return sorted(folder.glob("plugins/profile/*/*.xplane.pb"))


def test_the_run_is_the_same(trained: tuple[Path, Result], tmp_path: Path) -> None:
    # Over the end of an epoch, with its evaluation and checkpoint.
    flags = ("--precision", "float32", "--run-dir", tmp_path, "--profile-steps", "14:18")
    result = call("train", *SMALL, *flags)
    assert result.code == 0, result
    assert losses(tmp_path) == losses(trained[0])

    (path,) = profiles(tmp_path)
    assert "profiled       8 steps, 12 to 20, in 2 dispatches (always whole" in result.out
    assert f"harness tensorboard {tmp_path}" in result.out
    events = read(path)
    markers = [event for event in events if event.name == "train"]
    assert len(markers) == 2
    # The evaluation between them counts in neither.
    between = markers[1].start_ns - markers[0].end_ns
    assert between > 0
    assert divide(events).ms < (markers[1].end_ns - markers[0].start_ns - between / 2) / 1e6
