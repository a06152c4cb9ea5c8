"""The search: each trial is a process of `harness train`, whose metrics.jsonl is followed."""

import functools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.child import OWN_CODE, end_with_parent
from harness.errors import InputError
from harness.observe.jsonl import FILE_NAME as METRICS_FILE_NAME
from harness.observe.jsonl import records
from harness.observe.nvml import VISIBLE
from harness.observe.run_files import (
    BEST_FILE_NAME,
    CHECKPOINT_FOLDER_NAME,
    MODEL_FILE_NAME,
    SUMMARY_FILE_NAME,
)
from harness.reading import read_json
from harness.tune.study import Objective, Status, Study
from kernels.files import remove, replacing

_MOST_FAILURES = 3
"""The search gives up after so many trials, all of which failed."""
_LOOK_SECONDS = 0.2
"""Between two looks at the processes and their files."""


class TrialProcess:
    """`harness train` with a trial's settings, in the trial's folder, where it may go on."""

    def __init__(
        self, trial: Any, folder: Path, settings: str, *, gpu: str | None, cores: Sequence[int]
    ) -> None:
        """Starts it.

        Args:
            trial: Optuna's.
            folder: its run folder.
            settings: as TOML.
            gpu: the only one that it sees, as CUDA_VISIBLE_DEVICES names it; None: all there are.
            cores: of the CPU, that it may use.
        """
        self.trial, self._folder = trial, folder
        self.values: dict[int, float] = {}
        """The objective after each epoch that was judged, counted from 1."""
        self.is_told = False
        """Whether the study knows what came of the trial."""
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "trial.toml") as beside:
            beside.write_text(settings, encoding="utf-8")
        command = [sys.executable, "-P", "-m", "harness", "train", "--resume", "auto"]
        path = os.pathsep.join(filter(None, (str(OWN_CODE), os.environ.get("PYTHONPATH"))))
        with (folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--config", folder / "trial.toml", "--run-dir", folder],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": path} | ({VISIBLE: gpu} if gpu else {}),
                start_new_session=True,  # Ctrl-C reaches this process alone
                preexec_fn=functools.partial(_become_trial, cores),
            )
        self.poll, self.terminate = self._process.poll, self._process.terminate
        self.wait = self._process.wait

    def evaluations(self) -> list[Mapping[str, Any]]:
        """The figures on the validation rows after each epoch so far."""
        return [r for r in records(self._folder / METRICS_FILE_NAME) if "validation_loss" in r]

    def outcome(self, code: int) -> tuple[Status, str]:
        """The status by its exit code, and for a failed one, why."""
        path = self._folder / SUMMARY_FILE_NAME
        if code == 0 or (path.exists() and read_json(path, remedy="").get("diverged")):
            is_complete = code == 0 and any(map(math.isfinite, self.values.values()))
            return "complete" if is_complete else "diverged", ""
        log = self._folder / "log.txt"
        last = log.read_text(errors="replace").strip().rpartition("\n")[2].removeprefix("error: ")
        how = f"{signal.Signals(-code).name} ended it; see {log}: " if code < 0 else ""
        return "failed", f"{how}{last}"

    def remove_state(self) -> None:
        """Removes what is large: with best.toml the best trial can be repeated."""
        for name in (CHECKPOINT_FOLDER_NAME, BEST_FILE_NAME, MODEL_FILE_NAME):
            remove(self._folder / name)


def _become_trial(cores: Sequence[int]) -> None:
    end_with_parent(signal.SIGKILL)
    os.sched_setaffinity(0, cores)


class Search:
    """Runs trials, several at a time, until there are enough."""

    def __init__(
        self,
        study: Study,
        folder: Path,
        *,
        objective: Objective,
        num_trials: int,
        num_jobs: int,
        gpus: Sequence[str],
        patience: int | None,
        timeout: float | None,
        settings_of: Callable[[Mapping[str, Any]], str],
        ended: Callable[[TrialProcess, Status, str], None],
    ) -> None:
        """Args:
        study: with the trials so far.
        folder: of the trials' folders.
        objective: what is searched the best of.
        num_trials: in all, those that have ended included.
        num_jobs: trials at the same time.
        gpus: that the jobs take turns in, as CUDA_VISIBLE_DEVICES names them.
        patience: epochs without a better one after which a trial ends; None: never.
        timeout: seconds after which no trial starts; None: never.
        settings_of: a trial's settings as TOML, by what Optuna proposes.
        ended: is told of each trial, with what came of it and for a failed one, why.
        """
        self._study, self._folder, self._objective = study, folder, objective
        self._num_trials, self._num_jobs, self._gpus = num_trials, num_jobs, gpus
        self._patience, self._settings_of, self._ended = patience, settings_of, ended
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout

    def run(self) -> None:
        """Runs the trials.

        Raises:
            KeyboardInterrupt: after Ctrl-C. The trials that ran then have saved a checkpoint.
            InputError: the task does not measure the objective.
        """
        running: dict[int, TrialProcess] = {}
        try:
            while True:
                for job in range(self._num_jobs):
                    if job not in running and self._may_begin():
                        running[job] = self._begin(job)
                if not running:
                    return
                time.sleep(_LOOK_SECONDS)
                running = {job: p for job, p in running.items() if not self._has_ended(p)}
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
                if process.is_told:
                    process.remove_state()

    def _may_begin(self) -> bool:
        states = [trial.state.name for trial in self._study.trials]
        has_failed = len(states) >= _MOST_FAILURES and set(states) == {"FAIL"}
        is_left = self._study.num_waiting > 0 or len(states) < self._num_trials
        return is_left and not has_failed and time.monotonic() < self._deadline

    def _begin(self, job: int) -> TrialProcess:
        trial = self._study.begin()
        cores = sorted(os.sched_getaffinity(0))
        return TrialProcess(
            trial,
            self._folder / f"{trial.number + 1:04}",
            self._settings_of(trial.params),
            gpu=self._gpus[job % len(self._gpus)] if self._gpus else None,
            cores=cores[job % len(cores) :: self._num_jobs],
        )

    def _has_ended(self, process: TrialProcess) -> bool:
        """Judges the epochs that are new, and the end; returns whether the process has ended."""
        code = process.poll()  # first: what it wrote until then is read below
        for epoch, figures in enumerate(() if process.is_told else process.evaluations(), 1):
            if epoch > len(process.values) and not process.is_told:
                self._judge(process, epoch, figures)
        if code is None:
            return False
        if not process.is_told:
            self._end(process, *process.outcome(code))
        process.remove_state()
        return True

    def _judge(self, process: TrialProcess, epoch: int, figures: Mapping[str, Any]) -> None:
        name = f"validation_{self._objective}"
        if name not in figures:
            known = (n.removeprefix("validation_") for n in figures if n.startswith("validation_"))
            raise InputError(
                f"--objective is {self._objective}, which this task does not measure; there are "
                f"{', '.join(known)}"
            )
        value = process.values[epoch] = float(figures[name])
        best = self._study.best_epoch(process.values) or 0
        if math.isfinite(value) and self._study.is_pruned(process.trial, epoch, value):
            self._end(process, "pruned")
        elif self._patience is not None and epoch - best >= self._patience:
            self._end(process, "complete" if best else "diverged")

    def _end(self, process: TrialProcess, status: Status, note: str = "") -> None:
        self._study.end(process.trial, status, process.values, note)
        process.is_told = True
        process.terminate()
        self._ended(process, status, note)
