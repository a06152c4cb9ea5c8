"""A stand-in for the programs and a clock that the test sets, for tests of the loop.

Everything that the stand-in does takes a known time, and it records its calls.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.run.history import History, Progress
from harness.run.records import (
    Compilation,
    Epoch,
    Evaluation,
    Inspection,
    Message,
    Observer,
    Record,
    StepSums,
    Window,
)
from harness.trainer.loop import train

NEXT_SECONDS = 3.0
TRAIN_SECONDS = 10.0
COMPILE_SECONDS = 100.0
"""The seconds to compile a program."""
EVALUATE_SECONDS = 1_000.0
SAVE_SECONDS = 10_000.0
INSPECT_SECONDS = 100_000.0
OBSERVER_SECONDS = 0.5
_OF_HISTORY = {"telemetry", "running", "start_step", "stop_at_nan", "before"}
"""Settings of a run that its `History` takes."""


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
    batch_size: int
    examples: int
    tokens: int
    capacities: frozenset[int]
    """The capacities of the dispatch's calls."""


def planned(
    *,
    epochs: int,
    steps: int,
    per_dispatch: int,
    capacities: Callable[[int], Collection[int]] = lambda _: {64},
) -> list[Planned]:
    return [
        Planned(
            epoch=epoch,
            step=epoch * steps + start,
            num_steps=min(per_dispatch, steps - start),
            batch_size=8,
            examples=8 * min(per_dispatch, steps - start),
            tokens=100 * min(per_dispatch, steps - start),
            capacities=frozenset(capacities(epoch * steps + start)),
        )
        for epoch in range(epochs)
        for start in range(0, steps, per_dispatch)
    ]


@dataclass
class StandIn:
    """A training whose programs take a known time for everything; their losses count the steps."""

    clock: Clock
    log: list[str]
    capacities: set[int] = field(default_factory=set)
    evaluated: bool = False
    inspects: tuple[int, ...] = ()
    """Epochs at whose end there is an inspection."""
    lost: Callable[[int], bool] = lambda step: False
    """Whether the loss of the dispatch that begins with the step is not a number."""
    spoiled: Callable[[int], bool] = lambda step: False
    """Whether a weight is not finite after the step."""
    validation_loss: Callable[[int], float] = lambda step: 0.5
    """The loss of the evaluation after the step."""
    num_epochs: int = 1
    """The number of dispatches to train by one host sync."""
    inspections: None = None

    @property
    def programs(self) -> "StandIn":
        return self

    @property
    def cadence(self) -> "StandIn":
        return self

    def prepare(self, dispatch: Planned, batches: str) -> list[Compilation]:
        assert batches == f"batches of {dispatch.step}"
        missing = dispatch.capacities - self.capacities
        self.capacities |= missing
        return [
            self._compilation("training step", dispatch.step, capacity)
            for capacity in sorted(missing)
        ]

    def train(self, parts: Sequence[tuple[Planned, str]]) -> list[StepSums]:
        return [self.trained(*part) for part in parts]

    def trained(self, dispatch: Planned, batches: str) -> StepSums:
        assert batches == f"batches of {dispatch.step}"
        self.log.append(f"train {dispatch.step}")
        self.clock.pass_seconds(TRAIN_SECONDS)
        loss = math.nan if self.lost(dispatch.step) else 0.25 * dispatch.examples
        return StepSums(loss=loss, metrics={"accuracy": 0.5}, skipped_steps=1, loss_scale=8.0)

    def take_unused(self) -> list[str]:
        return []

    def after(self, num_steps: int, seconds: float) -> None:
        """Does nothing: the length of the dispatches is given."""

    def evaluate(self, *, step: int, epoch: int) -> tuple[Evaluation, list[Compilation]]:
        self.log.append(f"evaluate {step}")
        self.clock.pass_seconds(EVALUATE_SECONDS)
        compilations = [] if self.evaluated else [self._compilation("evaluation", step)]
        self.evaluated = True
        evaluation = Evaluation(
            step=step,
            epoch=epoch,
            examples=40,
            seconds=EVALUATE_SECONDS,
            loss=math.inf if self.spoiled(step) else self.validation_loss(step),
            metrics={"accuracy": 0.75},
        )
        return evaluation, compilations

    def inspect(
        self, dispatch: Planned, batches: str, looks: None
    ) -> tuple[Inspection | None, list[Compilation]]:
        assert batches == f"batches of {dispatch.step}"
        if dispatch.epoch not in self.inspects:
            return None, []
        step = dispatch.step + dispatch.num_steps
        self.log.append(f"inspect {step}")
        self.clock.pass_seconds(INSPECT_SECONDS)
        inspection = Inspection(
            step=step,
            epoch=dispatch.epoch,
            seconds=INSPECT_SECONDS,
            gradient_norm=1.0,
            non_finite_fraction=0.0,
        )
        return inspection, [self._compilation("look at gradients", step)]

    def save(self, history: History) -> None:
        step = history.progress.step
        spoiled = self.spoiled(step)
        self.log.append(f"{'not saved' if spoiled else 'save'} {step}")
        if not spoiled:
            self.clock.pass_seconds(SAVE_SECONDS)
        history.saved(not spoiled)

    def _compilation(self, program: str, step: int, capacity: int = 64) -> Compilation:
        self.log.append(f"compile {program} {step}")
        self.clock.pass_seconds(COMPILE_SECONDS)
        return Compilation(program=program, capacity=capacity, seconds=COMPILE_SECONDS, step=step)


@dataclass
class Listener(Observer):
    """Records what it is passed, and takes a known time for windows."""

    name: str
    clock: Clock
    log: list[str]
    windows: list[Window] = field(default_factory=list)

    def tell(self, record: Record) -> None:
        match record:
            case Compilation(program=program):
                self.log.append(f"{self.name} told of {program}")
            case Window(step=step):
                self.windows.append(record)
                self.log.append(f"{self.name} told of window {step}")
                self.clock.pass_seconds(OBSERVER_SECONDS)
            case Epoch(epoch=number):
                self.log.append(f"{self.name} told of epoch {number}")
            case Inspection(step=step):
                self.log.append(f"{self.name} told of inspection {step}")
            case Message(text=text):
                self.log.append(f"{self.name} told: {text}")


@dataclass
class Run:
    progress: Progress
    windows: list[Window]
    log: list[str]


def run(
    dispatches: list[Planned],
    *,
    observers: int = 1,
    programs: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Run:
    clock = Clock()
    log: list[str] = []

    def stream() -> Iterator[tuple[Planned, str]]:
        for dispatch in dispatches:
            clock.pass_seconds(NEXT_SECONDS)
            yield dispatch, f"batches of {dispatch.step}"

    listeners = [Listener(f"observer {index}", clock, log) for index in range(observers)]
    stand_in = StandIn(clock, log, **(programs or {}))
    of_history = {name: settings.pop(name) for name in _OF_HISTORY & settings.keys()}
    history = History(listeners, **of_history)
    progress = train(stream(), stand_in, history, clock=clock, **settings)
    return Run(progress=progress, windows=listeners[0].windows, log=log)
