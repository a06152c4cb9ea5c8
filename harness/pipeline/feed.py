"""What feeds the compiled programs: each dispatch with the batches of all devices."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from harness.data.examples import Examples
from harness.pipeline.batch import AnyBatches, Columns
from harness.pipeline.plan import Dispatch, Plan
from harness.pipeline.resident import Resident
from harness.pipeline.stream import Stream

Dispatches = Iterator[tuple[Dispatch, Sequence[AnyBatches]]]


class Feed(Protocol):
    """Rows, ready to be divided by plans. `Stream` and `Resident` are feeds."""

    def dispatches(
        self,
        plan: Plan,
        *,
        epochs: int = 1,
        start_step: int = 0,
        calls: Callable[[], int] | None = None,
    ) -> Dispatches:
        """Every dispatch of a plan with the batches of all devices, in order.

        Args:
            plan: how the rows are divided.
            epochs: passes over the rows, counted from the first.
            start_step: optimizer steps to leave out, as done before.
            calls: asked how many calls the next dispatch makes, up to the epoch's end; None: the
                whole epoch. A stream's dispatches are prepared ahead, one call each.
        """


def build_feed(kind: str, examples: Examples, *, devices: Sequence[str]) -> Feed:
    """The feed that `--input` names, `stream` or `resident`, for devices of these names."""
    columns = Columns.of(examples)
    if kind == "stream":
        return Stream(columns, devices=devices)
    assert kind == "resident", kind
    return Resident(columns, devices=devices)
