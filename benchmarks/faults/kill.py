"""Gives a short run a fault at every call that changes a file, one after another, and resumes it.

    .venv/bin/python -m benchmarks.faults.kill                         # all of them: an hour
    .venv/bin/python -m benchmarks.faults.kill --trials 12 --seed 1    # one of each kind, as in CI

A fault is a kill before the call or in the middle of a write, an error of the device (EIO), or a
disk that is full from there on (ENOSPC). The run must end at once, after an error with one message,
and leave nothing half-written. Then it is resumed, as its messages say. At the end its folder must
be that of an undisturbed run: the same weights to the bit, every step once, and nothing else.

The exit code is 1 if a fault left anything else.
"""

import argparse
import contextlib
import functools
import itertools
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults import checks, injector, trial
from benchmarks.faults.injector import Call, Fault

FLAGS = {"new": (), "resumed": ("--resume",), "replacing": ("--overwrite",)}
"""The flags of each kind of run. A resumed one was killed within its last checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fault in a kind of run."""

    start: str  # The kind of run
    fault: Fault
    call: Call  # The call of the undisturbed run at which the fault happens

    @property
    def kind(self) -> str:
        return f"{self.start} run, {self.fault.action}"

    def __str__(self) -> str:
        return f"{self.kind} at call {self.fault.at}, {self.call}"


def undisturbed(starts: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, Sequence[Call]]]:
    """Makes undisturbed runs of each kind in the folders in which they start; returns what they all
    leave, and the calls of each kind."""
    for folder in starts.values():
        folder.mkdir()
    trial.train(starts["replacing"], "--seed", "8")  # compiles: a slow run makes other calls
    ended, left = _run(starts, "new")
    in_last = [at for at, call in enumerate(ended.made, start=1) if "checkpoints/." in call.path]
    trial.train(starts["resumed"], fault=Fault(action="kill", at=in_last[-10]))
    made = {"new": ended.made}
    for kind in ("resumed", "replacing"):
        ended, same = _run(starts, kind)
        assert not checks.differences(same, left)
        # From its own event file on, it makes the same calls as a new run.
        opens = ["tfevents" in call.path and call.name == "create" for call in ended.made]
        made[kind] = ended.made[: opens.index(True)]
    return left, made


def _run(starts: Mapping[str, Path], kind: str) -> tuple[trial.Ended, dict[str, Any]]:
    """Runs without a fault; returns how the run ends, and what it leaves."""
    with _copy(starts[kind]) as folder:
        return trial.train(folder, *FLAGS[kind]), checks.left_in(folder / "run")


@contextlib.contextmanager
def _copy(start: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        yield Path(shutil.copytree(start, Path(place, "folder")))


def drawn(cases: Sequence[Case], number: int, *, seed: int) -> list[Case]:
    """Draws some cases at random, of each kind as many as of any other while there are more."""
    turns: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
    shuffled = random.Random(seed).sample(cases, len(cases))
    return sorted(shuffled, key=lambda case: next(turns[case.kind]))[:number]


def complaints(case: Case, left: Mapping[str, Any], starts: Mapping[str, Path]) -> list[str]:
    """Lets a run have the fault, and continues it; returns what is wrong."""
    flags = FLAGS[case.start]
    with _copy(starts[case.start]) as folder:
        try:
            ended = trial.train(folder, *flags, fault=case.fault)
            found = trial.complaints_about_end(ended, case.fault)
            found += checks.half_written(folder)
            return found + trial.complaints_after(folder, left, *flags)
        except trial.HangError as error:
            return [str(error)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, help="how many faults to try, drawn by the seed")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time")
    given = parser.parse_args()
    trial.ready(__spec__.name, sys.argv[1:])
    tried: Counter[str] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        starts = {kind: Path(place, kind) for kind in FLAGS}
        left, made = undisturbed(starts)
        cases = [
            Case(start=start, fault=fault, call=call)
            for start, calls in made.items()
            for fault, call in injector.faults_of(calls)
        ]
        counts = ", ".join(f"{len(calls)} of a {kind} run" for kind, calls in made.items())
        print(f"calls that change files: {counts}; {len(cases)} faults", flush=True)
        if given.trials is not None:
            print(f"{given.trials} of them by --seed {given.seed}", flush=True)
            cases = drawn(cases, given.trials, seed=given.seed)
        judge = functools.partial(complaints, left=left, starts=starts)
        context = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(given.jobs, mp_context=context) as pool:
            for case, found in zip(cases, pool.map(judge, cases), strict=True):
                tried[case.kind] += 1
                failed += bool(found)
                for complaint in found:
                    print(f"FAILED: {case}: {complaint}", flush=True)
    for kind, number in sorted(tried.items()):
        print(f"{number:5} {kind}")
    print(f"{tried.total()} tried, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
