"""Where a command's wall time goes: one stage after another, none left out."""

import time


class Timeline:
    """Stages in order; each mark ends the stage that began with the mark before, the first with the
    timeline itself."""

    def __init__(self) -> None:
        self._began = self._marked = time.perf_counter()
        self.stages: dict[str, float] = {}
        """Seconds of what was marked so far, by name."""

    @property
    def elapsed_seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self._began

    def mark(self, name: str, **parts: float) -> None:
        """Ends a stage, called `name`: its seconds are what is left of it beside `parts`."""
        now = time.perf_counter()
        self.stages |= {**parts, name: now - self._marked - sum(parts.values())}
        self._marked = now
