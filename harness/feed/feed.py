"""Feeds the compiled programs: yields each dispatch with the batches of all devices, by their size.

Both classes of feeds (`mapped` is a `Stream` that reads from files) have `dispatches(plan,
epochs=1, start_step=0, calls=None, at_once=...)`, which yields every dispatch of a plan in order:

- `epochs`: passes over the rows, counted from the first.
- `start_step`: optimizer steps to leave out, because they were done before.
- `calls`: returns how many calls the next dispatch makes, up to the epoch's end; None means the
  whole epoch. A stream ignores it, as its dispatches are prepared ahead: one call each, plus the
  last batch.
- `at_once`: returns how many epochs to prepare together, so that no copy of row ids has to wait for
  a device between them. A stream ignores it as well.
"""

from collections.abc import Iterator, Sequence

from harness.data.examples import Examples
from harness.feed.batch import BatchesByRows, Columns
from harness.feed.plan import Dispatch
from harness.feed.resident import Resident
from harness.feed.stream import Stream

Dispatches = Iterator[tuple[Dispatch, BatchesByRows]]
Feed = Stream | Resident


def build_feed(
    kind: str, examples: Examples, *, devices: Sequence[str], shares_programs: bool = False
) -> Feed:
    """Returns the feed that `--input` names, `stream`, `mapped` or `resident`, for some devices;
    for `Plan.shares_programs`, see `Resident`."""
    columns = Columns.of(examples)
    if kind == "resident":
        return Resident(columns, devices=devices, shares_programs=shares_programs)
    return Stream(columns, devices=devices, mapped=kind == "mapped")
