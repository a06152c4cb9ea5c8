"""Kills a run with SIGKILL at random moments of its life, and resumes it by `--resume auto`.

    .venv/bin/python -m benchmarks.faults.kill_and_resume --kills 30

The run builds its data set from a table of texts, trains with a checkpoint every few steps, and
keeps one. A run that comes to its end is begun again, until all kills are done.

After each kill a checkpoint must be intact, once there was one. At its end a run must leave the
same as a run that was never killed: weights and optimizer to the bit, each step once in
metrics.jsonl and in TensorBoard. The exit code is 1 if it does not.
"""

import argparse
import contextlib
import functools
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from benchmarks.faults import checks, trial

_ROWS = 12_000  # The number of texts: 1 MB, the least for which a data set is cached
_MODEL = ("--hidden-units", "4", "--dropout", "0.2", "--batch-size", "50", "--num-tokens", "500")
_COMPUTE = ("--implementation", "gather", "--precision", "float32", "--replicas", "1")
# A recipe's search, which writes nothing, would take most of a run, and so most of the kills.
_RUN = ("--recipe", "tutorial", "--steps-per-dispatch", "10", "--telemetry-hz", "0")
_DATA = ("--validation-split", "0.1")
Run = Callable[..., tuple[int, str]]
_SAVING = ("--checkpoint-every", "25", "--keep", "1", "--resume", "auto")


def run(
    folder: Path, table: Path, epochs: int, *, kill_after_seconds: float | None = None
) -> tuple[int, str]:
    """Starts or resumes the run of a table of texts in `folder`/run, with a cache in `folder`;
    returns its exit code, and what it says on standard error apart from notes on the texts."""
    arguments = ["train", "--data", str(table), "--run-dir", str(folder / "run")]
    arguments += [*_MODEL, *_COMPUTE, *_RUN, *_DATA, *_SAVING, "--epochs", str(epochs)]
    code, err = trial.command(
        arguments,
        folder / "err",
        lambda: os.environ.update(XDG_CACHE_HOME=str(folder / "cache")),
        kill_after_seconds=kill_after_seconds,
    )
    return code, "\n".join(line for line in err.splitlines() if not line.startswith("note: "))


def _write_texts(path: Path) -> Path:
    source = random.Random(0)
    words = [f"word{number}" for number in range(400)]
    rows = ["text,label"]
    for _ in range(_ROWS):
        label = source.randrange(2)
        chosen = source.choices(words[label::3], k=6) + source.choices(words, k=6)
        rows.append(f"{' '.join(chosen)},{('bad', 'good')[label]}")
    path.write_text("\n".join(rows))
    return path


def _intact(folder: Path) -> int:
    """Returns the number of intact checkpoints."""
    good = 0
    for path in (folder / "run" / "checkpoints").glob("ckpt-*.npz"):
        with contextlib.suppress(BadZipFile), ZipFile(path) as file:
            good += file.testzip() is None and "checksum.npy" in file.namelist()
    return good


def killed_runs(
    run: Run, place: Path, times: Iterator[float], expected: Mapping[str, Any], *, kills: int
) -> Iterator[tuple[str, list[str]]]:
    """Kills runs so many times, after so many seconds each; yields `kill` or `end`, and what is
    wrong after it."""
    left = kills
    for number in itertools.count():
        folder, had = place / str(number), 0
        folder.mkdir()
        while left:
            code, err = run(folder, kill_after_seconds=next(times))
            if (code, err) == (0, ""):
                break
            found = []
            if code != -signal.SIGKILL or err:
                found.append(f"exit code {code}: {err}")
            if (folder / "run").exists():
                found += checks.half_written(folder / "run")
            if had and not _intact(folder):
                found.append("there was a checkpoint, and now there is none")
            had = max(had, _intact(folder))
            left -= 1
            yield "kill", found
        code, err = run(folder)
        found = [] if (code, err) == (0, "") else [f"exit code {code}: {err}"]
        yield "end", [*found, *checks.differences(checks.left_in(folder / "run"), expected)]
        if not left:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--epochs", type=int, default=40, help="of the run")
    arguments = parser.parse_args()
    trial.ready(__spec__.name, sys.argv[1:])
    done: Counter[str] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        table = _write_texts(place / "texts.csv")
        of_table = functools.partial(run, table=table, epochs=arguments.epochs)
        (place / "undisturbed").mkdir()
        start = time.monotonic()
        ended = of_table(place / "undisturbed")
        seconds = time.monotonic() - start
        assert ended == (0, ""), ended
        expected = checks.left_in(place / "undisturbed" / "run")
        print(f"--seed {arguments.seed}: a run takes {seconds:.1f} s", flush=True)
        source = random.Random(arguments.seed)
        times = (source.uniform(0.01, seconds) for _ in itertools.count())
        for kind, complaints in killed_runs(
            of_table, place, times, expected, kills=arguments.kills
        ):
            done[kind] += 1
            failed += bool(complaints)
            print(f"{'FAILED' if complaints else 'ok':7} {kind}", *complaints, flush=True)
    print(f"{done['kill']} kills, {done['end']} runs that came to their end, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
