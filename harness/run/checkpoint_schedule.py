"""The times at which a run saves a checkpoint: after every epoch, after a number of steps, or after
a time; and the checkpoints in a folder."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.checks import require, require_count

_NAME = re.compile(r"ckpt-(\d+)\.npz")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(kw_only=True)
class CheckpointSchedule:
    """Says after which dispatches a checkpoint is due: every so many steps or seconds, or without
    either at the end of every epoch."""

    steps: int | None = None
    seconds: float | None = None
    is_busy: Callable[[], bool] = bool  # whether the last one is still being written: never
    decided: Callable[[bool], bool] = bool  # makes the chief's decision of ours

    @classmethod
    def of(cls, text: int | str, **how: Any) -> "CheckpointSchedule":
        """Parses the value of --checkpoint-every: `epoch`, a number of steps as in 500, or a time
        as in 30s, 10m or 1h."""
        name = "--checkpoint-every"
        if isinstance(text, int) or text.isdecimal():
            steps = int(text) if isinstance(text, str) else text
            require_count(name, steps)
            return cls(steps=steps, **how)
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
        require(
            text == "epoch" or found is not None,
            f"{name} is {text!r}; give epoch, a number of steps as in 500, or a time as in 30s, "
            "10m or 1h",
        )
        if found is None:
            return cls(**how)
        seconds = float(found[1]) * _UNITS[found[2]]
        require(seconds > 0, f"{name} is {text!r}; give a time above 0")
        return cls(seconds=seconds, **how)

    def decide(self, step: int, *, now: float, at_epoch_end: bool, force: bool = False) -> bool:
        """Returns whether to save a checkpoint after `step` steps."""
        due = at_epoch_end
        if self.steps is not None:
            due = step // self.steps > self._last_step // self.steps and not self.is_busy()
        elif self.seconds is not None:
            due = now - self._last_seconds >= self.seconds and not self.is_busy()
        return self.decided(force or due)

    def saved(self, step: int, *, now: float) -> None:
        """Notes when the last checkpoint was saved, or where the run starts."""
        self._last_step, self._last_seconds = step, now


def saved_in(folder: Path) -> list[Path]:
    """Returns a folder's checkpoints, the newest last."""
    return sorted((p for p in folder.glob("*.npz") if _NAME.fullmatch(p.name)), key=step_of)


def step_of(path: Path) -> int:
    return int(path.stem.partition("-")[2])
