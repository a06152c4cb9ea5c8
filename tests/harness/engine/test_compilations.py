"""What XLA really compiles: the step once for each capacity, the evaluation once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

Event = dict


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """What happened in a process that counts XLA's programs, each with their number after it."""
    command = [sys.executable, "-m", "tests.harness.engine.counting_process"]
    done = subprocess.run(
        [*command, str(tmp_path_factory.mktemp("xla"))],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("replicas", [1, 2])
def test_one_compilation_for_each_capacity_and_none_later(
    events: list[Event], replicas: int
) -> None:
    programs = max((e["programs"] for e in events if e["replicas"] < replicas), default=0)
    events = [event for event in events if event["replicas"] == replicas]
    capacities: set[int] = set()
    for event in events:
        added = event["programs"] - programs
        programs = event["programs"]
        if event["what"] == "prepare":
            new = event["capacity"] not in capacities
            capacities.add(event["capacity"])
            assert event["compiled"] == new
            # One program; or for each replica one forward and backward, and one update, which is
            # the same for all capacities.
            first = len(capacities) == 1
            assert added == (0 if not new else 1 if replicas == 1 else 4 if first else 2), event
        elif event["what"] == "train":
            assert added == 0, event
        else:
            assert added == (replicas if event["epoch"] == 0 else 0), event
    assert len(capacities) == 2
    assert {e["num_steps"] for e in events if e["what"] == "train"} == {16, 8}
    assert sum(e["what"] == "evaluate" for e in events) == 2
