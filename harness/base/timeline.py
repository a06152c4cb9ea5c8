"""Divides a command's wall time into successive stages, without gaps."""

import time


class Timeline:
    """Stages in order. A mark ends a stage, and starts the next; the timeline starts the first."""

    def __init__(self) -> None:
        self._began = self._marked = time.perf_counter()
        self.stages: dict[str, float] = {}  # seconds of the stages so far, by name

    @property
    def elapsed_seconds(self) -> float:
        return time.perf_counter() - self._began

    def mark(self, name: str, **parts: float) -> None:
        """Ends a stage, called `name`; `parts` are stages whose seconds are taken out of it."""
        now = time.perf_counter()
        self.stages |= {**parts, name: now - self._marked - sum(parts.values())}
        self._marked = now
