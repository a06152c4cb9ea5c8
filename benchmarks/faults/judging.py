"""Judges many cases, several at a time, until the time is over."""

import argparse
import itertools
import multiprocessing
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Protocol, TypeVar


class Case(Protocol):
    """Something to try; its text says what."""

    @property
    def kind(self) -> str:
        """The kind under which the case is counted."""
        ...


C = TypeVar("C", bound=Case)


def parse(description: str, *, seconds: float) -> argparse.Namespace:
    """Parses the flags of a program that judges cases.

    Args:
        description: a description of the program.
        seconds: the default of --seconds.

    Returns:
        `seed`, a fresh one if none is given; `jobs`; and `seconds`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seconds", type=float, default=seconds, help="no case starts after")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time")
    return parser.parse_args()


def judge_all(
    cases: Iterable[C], judge: Callable[[C], list[str]], *, jobs: int, seconds: float
) -> int:
    """Judges cases, and prints what is wrong with them; returns the program's exit code."""
    tried: Counter[str] = Counter()
    failed = 0
    for case, complaints in _judged(cases, judge, jobs=jobs, seconds=seconds):
        tried[case.kind] += 1
        failed += bool(complaints)
        for complaint in complaints:
            print(f"FAILED: {case}: {complaint}", flush=True)
    for kind, number in sorted(tried.items()):
        print(f"{number:5} {kind}")
    print(f"{sum(tried.values())} tried, {failed} failed")
    return 1 if failed else 0


def _judged(
    cases: Iterable[C], judge: Callable[[C], list[str]], *, jobs: int, seconds: float
) -> Iterator[tuple[C, list[str]]]:
    remaining, deadline = iter(cases), time.monotonic() + seconds
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        running: dict[Future[list[str]], C] = {}
        while True:
            free = jobs - len(running) if time.monotonic() < deadline else 0
            for case in itertools.islice(remaining, free):
                running[pool.submit(judge, case)] = case
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), done.result()
