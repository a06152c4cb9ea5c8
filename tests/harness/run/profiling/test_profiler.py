"""The profiler's observer with TensorFlow's own profiler, and records in place of a run."""

from pathlib import Path

import pytest
import tensorflow as tf

from harness.run.profiling.profiler import ProfilerObserver
from harness.run.records import (
    BatchesAwaited,
    BatchesReady,
    Choice,
    Compilation,
)
from tests.harness.run.observers.samples import choices, run_start, summary, window

COMPILATION = Compilation(program="training step", capacity=64, seconds=1.0, step=0)


def captured(profiler: ProfilerObserver) -> tuple[int, int, int]:
    """Returns the first step, the last one, and the number of dispatches."""
    assert profiler.path is not None
    return profiler.first_step, profiler.last_step, profiler.num_dispatches


def profiles(folder: Path) -> list[Path]:
    return list(folder.rglob("*.xplane.pb"))


def drive(profiler: ProfilerObserver, folder: Path, sizes: list[int]) -> None:
    """Reports a run to the profiler as the loop does, with dispatches of these sizes."""
    most = Choice(name=str(max(sizes)), why="")
    settled = choices(steps_per_dispatch=most)
    profiler.tell(run_start(folder, choices=settled))
    step = 0
    for num_steps in sizes:
        profiler.tell(BatchesAwaited(step=step))
        profiler.tell(BatchesReady(step=step))
        if step == 0:
            profiler.tell(COMPILATION)
        tf.reduce_sum(tf.ones([10])).numpy()
        step += num_steps
        profiler.tell(window(step, num_steps=num_steps, seconds=0.001 * step))


@pytest.mark.parametrize(
    ("first", "last", "sizes", "expected"),
    [
        (0, 5, [5, 5, 5], (0, 5, 1)),
        (4, 11, [5, 5, 5], (0, 15, 3)),
        (6, 7, [5, 5, 5], (5, 10, 1)),
        # Shorter than they might have been, as at the end of an epoch.
        (6, 9, [5, 1, 1, 1, 5], (5, 13, 4)),
    ],
)
def test_the_dispatches_that_hold_the_steps(
    first: int, last: int, sizes: list[int], expected: tuple[int, int, int], tmp_path: Path
) -> None:
    profiler = ProfilerObserver(tmp_path / "new", first=first, last=last)
    drive(profiler, tmp_path, sizes)
    profiler.tell(summary())
    profiler.close()
    assert captured(profiler) == expected
    (path,) = profiles(tmp_path)
    assert profiler.path == path
    assert path.parents[3] == tmp_path / "new"


def test_an_interrupted_run_keeps_what_was_captured(tmp_path: Path) -> None:
    profiler = ProfilerObserver(tmp_path, first=4, last=100)
    drive(profiler, tmp_path, [4, 4])
    assert profiler.path is None
    profiler.tell(summary())
    profiler.close()
    assert captured(profiler) == (4, 8, 1)


def test_a_run_that_fails_leaves_none_and_stops_the_profiler(tmp_path: Path) -> None:
    for _ in range(2):  # it could not start a second time otherwise
        profiler = ProfilerObserver(tmp_path, first=0, last=100)
        drive(profiler, tmp_path, [4, 4])
        profiler.close()
    assert profiler.path is None
    assert profiles(tmp_path) == []
