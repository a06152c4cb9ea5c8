"""Runs docs/slurm.sh under a real SLURM on this machine, and compares how each job ends.

    python -m benchmarks.cluster.slurm_cases [CASE ...]

Exit code 1 if a job does not end as docs/clusters.md says, 0 also where SLURM is missing.
"""

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.cluster.slurm import Slurm, is_possible

_SMOOTH = ("--activation", "gelu", "--dropout", "0", "0", "0", "--precision", "float32")
_MOST = 1e-5  # The largest relative difference from the losses of one process
_ENDLESS = "1000000"


def training(folder: Path, name: str, *, epochs: str = "3") -> tuple[str, ...]:
    """Returns the options of a small training, which override those of docs/slurm.sh."""
    return (
        *("--data", "synthetic", "--synthetic-rows", "2400", "--batch-size", "240"),
        *("--replicas", "1", "--implementation", "gather", "--table-optimizer", "dense"),
        *("--steps-per-dispatch", "4", "--tensorboard", "off", "--telemetry-hz", "0"),
        *("--checkpoint-every", "4", "--seed", "1", "--epochs", epochs, *_SMOOTH),
        *("--run-dir", str(folder / name)),
    )


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


class Cases:
    """Every case returns what it found, and raises an AssertionError if that is wrong."""

    def __init__(self, slurm: Slurm) -> None:
        self._slurm = slurm
        self._folder = slurm.folder / "runs"

    def all(self) -> dict[str, Callable[[], str]]:
        layouts = {
            "two-nodes": (2, ["--ntasks-per-node=1"]),
            "two-tasks-a-node": (1, ["--ntasks-per-node=2"]),
            "node9-10": (2, ["--ntasks-per-node=1", "--nodelist=node[9-10]"]),
            "cyclic": (2, ["--ntasks-per-node=2", "--distribution=cyclic", "-w", "node[9-10]"]),
        }
        moments = itertools.product(("scancel", "requeue"), ("start", "compilation", "training"))
        return {
            **{name: partial(self._trains, name, n, *more) for name, (n, more) in layouts.items()},
            "array": self._array,
            "time": self._time,
            "preemption": self._preemption,
            "failing-task": self._failing,
            "failing-save": self._failing_save,
            **{f"{what}-{when}": partial(self._told, what, when) for what, when in moments},
        }

    def _trains(self, name: str, nodes: int, *options: str) -> str:
        job = self._submit(name, *options, nodes=nodes)
        self._ended(job, "COMPLETED", "0:0")
        return self._parity(name)

    def _array(self) -> str:
        job = self._slurm.submit(
            *("array", "--array=0-1", "--nodelist=node[1-2]", "--ntasks-per-node=1"),
            training=training(self._folder, "array-ARRAY_TASK"),
        )
        for index in range(2):  # the workers of one are no orphans of the other
            self._slurm.wait_for_end(f"{job}_{index}")
        for index in range(2):
            self._ended(f"{job}_{index}", "COMPLETED", "0:0")
        return ", ".join(self._parity(f"array-{index}") for index in range(2))

    def _time(self) -> str:
        """The time is up twice: each time the job saves, is queued again, and goes on."""
        job = self._submit("time", "--time=60", "--signal=B:USR1@50", epochs=_ENDLESS)
        self._wait_for(job, "time", "training")
        for restarts in (1, 2):
            # Only now, since on a busy machine the time could be up before the first step.
            _, minutes, _ = self._slurm.facts(job)["RunTime"].split(":")
            self._limit(job, int(minutes) + 2)
            self._trains_again(job, "time", restarts=restarts)
        text = self._goes_on(job, "time", restarts=2)
        assert "resumed 2 times" in text, text
        return text

    def _preemption(self) -> str:
        job = self._submit("preemption", "--partition=low", "--exclusive", epochs=_ENDLESS)
        self._wait_for(job, "preemption", "training")
        urgent = self._slurm.call(
            *("sbatch", "--parsable", "--partition=high", "--nodes=4", "--exclusive"),
            *("--output=/dev/null", "--wrap=sleep 2"),
        )
        self._ended(urgent, "COMPLETED", "0:0")
        return self._goes_on(job, "preemption", restarts=1)

    def _failing(self) -> str:
        job = self._submit("failing-task", "--export=ALL,BAD_TASK=1")
        facts = self._ended(job, "FAILED", "2:0")
        assert facts["Restarts"] == "0", facts
        return "the code of the task that failed, not queued again"

    def _failing_save(self) -> str:
        """The chief fails at the last save, and the other worker ends as it was told."""
        job = self._submit("failing-save", "--export=ALL,BAD_END=0", epochs=_ENDLESS)
        self._wait_for(job, "failing-save", "training")
        self._slurm.call("scancel", "--batch", "--signal=USR1", job)
        facts = self._ended(job, "FAILED", "143:0")
        assert facts["Restarts"] == "0", facts
        return "not queued again, though srun returned 143"

    def _told(self, what: str, when: str) -> str:
        """scancel, or scontrol requeue."""
        name = f"{what}-{when}"
        job = self._submit(name, epochs=_ENDLESS)
        self._wait_for(job, name, when)
        start = time.monotonic()
        self._slurm.call(*(("scancel", job) if what == "scancel" else ("scontrol", "requeue", job)))
        self._slurm.wait_for(lambda: not self._slurm.orphans(), 40)
        seconds = time.monotonic() - start
        text = f"all workers gone after {seconds:.1f} s"
        # In training a checkpoint and the model are saved first.
        assert seconds < (15 if when == "training" else 5), text
        if what == "scancel":
            facts = self._slurm.wait_for_end(job)
            assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0"), facts
            return text
        return f"{text}; {self._goes_on(job, name, restarts=1)}"

    def _submit(self, name: str, *options: str, nodes: int = 2, epochs: str = "3") -> str:
        own = options or ("--ntasks-per-node=1",)
        options_of = training(self._folder, name, epochs=epochs)
        return self._slurm.submit(name, *own, training=options_of, nodes=nodes)

    def _ended(self, job: str, state: str, code: str) -> dict[str, str]:
        facts = self._slurm.wait_for_end(job)
        assert (facts["JobState"], facts["ExitCode"]) == (state, code), facts
        assert not self._slurm.orphans(), self._slurm.orphans()
        return facts

    def _wait_for(self, job: str, name: str, when: str) -> None:
        """Waits for a job's start, its compilation or its training."""
        files = {"compilation": "config.json", "training": "metrics.jsonl"}
        self._slurm.wait_for(lambda: self._slurm.facts(job)["JobState"] == "RUNNING")
        if when == "start":
            # Workers, not the shells that start them.
            self._slurm.wait_for(lambda: str(self._slurm.orphans()).count("-m harness") >= 2)
            time.sleep(3)
            return
        path = self._folder / name / files[when]
        self._slurm.wait_for(lambda: path.exists() and path.stat().st_size > 0)
        if when == "training":
            self._slurm.wait_for(lambda: any((self._folder / name).glob("checkpoints/*")))

    def _limit(self, job: str, minutes: int) -> None:
        self._slurm.call("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")

    def _trains_again(self, job: str, name: str, *, restarts: int) -> None:
        """Waits until a job has been queued so many times again and trains."""
        facts = self._slurm.facts
        self._slurm.wait_for(lambda: int(facts(job)["Restarts"]) >= restarts, 400)
        self._limit(job, 60)
        self._slurm.wait_for(lambda: facts(job)["JobState"] == "RUNNING", 300)
        count = 0

        def trains() -> bool:
            nonlocal count
            before, count = count, len(losses(self._folder / name))
            return 0 < before < count

        path = self._folder / name / "metrics.jsonl"
        self._slurm.wait_for(lambda: path.exists() and trains(), 400)

    def _goes_on(self, job: str, name: str, *, restarts: int) -> str:
        """Waits until a job has been queued so many times again and trains; cancels it."""
        facts = self._slurm.facts
        self._trains_again(job, name, restarts=restarts)
        found = facts(job)
        assert int(found["Restarts"]) == restarts, found
        self._slurm.call("scancel", job)
        ended = self._slurm.wait_for_end(job)
        assert ended["JobState"] == "CANCELLED", ended
        self._slurm.wait_for(lambda: not self._slurm.orphans(), 40)
        config = json.loads((self._folder / name / "config.json").read_text())
        resumes = len(config["resolved"].get("resumed", []))
        return f"queued again {restarts} times, resumed {resumes} times"

    def _parity(self, name: str) -> str:
        own, one = losses(self._folder / name), self._one
        assert len(own) == len(one), (len(own), len(one))
        worst = max(abs(a - b) / abs(b) for a, b in zip(own, one, strict=True))
        assert worst <= _MOST, worst
        return f"losses within {worst:.1e} of one process"

    @property
    def _one(self) -> list[float]:
        """The losses of one process, by a job of one task."""
        if not (self._folder / "one").exists():
            job = self._submit("one", "--ntasks=1", nodes=1)
            self._ended(job, "COMPLETED", "0:0")
        return losses(self._folder / "one")


def main(names: list[str]) -> int:
    if not is_possible():
        print("skipped: needs root, and the packages slurm-wlm and munge")
        return 0
    failed = tried = 0
    with tempfile.TemporaryDirectory() as folder, Slurm(Path(folder)) as slurm:
        for name, case in Cases(slurm).all().items():
            if names and name not in names:
                continue
            tried += 1
            start = time.monotonic()
            try:
                text = case()
            except (AssertionError, TimeoutError, OSError) as error:
                failed += 1
                output = slurm.folder / f"{name}.out"
                end = output.read_text()[-1500:] if output.exists() else ""
                text = f"WRONG: {type(error).__name__} {error}\n{end}"
                slurm.call("scancel", "--user=root")
                time.sleep(5)
            print(f"{name} ({time.monotonic() - start:.0f} s): {text}", flush=True)
    print(f"{tried - failed} of {tried} cases ended as documented")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
