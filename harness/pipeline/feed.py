"""What feeds the compiled loop, whichever way: each dispatch with the batches of every replica."""

from collections.abc import Iterable, Sequence

from harness.data.ragged import RaggedSets
from harness.pipeline.batch import AnyBatches
from harness.pipeline.cadence import StepsPerDispatch
from harness.pipeline.plan import Dispatch, Plan
from harness.pipeline.resident import Resident
from harness.pipeline.stream import Stream

Feed = Iterable[tuple[Dispatch, Sequence[AnyBatches]]]
"""Iterated from the beginning each time. `Stream` and `Resident` are feeds."""


def build_feed(
    kind: str,
    sets: RaggedSets,
    plan: Plan,
    *,
    devices: Sequence[str],
    implementation: str,
    steps: StepsPerDispatch | None = None,
    epochs: int = 1,
    start_step: int = 0,
) -> Feed:
    """The feed that `--input` names: `stream` or `resident`.

    Args:
        kind: its name.
        sets: the rows.
        plan: how they are divided.
        devices: one name for each replica.
        implementation: of the multi-hot product, and so of reading resident rows.
        steps: how many steps a resident dispatch holds; None leaves it to the plan. A stream's
            dispatches are prepared ahead, as the plan says.
        epochs: passes over the rows, counted from the first.
        start_step: optimizer steps to leave out, as done by the run that this one resumes.
    """
    if kind == "stream":
        return Stream(sets, plan, epochs=epochs, start_step=start_step)
    assert kind == "resident", kind
    return Resident(
        sets,
        plan,
        devices=devices,
        implementation=implementation,
        steps=steps,
        epochs=epochs,
        start_step=start_step,
    )
