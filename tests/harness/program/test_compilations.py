"""The programs that XLA really compiles."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

Event = dict


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    """Returns the events of a process that counts XLA's programs, each with the count after it."""
    command = [sys.executable, "-m", "tests.harness.program.counting_process"]
    done = subprocess.run(
        [*command, str(tmp_path_factory.mktemp("xla"))],
        cwd=Path(__file__).parents[3],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("run", ["stream", "resident"])
def test_all_is_compiled_before_it_is_needed_and_nothing_later(
    events: list[Event], run: str
) -> None:
    """XLA compiles as many programs as the records say, all before the first step: in training
    those of whole calls, of the last of these and of the last batch, and two of the evaluation."""
    programs = 0
    seen = []
    for event in events:
        added = event["programs"] - programs
        programs = event["programs"]
        if event["run"] == run:
            assert added == event["compiled"], event
            seen.append((event["what"], event["compiled"]))
    first, *later = (compiled for what, compiled in seen if what == "prepare")
    assert first == 5
    assert later
    assert not any(later)
    assert [compiled for what, compiled in seen if what == "evaluate"] == [0, 0]
