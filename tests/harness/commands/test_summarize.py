"""What summary.json says of what the loop saw."""

from pathlib import Path

from harness.commands.summarize import summarize
from harness.records import Progress, Window
from harness.telemetry.observer import MachineUse
from tests.harness.observers.samples import run_start, window


def progress(*windows: Window) -> Progress:
    return Progress(
        windows=windows,
        evaluations=(),
        inspections=(),
        compilations=(),
        step=windows[-1].step,
        interrupted=False,
        divergence=None,
    )


def test_steps_per_dispatch_are_the_most_that_there_were(tmp_path: Path) -> None:
    start, use = run_start(tmp_path), MachineUse(joules=None, num_gpus=0)
    assert start.steps_per_dispatch.name == "20"
    grown = progress(window(20), window(70, num_steps=50), window(80, num_steps=10))
    assert summarize(start, grown, use).steps_per_dispatch == 50
    rest = progress(window(160, num_steps=5))  # of a run that is resumed near its end
    assert summarize(start, rest, use).steps_per_dispatch == 20
