"""The loop with a stand-in for the programs and a clock that the test sets."""

import pytest

from harness.run.checkpoint_schedule import CheckpointSchedule
from harness.run.history import Counters
from tests.harness.stand_in import (
    COMPILE_SECONDS,
    NEXT_SECONDS,
    OBSERVER_SECONDS,
    TRAIN_SECONDS,
    planned,
    run,
)


def test_windows_last_from_sync_to_sync_without_compilation_evaluation_and_saving() -> None:
    # Two epochs of two windows; the first dispatch needs two programs, the fourth another one.
    dispatches = planned(
        epochs=2, steps=4, per_dispatch=2, capacities=lambda step: {256} if step == 6 else {64, 128}
    )
    done = run(dispatches, observers=2, steps_per_epoch=4)
    alone = NEXT_SECONDS + TRAIN_SECONDS
    observed = alone + 2 * OBSERVER_SECONDS  # what observers take is part of the next window
    assert [window.seconds for window in done.windows] == [alone, observed, observed, observed]
    assert [window.data_wait_seconds for window in done.windows] == [NEXT_SECONDS] * 4
    assert sum(made.seconds for made in done.progress.compilations) == 4 * COMPILE_SECONDS


def test_everyone_is_told_of_what_has_happened_before_it_is_saved() -> None:
    log = run(planned(epochs=1, steps=3, per_dispatch=2), observers=2, steps_per_epoch=3).log
    for observer in ("observer 0", "observer 1"):
        told = [entry for entry in log if entry.startswith(observer)]
        assert [entry.partition(" told of ")[2] for entry in told] == [
            *("training step", "window 2", "window 3", "evaluation", "epoch 0")
        ]
        assert log.index("train 0") < log.index(f"{observer} told of window 2")
        assert log.index(f"{observer} told of window 2") < log.index("train 2")
        assert log.index("evaluate 3") < log.index(f"{observer} told of epoch 0")
    assert log[-1] == "save 3"


def test_a_resumed_run_goes_on_counting_and_saves_at_its_end() -> None:
    before = Counters(examples=80, train_seconds=7.0)
    rest = [d for d in planned(epochs=4, steps=5, per_dispatch=2) if d.step >= 10]
    seldom = CheckpointSchedule(seconds=1e9)
    resumed = run(rest, start_step=10, before=before, saving=seldom, steps_per_epoch=5)
    assert [entry for entry in resumed.log if entry.startswith("save")] == ["save 20"]
    assert resumed.progress.counters.examples == 80 + 80
    assert resumed.progress.counters.train_seconds == 7.0 + resumed.progress.windows.train_seconds


def test_epochs_of_one_host_sync_are_told_one_by_one_and_share_its_time() -> None:
    dispatches = planned(epochs=4, steps=4, per_dispatch=4)
    done = run(dispatches, steps_per_epoch=4, programs={"num_epochs": 3})
    assert done.log[2:5] == ["train 0", "train 4", "train 8"]
    told = [entry.partition(" told of ")[2] for entry in done.log if "told of" in entry]
    assert told[1:7] == ["window 4", "epoch 0", "window 8", "epoch 1", "window 12", "evaluation"]
    assert [entry for entry in done.log if entry.startswith("save")] == ["save 12", "save 16"]
    first = [window.seconds for window in done.windows[:3]]
    assert first == pytest.approx(3 * [NEXT_SECONDS + TRAIN_SECONDS])
    waits = [window.data_wait_seconds for window in done.windows]
    assert waits == pytest.approx(4 * [NEXT_SECONDS])
    starts = [window.ended_at_seconds - window.seconds for window in done.windows[1:3]]
    assert starts == [window.ended_at_seconds for window in done.windows[:2]]
    assert [epoch.step for epoch in done.progress.epochs] == [4, 8, 12, 16]


def test_a_divergence_ends_the_run_within_the_epochs_of_one_host_sync() -> None:
    done = run(
        planned(epochs=4, steps=4, per_dispatch=4),
        steps_per_epoch=4,
        programs={"num_epochs": 3, "lost": lambda step: step >= 4},
        stop_at_nan=True,
    )
    assert [window.step for window in done.windows] == [4, 8]
    assert done.progress.step == 8
    assert done.progress.divergence is not None
    assert not [entry for entry in done.log if entry.startswith("save")]


def test_interrupted_at_an_epochs_end_it_still_evaluates_and_saves_once() -> None:
    answers = iter([False, False, True])
    done = run(
        planned(epochs=3, steps=5, per_dispatch=2),
        steps_per_epoch=5,
        should_stop=answers.__next__,
    )
    assert [e.step for e in done.progress.epochs] == [5]
    assert [entry for entry in done.log if entry.startswith("save")] == ["save 5"]
    assert done.progress.interrupted


def test_an_inspection_costs_no_window_any_time() -> None:
    done = run(
        planned(epochs=3, steps=2, per_dispatch=1), steps_per_epoch=2, programs={"inspects": (1,)}
    )
    assert [i.step for i in done.progress.inspections] == [4]
    seen, told, saved = map(
        done.log.index, ("inspect 4", "observer 0 told of inspection 4", "save 4")
    )
    assert seen < told < saved
    assert max(window.seconds for window in done.windows) < 20


def test_it_ends_after_some_steps_or_when_told_to() -> None:
    dispatches = planned(epochs=2, steps=5, per_dispatch=2)
    assert [w.step for w in run(dispatches, steps_per_epoch=5, num_steps=4).windows] == [2, 4]
    # Before an epoch, and twice a dispatch; in an epoch, at its end.
    for asked, steps in ((3, [2, 4]), (6, [2, 4, 5])):
        answers = iter([False] * asked + [True])
        done = run(dispatches, steps_per_epoch=5, is_done=answers.__next__)
        assert [w.step for w in done.windows] == steps
        assert not done.progress.interrupted
        assert [epoch.step for epoch in done.progress.epochs] == [steps[-1]]
