"""Divergences, epochs and telemetry, as the loop reports them."""

import dataclasses
import math
from typing import Any, ClassVar

import pytest

from harness.run.history import History
from harness.run.records import (
    Message,
    Spread,
    StepSums,
)
from harness.run.telemetry.recorder import TelemetryRecorder, TelemetryTotals
from harness.trainer.loop import train
from tests.harness.run.observers.samples import evaluation
from tests.harness.stand_in import Clock, StandIn, planned, run


def losses_are(*steps: int) -> dict[str, Any]:
    """Returns the arguments of programs whose loss is not a number in the dispatches that begin
    with these steps."""
    return {"lost": lambda step: step in steps}


def test_a_loss_that_recovers_is_no_divergence() -> None:
    # Overflow in float16, whose step was skipped: the weights are good, as the evaluation tells.
    done = run(
        planned(epochs=2, steps=2, per_dispatch=1), steps_per_epoch=2, programs=losses_are(1)
    )
    assert [entry for entry in done.log if entry.startswith("save")] == ["save 2", "save 4"]
    assert len([entry for entry in done.log if "told: " in entry]) == 1
    assert done.progress.divergence is None


@pytest.mark.parametrize("stop_at_nan", [True, False])
def test_the_held_out_rows_tell_as_well(stop_at_nan: bool) -> None:
    # The last update of the epoch spoiled the weights: no window knows yet.
    done = run(
        planned(epochs=2, steps=2, per_dispatch=1),
        steps_per_epoch=2,
        stop_at_nan=stop_at_nan,
        programs={"spoiled": lambda step: step == 2},
    )
    assert "save 2" not in done.log
    if stop_at_nan:
        assert done.progress.step == 2
        assert done.progress.divergence is not None
        assert done.progress.divergence.what == "validation loss"
    else:
        assert "observer 0 told: the validation loss is inf from step 2 on" in done.log
        assert done.progress.divergence is None, "the next window was finite"


def test_a_run_may_resume_with_an_evaluation_that_diverges() -> None:
    history = History((), start_step=80)
    history.epoch(0, evaluation(80, loss=math.nan), [])
    found = history.progress.divergence
    assert found is not None
    assert (found.first_step, found.last_step, found.saved_step) == (80, 80, 80)


def test_epochs_have_means_over_their_rows() -> None:
    # Windows of 2, 2 and 1 steps: the loss is the share of the steps done at the window's start.
    class Programs(StandIn):
        def trained(self, dispatch: Any, batches: str) -> StepSums:
            loss = dispatch.examples * dispatch.step / 10
            return dataclasses.replace(super().trained(dispatch, batches), loss=loss)

    clock = Clock()
    dispatches = planned(epochs=2, steps=5, per_dispatch=2)
    progress = train(
        [(dispatch, f"batches of {dispatch.step}") for dispatch in dispatches],
        Programs(clock, []),
        History([]),
        steps_per_epoch=5,
        clock=clock,
    )
    first, second = progress.epochs
    assert (first.epoch, first.step, first.metrics) == (0, 5, {"accuracy": 0.5})
    assert first.loss == pytest.approx((2 * 0.0 + 2 * 0.2 + 1 * 0.4) / 5)
    assert second.loss == pytest.approx((2 * 0.5 + 2 * 0.7 + 1 * 0.9) / 5)
    assert second.evaluation is not None
    assert (second.evaluation.step, second.evaluation.loss) == (10, 0.5)


def test_telemetry_is_joined_with_windows_and_its_messages_are_passed_on() -> None:
    spread = Spread(mean=1.0, min=1.0, max=1.0, num_samples=1)

    class Scripted(TelemetryRecorder):
        asked: ClassVar[list[tuple[float, float]]] = []
        pending: ClassVar = [Message(kind="warning", text="hot")]

        def window(self, start: float, end: float) -> dict[str, Spread]:
            self.asked.append((start, end))
            return {"host/cpu_percent": spread} if len(self.asked) == 2 else {}

        def messages(self) -> list[Message]:
            taken = list(self.pending)
            self.pending.clear()
            return taken

        def finish(self) -> TelemetryTotals:
            self.pending.append(Message(kind="warning", text="left behind"))
            return TelemetryTotals(num_gpus=2, joules=3.0)

    telemetry = Scripted(hz=0.0, bus_ids=())
    done = run(planned(epochs=1, steps=4, per_dispatch=2), steps_per_epoch=4, telemetry=telemetry)
    assert [window.telemetry for window in done.windows] == [{}, {"host/cpu_percent": spread}]
    ends = [window.ended_at_seconds for window in done.windows]
    seconds = [window.seconds for window in done.windows]
    assert telemetry.asked == [(end - s, end) for end, s in zip(ends, seconds, strict=True)]
    assert done.log[:2] == ["compile training step 0", "observer 0 told: hot"]
    assert done.log[-1] == "observer 0 told: left behind"
    assert done.progress.telemetry == TelemetryTotals(num_gpus=2, joules=3.0)
