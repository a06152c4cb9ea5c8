"""The number of steps of a call, and of calls of a dispatch."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.trainer.cadence import Cadence, steps_per_call

RATES = {"CPU": (1e10, 1e10), "GPU": (5e10, 1e12)}
"""The bytes and operations in a second of the slowest device that the estimate must hold for."""
MAX_PREPARED_BYTES = 2**28

amounts = st.floats(1e3, 1e12)
works = st.fixed_dictionaries(
    {
        "bytes_moved": amounts,
        "flops": amounts,
        "prepared_bytes": st.floats(0, 1e10),
        "device_type": st.sampled_from(sorted(RATES)),
        "steps_per_epoch": st.integers(1, 100_000),
    }
)


def most_steps(work: dict[str, Any]) -> float:
    """Returns the most steps that a second and the memory allow."""
    bytes_rate, flops_rate = RATES[work["device_type"]]
    seconds = work["bytes_moved"] / bytes_rate + work["flops"] / flops_rate
    return min(
        1 / seconds,
        MAX_PREPARED_BYTES / max(work["prepared_bytes"], 1),
        work["steps_per_epoch"],
    )


@given(works)
def test_a_call_takes_half_of_what_is_allowed_or_more(work: dict[str, Any]) -> None:
    """A call has fewer steps if they then divide an epoch, so that its last call needs no program
    of its own."""
    steps = steps_per_call(**work)
    most = max(1, int(most_steps(work)))
    assert most / 2 <= steps <= most
    divisors = [n for n in range(1, most + 1) if work["steps_per_epoch"] % n == 0]
    if 2 * divisors[-1] >= most:
        assert steps == divisors[-1]
    else:
        assert steps == most


def test_it_halves_after_half_a_second_down_to_one_call() -> None:
    cadence = Cadence(steps_per_call=10, fixed=False)
    cadence.num_calls = 8
    lengths = []
    for seconds in (0.4, 0.6, 0.5, 9.0, 9.0, 9.0):
        cadence.after(10 * cadence.num_calls, seconds)
        lengths.append(cadence.num_calls)
    assert lengths == [8, 4, 4, 2, 1, 1]


def test_it_grows_by_whole_dispatches_alone_and_at_most_fourfold() -> None:
    cadence = Cadence(steps_per_call=10, fixed=False)
    cadence.after(9, 1e-6)  # the rest of an epoch
    assert cadence.num_calls == 1
    cadence.after(10, 1e-6)
    assert cadence.num_calls == 4
    cadence.after(40, 0.08)
    assert cadence.num_calls == 10


@given(st.floats(1e-5, 5), st.integers(1, 1000))
def test_it_settles_where_a_dispatch_lasts_as_long_as_it_should(
    seconds_per_call: float, steps: int
) -> None:
    cadence = Cadence(steps_per_call=steps, fixed=False)
    for _ in range(20):
        cadence.after(steps * cadence.num_calls, seconds_per_call * cadence.num_calls)
    settled = cadence.num_calls
    assert settled * seconds_per_call >= 0.1 * (1 - 1e-9)
    assert settled == 1 or settled * seconds_per_call <= 0.2 * (1 + 1e-9)
    cadence.after(steps * settled, seconds_per_call * settled)
    assert cadence.num_calls == settled


@pytest.mark.parametrize("seconds", [9.0, 1e-6])
def test_what_was_asked_for_stays(seconds: float) -> None:
    cadence = Cadence(steps_per_call=10, fixed=True)
    cadence.after(10, seconds)
    assert cadence.num_calls == 1


def test_a_dispatch_may_run_several_epochs_where_it_need_not_end_with_one() -> None:
    cadence = Cadence(steps_per_call=10, fixed=False, steps_per_epoch=21)
    grown = []
    for _ in range(6):
        steps = min(10 * cadence.num_calls, 21 * cadence.num_epochs)
        cadence.after(steps, 1e-4 * steps)
        grown.append((cadence.num_calls, cadence.num_epochs))
    assert grown[:3] == [(4, 1), (16, 7), (64, 30)]
    assert grown[3] == grown[5], "0.1 to 0.2 s"
    for _ in range(6):
        cadence.after(21 * cadence.num_epochs, 1e-6)
    assert cadence.num_epochs == 64, "as many row ids lie on the device"
    cadence.after(21 * 64, 0.6)
    assert cadence.num_epochs < 64
