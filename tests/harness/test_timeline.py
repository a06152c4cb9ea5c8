"""Where a command's wall time goes."""

import pytest

from harness.timeline import Stage, Timeline


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_stages_add_up_to_all_the_time() -> None:
    clock = Clock()
    timeline = Timeline(clock=clock)
    clock.now += 0.75
    timeline.mark("imports")
    clock.now += 2.0
    timeline.mark("run")
    assert timeline.stages == (
        Stage(name="imports", seconds=0.75),
        Stage(name="run", seconds=2.0),
    )
    assert timeline.elapsed_seconds == 2.75


def test_a_stage_can_be_divided_and_nothing_is_lost() -> None:
    clock = Clock()
    timeline = Timeline(clock=clock)
    clock.now += 2.0
    timeline.mark("run")
    timeline.divide({"compilation": 0.5, "training": 1.0}, rest="the rest")
    assert [stage.name for stage in timeline.stages] == ["compilation", "training", "the rest"]
    assert sum(stage.seconds for stage in timeline.stages) == pytest.approx(2.0)
