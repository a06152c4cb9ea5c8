"""Puts a short run through one fault after another, at random moments, resuming it each time.

    .venv/bin/python -m benchmarks.faults.chains --seconds 3600

A link of a chain is a kill at a random time, or a fault at a random call, as in
benchmarks.faults.kill. After the last link the run goes on without faults, and its folder must be
that of an undisturbed run. The exit code is 1 if it was not.
"""

import functools
import itertools
import random
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults import checks, injector, judging, trial
from benchmarks.faults.injector import Fault

_MOST_LINKS = 5


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The faults of a run."""

    links: tuple[Fault | float, ...]
    """Faults, and seconds until a kill."""

    @property
    def kind(self) -> str:
        return f"chains of {len(self.links)}"

    def __str__(self) -> str:
        return ", then ".join(
            f"{link.action} at call {link.at}"
            if isinstance(link, Fault)
            else f"kill after {link:.3f} s"
            for link in self.links
        )


def chain(source: random.Random, faults: list[Fault], seconds: float) -> Chain:
    """Draws a random chain.

    Args:
        source: the source of chance.
        faults: the faults that a run can have.
        seconds: the time that a run takes.
    """
    number = source.randint(1, _MOST_LINKS)
    return Chain(
        links=tuple(
            source.choice([source.choice(faults), source.uniform(0, seconds)])
            for _ in range(number)
        )
    )


def complaints(case: Chain, expected: Mapping[str, Any]) -> list[str]:
    """Puts a run through the faults, and continues it; returns what is wrong at the end."""
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            for link in case.links:
                if isinstance(link, Fault):
                    ended = trial.go_on(folder, fault=link)
                    found += trial.complaints_about_end(ended, link)
                else:
                    ended = trial.go_on(folder, kill_after_seconds=link)
                    if ended.code not in (0, -signal.SIGKILL):
                        found.append(f"exit code {ended.code}: {ended.err}")
                found += checks.half_written(folder)
            return found + trial.complaints_after(folder, expected)
        except trial.HangError as error:
            return [*found, str(error)]


def main() -> None:
    arguments = judging.parse(__doc__.splitlines()[0], seconds=60)
    trial.ready(__spec__.name, sys.argv[1:])
    print(f"--seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        trial.train(Path(place))  # compiles
        undisturbed = trial.train(Path(place), "--overwrite")
        expected = checks.left_in(Path(place, "run"))
        source = random.Random(arguments.seed)
        faults = [fault for fault, _ in injector.faults_of(undisturbed.made)]
        cases = (chain(source, faults, undisturbed.seconds) for _ in itertools.count())
        judge = functools.partial(complaints, expected=expected)
        code = judging.judge_all(cases, judge, jobs=arguments.jobs, seconds=arguments.seconds)
    sys.exit(code)


if __name__ == "__main__":
    main()
