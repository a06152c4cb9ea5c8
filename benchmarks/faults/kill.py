"""A short run has a fault at every call that changes a file, one after another, and goes on.

    .venv/bin/python -m benchmarks.faults.kill                           # all of them: an hour
    .venv/bin/python -m benchmarks.faults.kill --seconds 30 --seed 1     # as many as there is time

A fault is a kill before the call or in the middle of a write, an error of the device (EIO), or a
disk that is full from there on (ENOSPC). The run must end at once, after an error with one message,
and leave nothing half-written. Then it is resumed, as its messages say. At the end its folder
must be that of an undisturbed run: the same weights to the bit, every step once, nothing besides.

The exit code is 1 if a fault left anything else.
"""

import functools
import math
import random
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults import checks, injector, judging, trial
from benchmarks.faults.injector import Call, Fault


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fault."""

    start: str
    """`new`, a run that begins, or `resumed`, one that was killed within its last checkpoint."""
    fault: Fault
    call: Call
    """Where the undisturbed run has it."""

    @property
    def kind(self) -> str:
        return f"{self.start} run, {self.fault.action}"

    def __str__(self) -> str:
        return f"{self.start} run, {self.fault.action} at call {self.fault.at}, {self.call}"


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A run without a fault."""

    left: Mapping[str, Any]
    starts: Mapping[str, Path]
    """The folder in which each kind of run starts."""
    cases: list[Case]
    num_calls: Mapping[str, int]


def undisturbed(place: Path) -> Undisturbed:
    """Runs without a fault, in folders of `place`."""
    compiling, new, killed, resumed, empty = (place / name for name in "abcde")
    for folder in (compiling, new, killed, empty):
        folder.mkdir()
    trial.train(compiling)  # a slow one, which makes other calls
    made = {"new": trial.train(new).made}
    left = checks.left_in(new / "run")
    in_last = [at for at, call in enumerate(made["new"], start=1) if "checkpoints/." in call.path]
    trial.train(killed, fault=Fault(action="kill", at=in_last[-10]))
    shutil.copytree(killed, resumed)
    made["resumed"] = trial.train(resumed, "--resume").made
    assert not checks.differences(checks.left_in(resumed / "run"), left)
    return Undisturbed(
        left=left,
        starts={"new": empty, "resumed": killed},
        cases=[
            Case(start=start, fault=fault, call=call)
            for start, calls in made.items()
            for fault, call in injector.faults_of(calls)
        ],
        num_calls={start: len(calls) for start, calls in made.items()},
    )


def complaints(case: Case, whole: Undisturbed) -> list[str]:
    """Has the fault, goes on, and says what is not as it should be."""
    flags = ("--resume",) if case.start == "resumed" else ()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "folder"
        shutil.copytree(whole.starts[case.start], folder)
        try:
            ended = trial.train(folder, *flags, fault=case.fault)
            found = trial.complaints_about_end(ended, case.fault)
            found += checks.half_written(folder)
            return found + trial.complaints_after(folder, whole.left)
        except trial.HangError as error:
            return [str(error)]


def main() -> None:
    arguments = judging.parse(__doc__.splitlines()[0], seconds=math.inf)
    trial.ready(__spec__.name, sys.argv[1:])
    with tempfile.TemporaryDirectory() as place:
        whole = undisturbed(Path(place))
        for start, number in whole.num_calls.items():
            print(f"a {start} run makes {number} calls that change files", flush=True)
        cases = whole.cases
        print(f"that is {len(cases)} faults", flush=True)
        if arguments.is_limited:
            print(f"in the order of --seed {arguments.seed}", flush=True)
            cases = random.Random(arguments.seed).sample(cases, len(cases))
        judge = functools.partial(complaints, whole=whole)
        code = judging.judge_all(cases, judge, jobs=arguments.jobs, deadline=arguments.deadline)
    sys.exit(code)


if __name__ == "__main__":
    main()
