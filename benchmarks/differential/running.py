"""Random cases, trained by `harness.Trainer` and by `keras.Model.fit`.

    python -m benchmarks.differential --case 1234
    python -m benchmarks.differential --cases 2000 --seconds 3600 --json cases.jsonl
    python -m benchmarks.differential --named
    python -m benchmarks.differential --scripts deep
    python -m benchmarks.differential --cases 100 --two-cpus

A case comes out equal, refused before its first step, different, or in error. The exit code is 1 if
one is different or in error. With `--json` a later call skips the cases that the file has. Worker
processes judge them, one after another.
"""

import argparse
import faulthandler
import gc
import json
import multiprocessing
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

_CASES_PER_WORKER = 60
"""Cases after which a new process takes over, since TensorFlow never frees all of a function."""
_CASE_SECONDS = 240
"""Seconds after which a case counts as an error."""


def judged(seed: int) -> dict[str, Any]:
    """Judges a case, in a worker process; returns its record."""
    from benchmarks.differential.case import draw_case
    from benchmarks.differential.judging import judge

    faulthandler.dump_traceback_later(_CASE_SECONDS, exit=True)
    verdict = judge(draw_case(seed), twice=seed % 20 == 0)
    faulthandler.cancel_dump_traceback_later()
    gc.collect()
    return vars(verdict)


def show(seed: int) -> int:
    """Prints a case and its verdict."""
    from benchmarks.differential.case import draw_case
    from benchmarks.differential.judging import judge

    _use_one_core()
    case = draw_case(seed)
    print(*case.words(), sep="\n")
    verdict = judge(case, twice=True)
    print(f"\n{verdict.result} in {verdict.seconds} s {'(noisy)' if verdict.noisy else ''}")
    print(verdict.reason, *verdict.details, sep="\n  ")
    return int(verdict.result in ("different", "error"))


def show_named(start: str, *, scripts: bool = False) -> int:
    """Runs the named cases, or the models of scripts, whose names begin with `start`; prints a line
    for each."""
    from benchmarks.differential.named import NAMED, judge_named
    from benchmarks.differential.scripts import SCRIPTS

    _use_one_core()
    failed = 0
    names = [name for name in (SCRIPTS if scripts else NAMED) if name.startswith(start)]
    for name in names:
        verdict = judge_named(name)
        failed += verdict.result in ("different", "error")
        print(f"{verdict.result:10} {name}: {verdict.reason[:200]}", flush=True)
        for line in verdict.details[:6] if verdict.result == "different" else ():
            print(f"           {line[:200]}")
    print(f"{failed} of {len(names)} fail")
    return int(failed > 0)


def run(first: int, cases: int, *, seconds: float, path: str | None) -> int:
    """Runs so many cases from the first seed on, none after the seconds, and prints a table of
    them. Appends JSON lines to the file at `path`; the cases that it has are not run again."""
    known: dict[int, dict[str, Any]] = {}
    if path is not None and Path(path).exists():
        lines = Path(path).read_text().splitlines()
        known = {record["seed"]: record for record in map(json.loads, lines)}
    wanted = range(first, first + cases)
    end = time.monotonic() + seconds
    for record in _records([seed for seed in wanted if seed not in known], end):
        known[record["seed"]] = record
        if path is not None:
            with Path(path).open("a") as file:
                file.write(json.dumps(record) + "\n")
        if record["result"] in ("different", "error"):
            print(f"{record['result']} {record['seed']}: {record['reason'][:160]}", flush=True)
    done = [known[seed] for seed in wanted if seed in known]
    summarize(done)
    return int(any(record["result"] in ("different", "error") for record in done))


def _records(seeds: list[int], end: float) -> Iterator[dict[str, Any]]:
    """Yields the records of cases until the end. A case in which its process dies or hangs is an
    error."""
    spawn = multiprocessing.get_context("spawn")
    while seeds and time.monotonic() < end:
        with ProcessPoolExecutor(1, spawn, initializer=_use_one_core) as pool:
            for seed in seeds[:_CASES_PER_WORKER]:
                if time.monotonic() > end:
                    return
                seeds.remove(seed)
                try:
                    yield pool.submit(judged, seed).result()
                except BrokenProcessPool as error:
                    yield {"seed": seed, "result": "error", "reason": str(error), "seconds": 0.0}
                    break


def summarize(records: list[dict[str, Any]]) -> None:
    """Prints counts, refusals by reason, and the seeds of failures."""
    results = Counter(record["result"] for record in records)
    total = max(len(records), 1)
    seconds = sum(record["seconds"] for record in records)
    print(f"{len(records)} cases, {seconds / total:.2f} s each")
    for result, count in results.most_common():
        print(f"  {result:10} {count:6} {count / total:7.1%}")
    print(f"  noisy      {sum(bool(record.get('noisy')) for record in records):6}")
    for result in ("refused", "different", "error"):
        own = [record for record in records if record["result"] == result]
        reasons = Counter(_kind(record["reason"]) for record in own)
        for reason, count in reasons.most_common(30):
            seeds = [str(r["seed"]) for r in own if _kind(r["reason"]) == reason][:8]
            print(f"{result} {count:4}  {reason}  [{' '.join(seeds)}]")


def _kind(reason: str) -> str:
    """Returns a reason without the words that differ from case to case."""
    return " ".join(word for word in reason[:140].split() if not re.search(r"[\d'[]", word))[:110]


def _use_one_core() -> None:
    """Gives TensorFlow one thread, so that cases can run beside others, and two logical devices."""
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    # Each GPU needs a logical device; there are two GPUs, or none.
    has_gpus = bool(tf.config.list_physical_devices("GPU"))
    tf.config.threading.set_inter_op_parallelism_threads(2 if has_gpus else 1)
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", type=int, help="one seed, described and compared")
    parser.add_argument(
        "--named", nargs="?", const="", help="the named cases, or those whose name begins so"
    )
    parser.add_argument("--scripts", nargs="?", const="", help="the same of models from scripts")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument(
        "--two-cpus",
        action="store_true",
        help="the trainer under a MirroredStrategy of two CPU devices, where batches divide",
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start none after that")
    parser.add_argument("--json", help="a file of JSON lines, one for each case, that is continued")
    parser.add_argument("--member", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.two_cpus:
        os.environ["DIFFERENTIAL_TWO_CPUS"] = "1"
    if given.member is not None:
        from benchmarks.differential.training import be_member

        return be_member(int(given.member[0]), given.member[1])
    if given.case is not None:
        return show(given.case)
    if given.named is not None:
        return show_named(given.named)
    if given.scripts is not None:
        return show_named(given.scripts, scripts=True)
    return run(given.first, given.cases, seconds=given.seconds, path=given.json)
