"""The search: Optuna proposes trials, each a process of `harness train` whose metrics it follows. A
proposal depends on the seed, the trial's number and the trials before it. So a search of one job
that was interrupted and resumed tries the same as an uninterrupted one."""

import contextlib
import errno
import functools
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.base.checks import require
from harness.base.child import OWN_CODE, end_with_parent
from harness.base.errors import InputError
from harness.base.reading import read_json
from harness.run.observers import run_files
from harness.run.observers.jsonl import FILE_NAME as METRICS_FILE_NAME
from harness.run.observers.jsonl import records
from harness.run.telemetry.nvml import VISIBLE
from harness.tools.tune.space import Pruner, SearchConfig
from kernels.files import remove, replacing

STUDY_FILE_NAME = "study.db"
TRIALS_FOLDER_NAME = "trials"
_SEEDS_APART = 1_000_003  # so that two trials, and searches of other seeds, differ
_STARTUP_TRIALS = 5  # trials that the median pruner never prunes
_MOST_FAILURES = 3  # the number of trials after which the search gives up if all of them failed
_LOOK_SECONDS = 0.2  # seconds between two looks at the processes and their files


def open_study(folder: Path, config: SearchConfig) -> Any:
    import optuna
    from sqlalchemy.exc import DBAPIError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruners: dict[Pruner, Any] = {
        "median": optuna.pruners.MedianPruner(_STARTUP_TRIALS, n_warmup_steps=2),
        "halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=1),
        "none": optuna.pruners.NopPruner(),
    }
    path = folder / STUDY_FILE_NAME
    # Make the connection here: a path may hold characters that have a meaning in a URL.
    connect = {"creator": lambda: sqlite3.connect(path)}
    try:
        return optuna.create_study(
            storage=optuna.storages.RDBStorage("sqlite:///tune", engine_kwargs=connect),
            study_name="tune",
            direction="maximize" if config.objective == "accuracy" else "minimize",
            pruner=pruners[config.pruner],
            load_if_exists=True,
        )
    except DBAPIError as error:
        if "full" in str(error.orig):
            raise OSError(errno.ENOSPC, str(error.orig), str(path)) from error
        raise InputError(
            f"{path} is damaged, or not a study of Optuna: {error.orig}. Restore it, or name "
            "another --run-dir."
        ) from error


@dataclass(kw_only=True)
class Trial:
    asked: Any  # Optuna's trial, whose number counts from 0
    folder: Path
    process: subprocess.Popen[bytes]
    values: dict[int, float] = field(default_factory=dict)  # after each epoch, from 1
    # The result of the trial; None until the study has it.
    status: Literal["complete", "pruned", "diverged", "failed"] | None = None
    note: str = ""  # the reason if the trial failed


@dataclass(frozen=True, kw_only=True)
class Search:
    """Runs the trials of a study, several at the same time, until there are enough."""

    study: Any  # Optuna's study
    searched: Mapping[str, Any]  # Optuna's distribution of each setting, by name
    config: SearchConfig
    seed: int
    folder: Path  # the folder of the study and the trials' folders
    gpus: Sequence[str]  # the GPUs that the jobs share in turn, as CUDA_VISIBLE_DEVICES names them
    num_jobs: int
    settings_of: Callable[[Mapping[str, Any]], str]  # a trial's, as TOML
    ended: Callable[[Trial], None]  # called with a trial when the study has its result
    first: Mapping[str, Any] = field(default_factory=dict)  # settings of the first trial
    falls: bool = False  # whether the learning rate falls to 0, so that the last epoch counts
    deadline: float = math.inf  # the end of the timeout, by time.monotonic()

    def run(self) -> None:
        """Runs the trials, at least one whatever the deadline. After Ctrl-C or at the deadline, the
        running ones save a checkpoint before it raises or returns."""
        from optuna.exceptions import StorageInternalError

        left = [t for t in self._trials() if t.state.name == "RUNNING"]  # interrupted before
        running: dict[int, Trial] = {}

        def may_begin() -> bool:
            states = [trial.state.name for trial in self._trials()]
            has_failed = len(states) >= _MOST_FAILURES and set(states) == {"FAIL"}
            is_short = bool(left) or len(states) < self.config.trials
            is_late = time.monotonic() >= self.deadline and (running or "COMPLETE" in states)
            return is_short and not has_failed and not is_late

        try:
            while True:
                for job in range(self.num_jobs):
                    if job not in running and may_begin():
                        running[job] = self._begin(self._ask(left), job)
                has_found = any(trial.state.name == "COMPLETE" for trial in self._trials())
                if not running or (has_found and time.monotonic() >= self.deadline):
                    return
                time.sleep(_LOOK_SECONDS)
                for job in [job for job, trial in running.items() if self._has_ended(trial)]:
                    del running[job]
        except StorageInternalError as error:
            reason = str(error.__cause__ or error).partition("\n")[0]
            number = errno.ENOSPC if "full" in reason else errno.EIO
            raise OSError(number, reason, str(self.folder / STUDY_FILE_NAME)) from error
        finally:
            for trial in running.values():
                trial.process.terminate()
            for trial in running.values():
                trial.process.wait()
                if trial.status is not None:
                    self._has_ended(trial)

    def best_epoch(self, values: Mapping[int, float]) -> int | None:
        """Returns the first epoch with the best finite objective; None if none is finite."""
        sign = 1 if self.study.direction.name == "MINIMIZE" else -1
        finite = [(sign * value, epoch) for epoch, value in values.items() if math.isfinite(value)]
        return min(finite)[1] if finite else None

    def counted_epoch(self, values: Mapping[int, float]) -> int | None:
        """Returns the epoch whose objective is the trial's; None if it diverged."""
        if not self.falls:
            return self.best_epoch(values)
        is_finite = values and all(map(math.isfinite, values.values()))
        return max(values) if is_finite else None

    def _trials(self) -> list[Any]:
        return list(self.study.get_trials(deepcopy=False))

    def _ask(self, interrupted: list[Any]) -> Any:
        import optuna

        if interrupted:
            return optuna.trial.Trial(self.study, interrupted.pop(0)._trial_id)
        trials = self._trials()
        seed = (self.seed + (len(trials) + 1) * _SEEDS_APART) % 2**32
        with warnings.catch_warnings():
            # Optuna warns that `constant_liar`, for trials at the same time, may change one day.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=self.num_jobs > 1)
        # Proposed in memory and written as a whole, so that a search that is killed meanwhile
        # proposes the trial again.
        memory = optuna.create_study(direction=self.study.direction, sampler=sampler)
        memory.add_trials(trials)
        if not trials:
            memory.enqueue_trial(dict(self.first))
        params = memory.ask(fixed_distributions=dict(self.searched)).params
        asked = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, params=params, distributions=dict(self.searched)
        )
        self.study.add_trial(asked)
        return optuna.trial.Trial(self.study, self._trials()[-1]._trial_id)

    def _begin(self, asked: Any, job: int) -> Trial:
        folder = self.folder / TRIALS_FOLDER_NAME / f"{asked.number + 1:04}"
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "trial.toml"
        with replacing(settings) as beside:
            beside.write_text(self.settings_of(asked.params), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "harness", "train", "--resume", "auto"]
        path = os.pathsep.join(filter(None, (str(OWN_CODE), os.environ.get("PYTHONPATH"))))
        own = {"PYTHONPATH": path}  # this code, whatever is installed
        if self.gpus:
            own[VISIBLE] = self.gpus[job % len(self.gpus)]
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--config", settings, "--run-dir", folder],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | own,
                start_new_session=True,  # so that Ctrl-C does not reach the trial
                preexec_fn=functools.partial(end_with_parent, signal.SIGKILL),
            )
        cores = sorted(os.sched_getaffinity(0))
        with contextlib.suppress(ProcessLookupError):  # it has ended, which is judged later
            os.sched_setaffinity(process.pid, cores[job % len(cores) :: self.num_jobs])
        return Trial(asked=asked, folder=folder, process=process)

    def _has_ended(self, trial: Trial) -> bool:
        """Judges the new epochs, and the end; returns whether the process has ended."""
        code = trial.process.poll()  # before reading, so that nothing written by then is missed
        found = records(trial.folder / METRICS_FILE_NAME) if trial.status is None else ()
        for epoch, figures in enumerate((r for r in found if "validation_loss" in r), 1):
            if epoch > len(trial.values) and trial.status is None:
                self._judge(trial, epoch, figures)
        if code is None:
            return False
        if trial.status is None:
            self._judge_end(trial, code)
        # best.toml is enough to repeat the best trial: remove the large files.
        for name in ("CHECKPOINT_FOLDER", "BEST_FILE", "MODEL_FILE"):
            remove(trial.folder / getattr(run_files, f"{name}_NAME"))
        self.ended(trial)
        return True

    def _judge(self, trial: Trial, epoch: int, figures: Mapping[str, Any]) -> None:
        name = f"validation_{self.config.objective}"
        require(
            name in figures,
            f"--objective is {self.config.objective}, which this task lacks; set --objective loss",
        )
        value = trial.values[epoch] = float(figures[name])
        # An interrupted trial repeats epochs; all but the last of them were judged before.
        known = max(self._trials()[trial.asked.number].intermediate_values, default=0)
        if math.isfinite(value) and epoch > known:
            trial.asked.report(value, step=epoch)
        best, patience = self.best_epoch(trial.values) or 0, self.config.early_stopping
        has_flattened = math.isfinite(value) and epoch > best
        # Judged again where the interrupted search had got to, in case it died in between.
        if has_flattened and epoch >= known and trial.asked.should_prune():
            self._end(trial, "pruned")
        elif patience is not None and epoch - best >= patience:
            self._end(trial, "complete" if best else "diverged")

    def _judge_end(self, trial: Trial, code: int) -> None:
        summary, log = trial.folder / run_files.SUMMARY_FILE_NAME, trial.folder / "log.txt"
        if code == 0 and self.counted_epoch(trial.values):
            self._end(trial, "complete")
        elif code == 0 or (summary.exists() and read_json(summary, remedy="").get("diverged")):
            self._end(trial, "diverged")
        else:
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            how = f"{signal.Signals(-code).name} ended it; see {log}: " if code < 0 else ""
            self._end(trial, "failed", f"{how}{last.removeprefix('error: ')}")

    def _end(self, trial: Trial, status: Any, note: str = "") -> None:
        from optuna.trial import TrialState

        trial.status, trial.note = status, note
        counted = self.counted_epoch(trial.values)
        if status == "complete" and counted is not None:
            self.study.tell(trial.asked, trial.values[counted])
        else:
            # A trial that diverged counts as pruned: it tells the sampler where not to look. A
            # failed trial tells nothing.
            state = TrialState.FAIL if status == "failed" else TrialState.PRUNED
            self.study.tell(trial.asked, state=state)
        trial.process.terminate()
