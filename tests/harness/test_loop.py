"""The loop with a stand-in for the engine and a clock that the test turns."""

import pytest

from harness.loop import train
from harness.records import Compilation, Observer, Progress, Window
from tests.harness.stand_in import (
    COMPILE_SECONDS,
    NEXT_SECONDS,
    OBSERVER_SECONDS,
    TRAIN_SECONDS,
    Clock,
    StandIn,
    planned,
    run,
)


def test_a_window_holds_what_the_dispatch_and_the_device_say() -> None:
    (window,) = run(planned(epochs=1, steps=3, per_dispatch=4), steps_per_epoch=3).progress.windows
    assert window == Window(
        step=3,
        epoch=0,
        num_steps=3,
        examples=24,
        tokens=300,
        seconds=NEXT_SECONDS + TRAIN_SECONDS,
        data_wait_seconds=NEXT_SECONDS,
        loss=0.25,
        accuracy=0.5,
        loss_scale=8.0,
        skipped_steps=1,
        ended_at_seconds=500.0 + NEXT_SECONDS + COMPILE_SECONDS + TRAIN_SECONDS,
    )


def test_windows_last_from_sync_to_sync_without_compilation_evaluation_and_saving() -> None:
    # Two epochs of two windows; the fourth dispatch needs another program.
    dispatches = planned(
        epochs=2, steps=4, per_dispatch=2, capacity=lambda step: 128 if step == 6 else 64
    )
    progress = run(dispatches, observers=2, steps_per_epoch=4).progress
    alone = NEXT_SECONDS + TRAIN_SECONDS
    observed = alone + 2 * OBSERVER_SECONDS  # what observers take is part of the next window
    assert [window.seconds for window in progress.windows] == [alone, observed, observed, observed]
    assert [window.data_wait_seconds for window in progress.windows] == [NEXT_SECONDS] * 4
    assert sum(compilation.seconds for compilation in progress.compilations) == 300


def test_everyone_is_told_in_order() -> None:
    dispatches = planned(epochs=1, steps=3, per_dispatch=2)
    assert run(dispatches, observers=2, steps_per_epoch=3).log == [
        "compile training step 0",
        "observer 0 told of training step",
        "observer 1 told of training step",
        "train 0",
        "fetch 0",
        "observer 0 told of window 2",
        "observer 1 told of window 2",
        "train 2",
        "fetch 2",
        "observer 0 told of window 3",
        "observer 1 told of window 3",
        "evaluate 3",
        "compile evaluation 3",
        "observer 0 told of evaluation",
        "observer 1 told of evaluation",
        "observer 0 told of evaluation 3",
        "observer 1 told of evaluation 3",
        "save 3",
    ]


def test_evaluates_and_saves_at_the_end_of_every_epoch_alone() -> None:
    done = run(planned(epochs=3, steps=5, per_dispatch=2), steps_per_epoch=5)
    asked = [entry for entry in done.log if entry.startswith(("evaluate", "save"))]
    assert asked == [f"{what} {step}" for step in (5, 10, 15) for what in ("evaluate", "save")]
    assert [(e.step, e.epoch) for e in done.progress.evaluations] == [(5, 0), (10, 1), (15, 2)]
    assert [w.step for w in done.progress.windows] == [2, 4, 5, 7, 9, 10, 12, 14, 15]
    assert (done.progress.step, done.progress.interrupted) == (15, False)


def test_progress_holds_all_that_was_told() -> None:
    progress = run(planned(epochs=1, steps=2, per_dispatch=1), steps_per_epoch=2).progress
    assert [c.program for c in progress.compilations] == ["training step", "evaluation"]
    assert len(progress.windows) == 2
    assert len(progress.evaluations) == 1


@pytest.mark.parametrize(("windows", "step"), [(1, 2), (2, 4), (4, 7)])
def test_interrupted_it_saves_and_stops(windows: int, step: int) -> None:
    answers = iter([*[False] * (windows - 1), True])
    done = run(
        planned(epochs=3, steps=5, per_dispatch=2),
        steps_per_epoch=5,
        should_stop=answers.__next__,
    )
    assert done.log[-1] == f"save {step}"
    assert (done.progress.step, done.progress.interrupted) == (step, True)
    assert len(done.progress.windows) == windows
    assert next(answers, "none left") == "none left"


def test_interrupted_at_an_epochs_end_it_still_evaluates_and_saves_once() -> None:
    answers = iter([False, False, True])
    done = run(
        planned(epochs=3, steps=5, per_dispatch=2),
        steps_per_epoch=5,
        should_stop=answers.__next__,
    )
    assert [e.step for e in done.progress.evaluations] == [5]
    assert [entry for entry in done.log if entry.startswith("save")] == ["save 5"]
    assert done.progress.interrupted


@pytest.mark.parametrize(
    ("at_step", "start_step", "told"),
    [
        (3, 0, False),  # in the first epoch
        (4, 0, True),  # with the first dispatch of the second
        (9, 0, True),
        (6, 6, False),  # a resumed run's first dispatch
        (9, 6, False),  # still within an epoch's steps of where it began
        (10, 6, True),
    ],
)
def test_a_late_compilation_is_told(at_step: int, start_step: int, told: bool) -> None:
    dispatches = planned(
        epochs=3, steps=4, per_dispatch=1, capacity=lambda step: 128 if step == at_step else 64
    )
    late: list[Compilation] = []
    run(
        [dispatch for dispatch in dispatches if dispatch.step >= start_step],
        steps_per_epoch=4,
        start_step=start_step,
        on_late_compilation=late.append,
    )
    assert [compilation.step for compilation in late] == ([at_step] if told else [])


def test_a_late_compilation_may_end_the_run() -> None:
    def refuse(compilation: Compilation) -> None:
        raise RuntimeError(f"compiled at {compilation.step}")

    dispatches = planned(
        epochs=2, steps=2, per_dispatch=1, capacity=lambda step: 128 if step == 3 else 64
    )
    with pytest.raises(RuntimeError, match="compiled at 3"):
        run(dispatches, steps_per_epoch=2, on_late_compilation=refuse)


def test_resumed_it_counts_on() -> None:
    dispatches = [d for d in planned(epochs=2, steps=4, per_dispatch=2) if d.step >= 2]
    progress = run(dispatches, steps_per_epoch=4, start_step=2).progress
    assert [window.step for window in progress.windows] == [4, 6, 8]
    assert [evaluation.step for evaluation in progress.evaluations] == [4, 8]


def test_nothing_to_do() -> None:
    done = run([], steps_per_epoch=4, start_step=8)
    assert done.log == []
    assert done.progress == Progress(
        windows=(),
        evaluations=(),
        inspections=(),
        compilations=(),
        step=8,
        interrupted=False,
        divergence=None,
    )


def test_what_an_observer_raises_ends_the_run() -> None:
    class Broken(Observer):
        def on_window(self, window: Window) -> None:
            raise OSError("disk full")

    clock = Clock()
    log: list[str] = []
    dispatches = planned(epochs=1, steps=4, per_dispatch=2)
    with pytest.raises(OSError, match="disk full"):
        train(
            [(dispatch, f"batches of {dispatch.step}") for dispatch in dispatches],
            StandIn(clock, log),
            [Broken()],
            steps_per_epoch=4,
            clock=clock,
        )
    assert log == ["compile training step 0", "train 0", "fetch 0"]


def test_an_inspection_costs_no_window_any_time() -> None:
    done = run(
        planned(epochs=3, steps=2, per_dispatch=1), steps_per_epoch=2, engine={"inspects": (1,)}
    )
    assert [i.step for i in done.progress.inspections] == [4]
    after = done.log[done.log.index("observer 0 told of evaluation 4") + 1 :]
    assert after[:5] == [
        "inspect 4",
        "compile look at gradients 4",
        "observer 0 told of look at gradients",
        "observer 0 told of inspection 4",
        "save 4",
    ]
    assert max(window.seconds for window in done.progress.windows) < 20
