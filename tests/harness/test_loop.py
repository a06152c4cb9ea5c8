"""The loop with a stand-in for the engine and a clock that the test turns.

The stand-in is what the Protocol is for: everything it does takes a known time, and it writes down
what was asked of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from harness.loop import train
from harness.records import Compilation, Evaluation, Observer, Progress, StepSums, Window

NEXT_SECONDS = 3.0
TRAIN_SECONDS = 10.0
COMPILE_SECONDS = 100.0
EVALUATE_SECONDS = 1_000.0
SAVE_SECONDS = 10_000.0
OBSERVER_SECONDS = 0.5


class Clock:
    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True)
class Planned:
    epoch: int
    step: int
    num_steps: int
    examples: int
    tokens: int
    capacity: int


def planned(
    *, epochs: int, steps: int, per_dispatch: int, capacity: Callable[[int], int] = lambda _: 64
) -> list[Planned]:
    return [
        Planned(
            epoch=epoch,
            step=epoch * steps + start,
            num_steps=min(per_dispatch, steps - start),
            examples=8 * min(per_dispatch, steps - start),
            tokens=100 * min(per_dispatch, steps - start),
            capacity=capacity(epoch * steps + start),
        )
        for epoch in range(epochs)
        for start in range(0, steps, per_dispatch)
    ]


@dataclass
class StandIn:
    """An engine that takes a known time for everything; losses and hits count the steps."""

    clock: Clock
    log: list[str]
    capacities: set[int] = field(default_factory=set)
    evaluated: bool = False

    def prepare(self, dispatch: Planned, batches: str) -> Compilation | None:
        assert batches == f"batches of {dispatch.step}"
        if dispatch.capacity in self.capacities:
            return None
        self.capacities.add(dispatch.capacity)
        return self._compilation("training step", dispatch.step)

    def train(self, dispatch: Planned, batches: str) -> Planned:
        assert batches == f"batches of {dispatch.step}"
        self.log.append(f"train {dispatch.step}")
        return dispatch

    def fetch(self, sums: Planned) -> StepSums:
        self.log.append(f"fetch {sums.step}")
        self.clock.pass_seconds(TRAIN_SECONDS)
        return StepSums(
            loss=0.25 * sums.examples, hits=sums.examples / 2, skipped_steps=1, loss_scale=8.0
        )

    def evaluate(self, *, step: int, epoch: int) -> tuple[Evaluation, Compilation | None]:
        self.log.append(f"evaluate {step}")
        self.clock.pass_seconds(EVALUATE_SECONDS)
        compilation = None if self.evaluated else self._compilation("evaluation", step)
        self.evaluated = True
        evaluation = Evaluation(
            step=step, epoch=epoch, examples=40, seconds=EVALUATE_SECONDS, loss=0.5, accuracy=0.75
        )
        return evaluation, compilation

    def save(self, step: int) -> None:
        self.log.append(f"save {step}")
        self.clock.pass_seconds(SAVE_SECONDS)

    def _compilation(self, program: str, step: int) -> Compilation:
        self.log.append(f"compile {program} {step}")
        self.clock.pass_seconds(COMPILE_SECONDS)
        return Compilation(program=program, capacity=64, seconds=COMPILE_SECONDS, step=step)


@dataclass
class Listener(Observer):
    """Writes down what it is told, and takes its time over windows."""

    name: str
    clock: Clock
    log: list[str]

    def on_compilation(self, compilation: Compilation) -> None:
        self.log.append(f"{self.name} told of {compilation.program}")

    def on_window(self, window: Window) -> None:
        self.log.append(f"{self.name} told of window {window.step}")
        self.clock.pass_seconds(OBSERVER_SECONDS)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        self.log.append(f"{self.name} told of evaluation {evaluation.step}")


@dataclass
class Run:
    progress: Progress
    log: list[str]


def run(dispatches: list[Planned], *, observers: int = 1, **settings: Any) -> Run:
    clock = Clock()
    log: list[str] = []

    def stream() -> Iterator[tuple[Planned, str]]:
        for dispatch in dispatches:
            clock.pass_seconds(NEXT_SECONDS)
            yield dispatch, f"batches of {dispatch.step}"

    listeners = [Listener(f"observer {index}", clock, log) for index in range(observers)]
    progress = train(stream(), StandIn(clock, log), listeners, clock=clock, **settings)
    return Run(progress=progress, log=log)


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
        windows=(), evaluations=(), compilations=(), step=8, interrupted=False
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


def test_a_loss_that_is_no_number_is_told_once() -> None:
    class Diverging(StandIn):
        def fetch(self, sums: Planned) -> StepSums:
            loss = float("nan") if sums.step >= 2 else 1.0
            return StepSums(loss=loss, hits=0.0, skipped_steps=0, loss_scale=None)

    warnings: list[str] = []

    class Warned(Observer):
        def on_warning(self, message: str) -> None:
            warnings.append(message)

    dispatches = planned(epochs=1, steps=6, per_dispatch=1)
    train(
        [(dispatch, f"batches of {dispatch.step}") for dispatch in dispatches],
        Diverging(clock=Clock(), log=[]),
        [Warned()],
        steps_per_epoch=6,
    )
    assert warnings == ["the loss is nan from step 3 on"]
