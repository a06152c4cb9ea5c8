"""Telemetry of a run: samples joined with windows, energy, messages."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.run.records import Spread
from harness.run.telemetry import recorder as module
from harness.run.telemetry.nvml import Read, Tell
from harness.run.telemetry.recorder import Source, TelemetryRecorder

PATIENCE_SECONDS = 120.0


def played(*samples: tuple[float, dict[str, float]], num_gpus: int) -> TelemetryRecorder:
    """Returns a recorder of GPUs that gets these samples."""
    recorder = TelemetryRecorder(hz=0.0, bus_ids=[f"0000:0{n}:00.0" for n in range(num_gpus)])
    recorder._samples.extend(samples)
    return recorder


def test_a_window_has_the_samples_of_its_time() -> None:
    samples = [(float(t), {"a": 10.0 * t, **({"b": 1.0} if t == 3 else {})}) for t in range(8)]
    recorder = played(*samples, num_gpus=0)
    assert recorder.window(1.0, 4.0) == {
        "a": Spread(mean=30.0, min=20.0, max=40.0, num_samples=3),
        "b": Spread(mean=1.0, min=1.0, max=1.0, num_samples=1),
    }
    assert recorder.window(4.0, 4.5) == {}
    assert recorder.window(5.5, 6.5)["a"].mean == 60.0


TIMES = st.lists(st.integers(0, 640), min_size=2, max_size=20, unique=True).map(
    lambda ticks: [tick / 64 for tick in sorted(ticks)]
)


@given(TIMES, TIMES, st.tuples(st.floats(0.0, 1000.0), st.floats(0.0, 1000.0)))
def test_energy_is_power_times_the_time_of_the_windows(
    edges: list[float], read_at: list[float], watts: tuple[float, float]
) -> None:
    values = {f"gpu/{gpu}/power_watts": watts[gpu] for gpu in range(2)}
    recorder = played(*((t, values) for t in [-1.0, *read_at]), num_gpus=2)
    windows = list(itertools.pairwise(edges))[::2]
    for start, end in windows:
        recorder.window(start, end)
    train_seconds = sum(end - start for start, end in windows)
    totals = recorder.finish()
    assert (totals.num_gpus, totals.joules) == (2, pytest.approx(sum(watts) * train_seconds))
    # The samples between windows count in no mean.
    inside = sum(any(start < t <= end for start, end in windows) for t in read_at)
    spreads = [totals.spreads.get(f"gpu/{gpu}/power_watts") for gpu in range(2)]
    assert [spread.num_samples if spread else 0 for spread in spreads] == [inside] * 2
    if inside:
        assert [gpu["power_watts"] for gpu in totals.gpus] == pytest.approx(watts)


def test_power_that_was_first_known_after_a_window_stands_for_it() -> None:
    recorder = played((1.5, {"gpu/0/power_watts": 100.0}), num_gpus=1)
    recorder.window(0.0, 1.0)
    recorder.window(1.0, 3.0)
    assert recorder.finish().joules == pytest.approx(300.0)


def test_energy_that_is_not_known_is_none() -> None:
    power = {"gpu/0/power_watts": 100.0}
    for samples in ([], [(0.5, power)], [(0.5, power | {"gpu/1/temperature_celsius": 40.0})]):
        recorder = played(*samples, num_gpus=2)
        recorder.window(0.0, 1.0)
        totals = recorder.finish()
        assert (totals.num_gpus, totals.joules) == (2, None)
    assert played((0.5, power), num_gpus=1).finish().joules is None, "no window"


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def test_a_window_has_the_samples_of_the_host_from_its_time_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with TelemetryRecorder(hz=100.0, bus_ids=()) as telemetry:
        began = time.perf_counter()
        assert telemetry.window(began - 1e-9, began) == {}, "no sample is complete in no time"
        found = {}

        def sampled() -> bool:
            nonlocal found, began
            now = time.perf_counter()
            found = telemetry.window(began, now)
            began = now
            return "host/cpu_percent" in found

        wait_until(sampled)
        assert found["host/rss_bytes"].min > 1e6
        assert found["host/rss_bytes"].num_samples >= 1
        assert telemetry.finish().joules is None
        assert list(telemetry.messages()) == []


def source_of(read: Read, *, on_close: Callable[[], None] = lambda: None) -> Source:
    @contextlib.contextmanager
    def source(tell: Tell) -> Iterator[Read]:
        tell("note", "opened")
        yield read
        on_close()

    return source


def test_the_thread_samples_in_order_and_takes_a_last_sample_when_it_is_stopped() -> None:
    numbers = itertools.count()
    threads = set()

    def read() -> dict[str, float]:
        threads.add(threading.current_thread())
        return {"number": float(next(numbers))}

    closed: list[bool] = []
    source = source_of(read, on_close=lambda: closed.append(True))
    with TelemetryRecorder(hz=0.01, bus_ids=(), source=source) as telemetry:
        wait_until(lambda: len(telemetry._samples) == 1)
    taken = list(telemetry._samples)
    assert [values["number"] for _, values in taken] == [0, 1]  # without waiting for its turn
    assert taken[0][0] < taken[1][0] < time.perf_counter()
    assert threading.current_thread() not in threads
    assert [message.text for message in telemetry.messages()] == ["opened"]
    assert list(telemetry.messages()) == []
    assert closed == [True]


def test_the_thread_samples_as_often_as_asked() -> None:
    hz, times = 20.0, [time.perf_counter()]

    def read() -> dict[str, float]:
        times.append(time.perf_counter())
        return {}

    def waits() -> list[float]:
        return [hz * (end - start) for start, end in itertools.pairwise(times[1:])]

    with TelemetryRecorder(hz=hz, bus_ids=(), source=source_of(read)):
        # A loaded machine may hold any of them up.
        wait_until(lambda: len(times) > 5 and min(waits()) < 1.5)
        assert max(waits()) > 0.9
    with TelemetryRecorder(hz=0.0, bus_ids=(), source=source_of(read)) as off:
        pass
    assert list(off.messages()) == [], "nothing was opened"


def test_a_reading_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.5)
    is_asked, ends = threading.Event(), threading.Event()

    def read() -> dict[str, float]:
        is_asked.set()
        ends.wait()
        return {}

    with TelemetryRecorder(hz=1.0, bus_ids=(), source=source_of(read)) as telemetry:
        is_asked.wait(PATIENCE_SECONDS)
        telemetry.finish()
        *_, told = telemetry.messages()
        ends.set()
    assert told.text.startswith("telemetry has had no answer for 0.5 s; ")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_is_told() -> None:
    source = source_of(lambda: {"a": 1 / 0})
    with TelemetryRecorder(hz=1.0, bus_ids=(), source=source) as telemetry:
        telemetry.finish()
    *_, told = telemetry.messages()
    assert "telemetry failed, training continues: ZeroDivision" in told.text
