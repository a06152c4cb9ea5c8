"""Stretches of training that are long enough to time.

A dispatch may take less than a millisecond, or have few rows. Its rate alone says more of the clock
and of the host than of the training. So rates are sums of examples over sums of seconds, over
consecutive windows that together took at least `LEAST_SECONDS`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from harness.run.records import Rates, Stretch

LEAST_SECONDS = 0.05  # so short that the machine's pace hardly changes within
_SUMMED = ("examples", "tokens", "seconds", "data_wait_seconds")


class Stretches:
    """Joins windows into stretches, one window at a time."""

    def __init__(self) -> None:
        self.rest: Stretch | None = None  # the windows after the last stretch; None without any

    def add(self, window: Rates) -> Stretch | None:
        """Returns the stretch that a window completes; None if more windows are needed."""
        stretch = joined(self.rest, window)
        self.rest = None if stretch.seconds >= LEAST_SECONDS else stretch
        return None if self.rest else stretch


def joined(before: Rates | None, after: Rates) -> Stretch:
    """Returns the sums over two neighbours in time; `before` may be missing."""
    sums = {n: getattr(after, n) + (getattr(before, n) if before else 0) for n in _SUMMED}
    return Stretch(step=after.step, epoch=after.epoch, batch_size=after.batch_size, **sums)


def stretches_of(windows: Iterable[Mapping[str, Any]], *, batch_size: int) -> list[Stretch]:
    """Returns the stretches of consecutive windows, which are mappings as in metrics.jsonl or in
    the messages of a measured process. `step`, `epoch` and `tokens` are 0 where a window lacks
    them. A remainder that is too short belongs to the stretch before it."""
    names = ("step", "epoch", *_SUMMED)
    adding, found = Stretches(), []
    for window in windows:
        rates = Stretch(batch_size=batch_size, **{name: window.get(name, 0) for name in names})
        if stretch := adding.add(rates):
            found.append(stretch)
    if adding.rest is not None:
        found = [*found[:-1], joined(found[-1] if found else None, adding.rest)]
    return found
