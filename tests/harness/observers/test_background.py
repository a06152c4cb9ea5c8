"""Observers in the background: every record arrives, in order, and failures end the run."""

import inspect
import threading
from pathlib import Path
from typing import Any

import pytest

from harness.background import Background
from harness.loop import train
from harness.observers.background import BackgroundObserver
from harness.records import Observer, Window
from tests.harness.observers.samples import run_start, window
from tests.harness.stand_in import Clock, StandIn, planned

RECORDS = [name for name in vars(Observer) if name.startswith("on_")]


class Recorder(Observer):
    """Writes down whatever it is told, and by which thread."""

    def __init__(self, name: str, log: list[tuple[str, str, Any, int]]) -> None:
        for method in [*RECORDS, "close"]:
            setattr(self, method, self._recording(method))
        self._name = name
        self._log = log

    def _recording(self, method: str) -> Any:
        return lambda record=None: self._log.append(
            (self._name, method, record, threading.get_ident())
        )


def test_every_record_arrives_in_order() -> None:
    log: list[tuple[str, str, Any, int]] = []
    background = Background()
    aside = BackgroundObserver([Recorder("one", log), Recorder("other", log)], background)
    told = ["on_start", *(name for name in RECORDS if name not in ("on_start", "on_end")), "on_end"]
    with background:
        for method in told:
            getattr(aside, method)(f"a record for {method}")
    aside.close()
    assert [entry[:3] for entry in log] == [
        *((name, m, f"a record for {m}") for m in told for name in ("one", "other")),
        ("other", "close", None),
        ("one", "close", None),
    ]
    own = {"on_start", "on_end", "close"}
    here = {method for _, method, _, thread in log if thread == threading.get_ident()}
    assert here == own
    assert len({thread for *_, thread in log}) == 2


def test_no_kind_of_record_is_forgotten() -> None:
    public = {name for name, _ in inspect.getmembers(Observer, inspect.isfunction)}
    own = {name for name in vars(BackgroundObserver) if not name.startswith("_")}
    assert own == {name for name in public if not name.startswith("_")}


def test_the_next_dispatch_is_trained_while_a_window_is_told() -> None:
    """The observer of the first window waits until the second has been trained."""
    trained = threading.Event()
    told: list[int] = []

    class Engine(StandIn):
        def fetch(self, sums: Any) -> Any:
            if sums.step == 2:
                trained.set()
            return super().fetch(sums)

    class Slow(Observer):
        def on_window(self, window: Window) -> None:
            assert trained.wait(30), "the loop waited for its observer"
            told.append(window.step)

    clock = Clock()
    dispatches = planned(epochs=1, steps=4, per_dispatch=2)
    with Background() as background:
        train(
            [(dispatch, f"batches of {dispatch.step}") for dispatch in dispatches],
            Engine(clock, []),
            [BackgroundObserver([Slow()], background)],
            steps_per_epoch=4,
            clock=clock,
        )
    assert told == [2, 4]


def test_what_one_raises_ends_the_run_and_closes_all(tmp_path: Path) -> None:
    class Full(Observer):
        def on_window(self, window: Window) -> None:
            raise OSError("disk full")

    log: list[tuple[str, str, Any, int]] = []
    with Background() as background:
        aside = BackgroundObserver([Full(), Recorder("other", log)], background)
        aside.on_start(run_start(tmp_path))
        aside.on_window(window(20))
        with pytest.raises(OSError, match="disk full"):
            background.wait()
    aside.close()
    assert [entry[:2] for entry in log] == [("other", "on_start"), ("other", "close")]
