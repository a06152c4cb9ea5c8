"""Where a command's wall time goes: one stage after another, none left out."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of a command's time."""

    name: str
    seconds: float


class Timeline:
    """Stages in order; each mark ends the stage that began with the mark before, the first with the
    timeline itself."""

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` gives seconds, rising."""
        self._clock = clock
        self._began = self._marked = clock()
        self._stages: list[Stage] = []

    @property
    def elapsed_seconds(self) -> float:
        """Since it began."""
        return self._clock() - self._began

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What was marked so far."""
        return tuple(self._stages)

    def mark(self, name: str) -> None:
        """Ends a stage, called `name`."""
        now = self._clock()
        self._stages.append(Stage(name=name, seconds=now - self._marked))
        self._marked = now

    def divide(self, parts: dict[str, float], *, rest: str) -> None:
        """Replaces the last stage by parts of it, in seconds, and what is left as `rest`."""
        last = self._stages.pop()
        self._stages += [Stage(name=name, seconds=seconds) for name, seconds in parts.items()]
        self._stages.append(Stage(name=rest, seconds=last.seconds - sum(parts.values())))
