"""Telemetry of a run: samples joined with windows, energy, messages."""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.run.observers.sampler import Sample
from harness.run.observers.telemetry import EnergyMeter, MachineTelemetry, spreads
from harness.run.records import MachineUse
from tests.harness.run.observers.nvml import library
from tests.harness.run.observers.nvml.library import Nvml
from tests.harness.run.observers.samples import REPOSITORY

PATIENCE_SECONDS = 120.0

TIMES = st.lists(
    st.integers(0, 1000).map(lambda ticks: ticks / 64), min_size=2, max_size=30, unique=True
).map(sorted)
EDGES = [ticks / 32 for ticks in range(0, 512, 7)]


def sample(seconds: float, **values: float) -> Sample:
    return Sample(seconds=seconds, values=values)


@given(TIMES, st.data())
def test_a_window_has_the_samples_of_its_time(times: list[float], data: st.DataObject) -> None:
    values = [data.draw(st.floats(-1e6, 1e6)) for _ in times]
    start, end = sorted(data.draw(st.lists(st.sampled_from(EDGES), min_size=2, unique=True))[:2])
    joined = spreads((sample(t, figure=v) for t, v in zip(times, values, strict=True)), start, end)
    inside = [(t, v) for t, v in zip(times, values, strict=True) if start < t <= end]
    if not inside:
        assert joined == {}
        return
    spread, levels = joined["figure"], [v for _, v in inside]
    assert (spread.min, spread.max, spread.num_samples) == (min(levels), max(levels), len(levels))
    # The nearest sample's value at many moments, none of them in the middle of two samples.
    moments = np.arange(start + 1 / 512, end, 1 / 256)
    distances = np.abs(moments[:, None] - np.array([t for t, _ in inside]))
    nearest = np.array(levels)[distances.argmin(axis=1)]
    assert spread.mean == spread.value == pytest.approx(nearest.mean(), abs=1e-6, rel=1e-9)


def test_quantities_are_counted_one_by_one_and_counters_show_their_last_value() -> None:
    samples = [
        Sample(seconds=1.0, values={"gpu/0/energy_joules": 5.0, "gpu/0/power_watts": 3.0}),
        Sample(seconds=2.0, values={"gpu/0/energy_joules": 9.0}),
    ]
    joined = spreads(samples, 0.0, 2.0)
    assert joined["gpu/0/power_watts"].num_samples == 1
    assert joined["gpu/0/energy_joules"].num_samples == 2
    assert joined["gpu/0/energy_joules"].value == 9.0
    assert joined["gpu/0/energy_joules"].mean == 6.0


def meter(
    windows: list[tuple[float, float]], readings: list[tuple[float, dict[str, float]]]
) -> EnergyMeter:
    """Feeds a meter in the order of a run: after each window the readings up to its end, then the
    rest."""
    energy = EnergyMeter()
    remaining = list(readings)
    for start, end in windows:
        energy.add_window(start, end)
        while remaining and remaining[0][0] <= end:
            seconds, values = remaining.pop(0)
            energy.add_sample(Sample(seconds=seconds, values=values))
    for seconds, values in remaining:
        energy.add_sample(Sample(seconds=seconds, values=values))
    return energy


def windows_of(times: list[float]) -> list[tuple[float, float]]:
    """Returns every other interval between the times."""
    return list(itertools.pairwise(times))[::2]


@given(TIMES, TIMES, st.data())
def test_energy_of_windows_by_readings_at_other_times(
    edges: list[float], read_at: list[float], data: st.DataObject
) -> None:
    windows = windows_of(edges)
    stretches = list(itertools.pairwise([-1.0, *read_at, 17.0]))
    watts = [data.draw(st.floats(0.0, 1000.0)) for _ in stretches]
    rises = [power * (end - start) for power, (start, end) in zip(watts, stretches, strict=True)]
    counter = itertools.accumulate(rises, initial=0.0)
    readings = [
        (t, {"gpu/0/energy_joules": joules})
        for t, joules in zip([-1.0, *read_at, 17.0], counter, strict=True)
    ]
    expected = sum(
        power * max(0.0, min(end, window_end) - max(start, window_start))
        for window_start, window_end in windows
        for power, (start, end) in zip(watts, stretches, strict=True)
    )
    assert meter(windows, readings).joules(1) == pytest.approx(expected, abs=1e-6)


@given(TIMES, st.data())
def test_readings_at_the_windows_edges_give_their_energy_exactly(
    edges: list[float], data: st.DataObject
) -> None:
    windows = windows_of(edges)
    rises = [data.draw(st.floats(0.0, 100.0)) for _ in edges]
    counter = list(itertools.accumulate(rises))
    other = [2 * value for value in counter]
    readings = [
        (t, {"gpu/0/energy_joules": a, "gpu/1/energy_joules": b, "gpu/1/power_watts": 1.0})
        for t, a, b in zip(edges, counter, other, strict=True)
    ]
    expected = 3 * sum(rises[1:][::2])
    assert meter(windows, readings).joules(2) == pytest.approx(expected)
    assert meter(windows, readings).joules(3) is None, "one GPU of three did not tell"


def test_energy_that_is_not_known_is_none() -> None:
    windows = [(0.0, 10.0), (10.0, 20.0)]
    assert meter(windows, []).joules(0) is None
    assert meter(windows, [(0.0, {"gpu/0/energy_joules": 0.0})]).joules(1) is None
    assert meter(windows, [(5.0, {"gpu/0/power_watts": 3.0})] * 2).joules(1) is None
    # Nine tenths are enough to tell the rest from; less is not.
    almost = [(2.0, {"gpu/0/energy_joules": 0.0}), (20.0, {"gpu/0/energy_joules": 180.0})]
    assert meter(windows, almost).joules(1) == pytest.approx(200.0)
    lost = [(0.0, {"gpu/0/energy_joules": 0.0}), (17.9, {"gpu/0/energy_joules": 180.0})]
    assert meter(windows, lost).joules(1) is None


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def test_a_window_has_the_samples_of_the_host_from_its_time_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with MachineTelemetry(hz=100.0, bus_ids=()) as telemetry:
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
        assert telemetry.finish() == MachineUse(num_gpus=0, joules=None)
        assert list(telemetry.messages()) == []


def test_without_telemetry_nothing_is_sampled_and_gpus_are_counted() -> None:
    with MachineTelemetry(hz=0.0, bus_ids=("0000:17:00.0", "0000:18:00.0")) as telemetry:
        assert telemetry.window(0.0, time.perf_counter()) == {}
        assert telemetry.finish() == MachineUse(num_gpus=2, joules=None)


HANGING = """
import time
from harness.run.observers import sampler
from harness.run.observers.telemetry import MachineTelemetry
sampler.SILENT_SECONDS = sampler.STOP_SECONDS = 0.5
with MachineTelemetry(hz=100.0, bus_ids=["0000:17:00.0"]) as telemetry:
    assert not list(telemetry.messages())
    time.sleep(0.6)
    print([m.text for m in telemetry.messages()])
    print([m.text for m in telemetry.messages()])
"""


def test_a_driver_that_hangs_is_reported_once(nvml: Nvml) -> None:
    nvml.write(library.system(init="hang"), library.modern(0))
    done = subprocess.run(
        [sys.executable, "-c", HANGING],
        env=nvml.environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first.startswith("['telemetry has had no answer for ")
    assert first.endswith(" s; training continues without it']")
    assert second == "[]"
