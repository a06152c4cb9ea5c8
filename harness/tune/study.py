"""The study: Optuna proposes what to try, prunes, and keeps every trial in an SQLite file.

What Optuna proposes for a trial depends on the seed, the trial's number and the trials before it.
So a search of one job that was killed and resumed tries what it would have tried anyway.
"""

import contextlib
import errno
import math
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from harness.errors import InputError

Objective = Literal["accuracy", "loss"]
Pruner = Literal["median", "halving", "none"]
Status = Literal["complete", "pruned", "diverged", "failed"]
FILE_NAMES = ("study.db", "study.db-journal")
"""Of the study, and of SQLite's journal beside it."""
NOTE = "note"
"""The attribute of a failed trial that says why it failed."""
_SEEDS_APART = 1_000_003
"""Between the sampler's seeds of two trials, so that searches of different seeds differ."""
_STARTUP_TRIALS = 5
"""Trials that the median pruner never prunes."""


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns Optuna's error about the file at `path` back into the OSError that caused it."""
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except StorageInternalError as error:
        reason = str(error.__cause__ or error).partition("\n")[0]
        number = errno.ENOSPC if "full" in reason else errno.EIO
        raise OSError(number, reason, str(path)) from error


class Study:
    """The trials of a search. `Any` stands for Optuna's trials, whose numbers count from 0."""

    def __init__(
        self,
        folder: Path,
        searched: Mapping[str, Any],
        *,
        objective: Objective,
        pruner: Pruner,
        seed: int,
        in_parallel: bool,
    ) -> None:
        """Opens the study in `folder`, or begins one that varies `searched`, Optuna's distributions.

        Raises:
            InputError: the file is damaged.
        """
        import optuna
        from sqlalchemy.exc import DBAPIError

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._searched = optuna, searched
        self._seed, self._in_parallel = seed, in_parallel
        self._sign = -1 if objective == "accuracy" else 1
        path = folder / FILE_NAMES[0]
        pruners = {
            "median": optuna.pruners.MedianPruner(_STARTUP_TRIALS, n_warmup_steps=2),
            "halving": optuna.pruners.SuccessiveHalvingPruner(min_resource=1),
            "none": optuna.pruners.NopPruner(),
        }
        # By a connection of ours: a path may hold what has a meaning in a URL.
        connect = {"creator": lambda: sqlite3.connect(path)}
        try:
            self._study = optuna.create_study(
                storage=optuna.storages.RDBStorage("sqlite:///tune", engine_kwargs=connect),
                study_name="tune",
                direction="maximize" if objective == "accuracy" else "minimize",
                pruner=pruners[pruner],
                load_if_exists=True,
            )
        except DBAPIError as error:
            raise InputError(
                f"{path} is damaged, or not a study of Optuna: {error.orig}. Restore it, or name "
                "another --tune-dir."
            ) from error
        running = [trial for trial in self.trials if trial.state.name == "RUNNING"]
        self._interrupted = [optuna.trial.Trial(self._study, t._trial_id) for t in running]

    @property
    def trials(self) -> list[Any]:
        """All trials by number, as they are in the file."""
        return list(self._study.get_trials(deepcopy=False))

    @property
    def num_waiting(self) -> int:
        """Trials that ran when the study was last used, and have not been begun again."""
        return len(self._interrupted)

    def begin(self) -> Any:
        """The next trial: one that was interrupted, else a new one."""
        if self._interrupted:
            return self._interrupted.pop(0)
        with warnings.catch_warnings():
            # That `constant_liar`, for trials that run at the same time, may change one day.
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            self._study.sampler = self._optuna.samplers.TPESampler(
                seed=(self._seed + (len(self.trials) + 1) * _SEEDS_APART) % 2**32,
                constant_liar=self._in_parallel,
            )
        return self._study.ask(fixed_distributions=self._searched)

    def is_pruned(self, trial: Any, epoch: int, value: float) -> bool:
        """Takes a trial's objective after an epoch, counted from 1; returns whether to prune it."""
        known = max(self.trials[trial.number].intermediate_values, default=0)
        if epoch > known:
            trial.report(value, step=epoch)
        # An interrupted trial repeats epochs, of which all but the last were judged before.
        return epoch >= known and bool(trial.should_prune())

    def end(self, trial: Any, status: Status, values: Mapping[int, float], note: str = "") -> None:
        """Records what came of a trial, whose objective after each epoch is in `values`."""
        states = self._optuna.trial.TrialState
        best = self.best_epoch(values)
        if status == "complete" and best is not None:
            self._study.tell(trial, values[best])
            return
        trial.set_user_attr(NOTE, note)
        # A trial that diverged counts as one that was pruned: it tells the sampler where not to
        # look. One that failed tells nothing.
        self._study.tell(trial, state=states.FAIL if status == "failed" else states.PRUNED)

    def best_epoch(self, values: Mapping[int, float]) -> int | None:
        """The first epoch with the best finite objective; None where there is none."""
        finite = [(self._sign * value, e) for e, value in values.items() if math.isfinite(value)]
        return min(finite)[1] if finite else None

    @property
    def best(self) -> Any:
        """The first of the best trials among those that came to their end; None without one."""
        ended = [trial for trial in self.trials if trial.state.name == "COMPLETE"]
        return min(ended, key=lambda trial: self._sign * trial.value, default=None)
