"""The stages of a command's wall time."""

import time

import pytest

from harness.base.timeline import Timeline


def test_the_stages_add_up_to_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 100.75, 102.75, 102.75])
    monkeypatch.setattr(time, "perf_counter", times.__next__)
    timeline = Timeline()
    timeline.mark("imports")
    timeline.mark("the rest", compilation=0.5, training=1.0)
    assert list(timeline.stages.items()) == [
        ("imports", 0.75),
        ("compilation", 0.5),
        ("training", 1.0),
        ("the rest", 0.5),
    ]
    assert timeline.elapsed_seconds == 2.75
