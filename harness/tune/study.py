"""The study: proposes what to try, prunes, and keeps every trial in a file, with Optuna.

What Optuna proposes for a trial depends on the seed, the trial's number and the trials before it.
So a search of one job that was killed and goes on is the one that was not killed.
"""

import contextlib
import errno
import math
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import InputError
from harness.tune.space import Parameter, Range, fixed_value

Objective = Literal["accuracy", "loss"]
Pruner = Literal["median", "halving", "none"]
Status = Literal["complete", "pruned", "diverged", "failed"]
STUDY_FILE_NAME = "study.db"
_SEEDS_APART = 1_000_003
"""Between the sampler's seeds of two trials, so that searches of different seeds differ."""
_STARTUP_TRIALS = 5
"""That the median pruner lets come to their end first."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of a trial."""

    number: int
    """From 1 on."""
    values: Mapping[str, Any]
    """Of the parameters."""
    status: Status
    epochs: Sequence[Mapping[str, float]]
    """`loss` and every metric on the validation rows after each epoch."""
    best_epoch: int | None
    """Counted from 1; None where there was none."""
    value: float | None
    """The objective in the best epoch."""
    seconds: float
    note: str
    """Why it failed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposal:
    """A trial that runs."""

    number: int
    values: Mapping[str, Any]
    trial: Any
    """Optuna's."""


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
    """A search's trials in an SQLite file. Not for several threads at once."""

    def __init__(
        self,
        folder: Path,
        parameters: Mapping[str, Parameter],
        *,
        objective: Objective,
        pruner: Pruner,
        seed: int,
        in_parallel: bool,
    ) -> None:
        """Opens the study in `folder`, or begins it. Trials that ran when it was last used, as it
        was killed, are put back: they run first.

        Raises:
            InputError: the file is damaged.
        """
        import optuna
        from sqlalchemy.exc import DBAPIError

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._parameters = parameters
        self._objective = objective
        self._seed = seed
        self._in_parallel = in_parallel
        # By a connection of ours: a path may hold what has a meaning in a URL.
        path = folder / STUDY_FILE_NAME
        connect = {"creator": lambda: sqlite3.connect(path, check_same_thread=False)}
        try:
            self._study = optuna.create_study(
                storage=optuna.storages.RDBStorage("sqlite:///tune", engine_kwargs=connect),
                study_name="tune",
                direction="maximize" if objective == "accuracy" else "minimize",
                pruner=_pruner(pruner),
                load_if_exists=True,
            )
        except DBAPIError as error:
            raise InputError(
                f"{path} is damaged, or not a study of Optuna: {error.orig}. Restore it, or name "
                "another --tune-dir."
            ) from error
        states = optuna.trial.TrialState
        for trial in self._study.get_trials(deepcopy=False, states=[states.RUNNING]):
            if "outcome" in trial.user_attrs:
                self._tell(trial.number, trial.user_attrs["outcome"])
                continue
            # In this order: killed in between, the trial is proposed anew, and alike.
            self._study.tell(trial.number, state=states.FAIL)
            if "number" in trial.user_attrs:
                again = {"number": trial.user_attrs["number"]}
                self._study.enqueue_trial(trial.params, user_attrs=again)

    def propose(self) -> Proposal:
        """The next trial: what to try."""
        trials = self._study.get_trials(deepcopy=False)
        waiting = [t for t in trials if t.state.name == "WAITING"]
        numbers = {t.user_attrs["number"] for t in trials if _is_begun(t)}
        number = (
            waiting[0].user_attrs["number"]
            if waiting
            else next(n for n in range(1, len(trials) + 2) if n not in numbers)
        )
        with warnings.catch_warnings():
            # That `constant_liar`, for trials that run at the same time, may change one day.
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            self._study.sampler = self._optuna.samplers.TPESampler(
                seed=(self._seed + number * _SEEDS_APART) % 2**32,
                constant_liar=self._in_parallel,
            )
        trial = self._study.ask()
        trial.set_user_attr("number", number)
        values = {name: _suggested(trial, name, p) for name, p in self._parameters.items()}
        return Proposal(number=number, values=values, trial=trial)

    def report(self, proposal: Proposal, epochs: Sequence[Mapping[str, float]]) -> bool:
        """Takes a trial's epochs so far; returns whether to prune it.

        Raises:
            InputError: the objective is no metric of the task.
        """
        if self._objective not in epochs[-1]:
            raise InputError(
                f"--objective is {self._objective}, which this task does not measure; there are "
                f"{', '.join(epochs[-1])}"
            )
        value = epochs[-1][self._objective]
        if not math.isfinite(value):
            return False  # it ends by itself
        proposal.trial.report(value, step=len(epochs))
        return bool(proposal.trial.should_prune())

    def end(
        self,
        proposal: Proposal,
        status: Status,
        epochs: Sequence[Mapping[str, float]],
        *,
        seconds: float,
        note: str = "",
    ) -> Trial:
        """Records what came of a trial."""
        best = self.best_epoch(epochs)
        done = Trial(
            number=proposal.number,
            values=proposal.values,
            status=status,
            epochs=epochs,
            best_epoch=best,
            value=None if best is None else epochs[best - 1][self._objective],
            seconds=seconds,
            note=note,
        )
        finite = [{k: v for k, v in epoch.items() if math.isfinite(v)} for epoch in epochs]
        outcome = {"status": status, "epochs": finite, "seconds": seconds, "note": note}
        proposal.trial.set_user_attr("values", dict(proposal.values))
        proposal.trial.set_user_attr("outcome", outcome)
        self._tell(proposal.trial.number, outcome)
        return done

    def _tell(self, number: int, outcome: Mapping[str, Any]) -> None:
        """Ends Optuna's trial of a number."""
        states = self._optuna.trial.TrialState
        if outcome["status"] == "complete":
            best = self.best_epoch(outcome["epochs"])
            assert best is not None
            self._study.tell(number, outcome["epochs"][best - 1][self._objective])
        else:
            # A trial that diverged is no better than any that was pruned: it tells the sampler
            # where not to look. One that failed tells nothing.
            state = states.FAIL if outcome["status"] == "failed" else states.PRUNED
            self._study.tell(number, state=state)

    def best_epoch(self, epochs: Sequence[Mapping[str, float]]) -> int | None:
        """The first epoch with the best objective, counted from 1."""
        sign = -1 if self._objective == "accuracy" else 1
        found = [
            (sign * epoch[self._objective], number)
            for number, epoch in enumerate(epochs, 1)
            if math.isfinite(epoch.get(self._objective, math.nan))
        ]
        return min(found)[1] if found else None

    @property
    def trials(self) -> list[Trial]:
        """Those that have ended, by number."""
        found = []
        for trial in self._study.get_trials(deepcopy=False):
            if not trial.state.is_finished() or "outcome" not in trial.user_attrs:
                continue  # it runs, or it was interrupted
            outcome = trial.user_attrs["outcome"]
            best = self.best_epoch(outcome["epochs"])
            found.append(
                Trial(
                    number=trial.user_attrs["number"],
                    values=trial.user_attrs["values"],
                    best_epoch=best,
                    value=None if best is None else outcome["epochs"][best - 1][self._objective],
                    **outcome,
                )
            )
        return sorted(found, key=lambda trial: trial.number)

    @property
    def best(self) -> Trial | None:
        """The trial with the best objective among those that came to their end."""
        sign = -1 if self._objective == "accuracy" else 1
        ended = [t for t in self.trials if t.status == "complete" and t.value is not None]
        return min(ended, key=lambda t: sign * (t.value or 0.0), default=None)


def _is_begun(trial: Any) -> bool:
    """Whether it has ended, runs or waits; a trial that was interrupted does not count."""
    ended = trial.state.is_finished()
    return "number" in trial.user_attrs and (not ended or "outcome" in trial.user_attrs)


def _suggested(trial: Any, name: str, parameter: Parameter) -> Any:
    if (value := fixed_value(parameter)) is not None:
        return value
    if not isinstance(parameter, Range):
        return trial.suggest_categorical(name, parameter)
    suggest = trial.suggest_int if isinstance(parameter.low, int) else trial.suggest_float
    return suggest(name, parameter.low, parameter.high, log=parameter.log)


def _pruner(name: Pruner) -> Any:
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=2)
    if name == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=1)
    return pruners.NopPruner()
