"""The steps and times at which a checkpoint is due."""

from dataclasses import replace

import pytest

from harness.base.errors import InputError
from harness.run.checkpoint_schedule import CheckpointSchedule
from harness.trainer.settings import RunOptions


def test_what_may_be_asked_for() -> None:
    assert CheckpointSchedule.of("epoch") == CheckpointSchedule()
    assert (
        CheckpointSchedule.of(500) == CheckpointSchedule.of("500") == CheckpointSchedule(steps=500)
    )
    for text, seconds in (("5s", 5.0), ("1.5m", 90.0), ("2h", 7200.0)):
        assert CheckpointSchedule.of(text) == CheckpointSchedule(seconds=seconds)
    for wrong in ("", "0", "-1", "0s", "often", "5d", "m", "epochs", "1e3", True):
        with pytest.raises(InputError, match="--checkpoint-every is"):
            RunOptions(checkpoint_every=wrong)
    with pytest.raises(InputError, match="--keep is 0; it must be a whole number from 1"):
        RunOptions(keep=0)


def saved(
    saving: CheckpointSchedule,
    *,
    steps: int,
    every_seconds: float = 0.0,
    epoch: int = 10,
    start_step: int = 0,
) -> list[int]:
    """Returns the steps after which a checkpoint is saved, with dispatches of 3 steps."""
    saving.saved(start_step, now=(now := 100.0))
    found = []
    for step in range(3, steps + 1, 3):
        now += every_seconds
        due = saving.decide(step, now=now, at_epoch_end=step % epoch == 0)
        if due:
            saving.saved(step, now=now)
            found.append(step)
    return found


def test_by_epochs_steps_and_time() -> None:
    assert saved(CheckpointSchedule(), steps=60) == [30, 60]
    # After the dispatch in which the 10th, 20th ... step is done; counted from the first step.
    assert saved(CheckpointSchedule(steps=10), steps=42) == [12, 21, 30, 42]
    assert saved(CheckpointSchedule(steps=10), steps=18, start_step=12) == []
    assert saved(CheckpointSchedule(steps=2), steps=9) == [3, 6, 9]
    assert saved(CheckpointSchedule(seconds=5), steps=24, every_seconds=2.0) == [9, 18]


def test_one_that_is_due_waits_for_the_one_before_but_at_an_epochs_end() -> None:
    for every, expected in (
        (CheckpointSchedule(steps=3), [9, 12]),
        (CheckpointSchedule(seconds=1), [9, 12]),
        (CheckpointSchedule(), [6, 12]),
    ):
        answers = iter([True, True, False, False])
        saving = replace(every, is_busy=answers.__next__)
        assert saved(saving, steps=12, every_seconds=1.0, epoch=6) == expected


def test_the_chief_decides() -> None:
    saving = CheckpointSchedule(decided=lambda own: not own)
    assert not saving.decide(3, now=1.0, at_epoch_end=True)
