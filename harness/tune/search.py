"""The search: trials at the same time, each on a device of its own, until there are enough."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from harness.tune.study import Proposal, Status, Study, Trial
from harness.tune.trial import Metrics, Outcome, TrialProcess

_MOST_TRIALS = 20
"""Of one process. TensorFlow keeps some of what was compiled: 20 to 50 MB for each trial."""
_MOST_FAILURES = 3
"""After so many trials, all of which failed, the search ends."""
_LOOK_SECONDS = 0.2
"""Between two looks at whether the threads have ended, so that Ctrl-C is not held up."""

Settings = Mapping[str, Any]


class Search:
    """Runs the trials of a study."""

    def __init__(
        self,
        study: Study,
        *,
        num_trials: int,
        timeout: float | None,
        patience: int | None,
        settings_of: Callable[[Mapping[str, Any]], Settings],
        start: Callable[[int], TrialProcess],
        ended: Callable[[Trial], None],
    ) -> None:
        """Args:
        study: with the trials so far.
        num_trials: in all, those that have ended included.
        timeout: seconds after which no trial starts.
        patience: a trial ends after so many epochs without a better one.
        settings_of: a trial's settings, of its values.
        start: starts the process of a job, in the place of one that ended.
        ended: is told of each trial.
        """
        self._study = study
        self._num_trials = num_trials
        self._end = None if timeout is None else time.monotonic() + timeout
        self._patience = patience
        self._settings_of = settings_of
        self._start = start
        self._ended = ended
        self._lock = threading.Lock()
        self._is_stopped = False
        self._num_begun = len(study.trials)
        self._error: BaseException | None = None

    @property
    def has_failed(self) -> bool:
        """Whether so many trials failed, and no other ended, that the search gave up."""
        trials = self._study.trials
        return len(trials) >= _MOST_FAILURES and all(t.status == "failed" for t in trials)

    def run(self, processes: Sequence[TrialProcess]) -> None:
        """Runs trials on all processes, which are taken over, until there are enough.

        Raises:
            KeyboardInterrupt: after Ctrl-C. Trials that ran then are repeated on resuming.
        """
        threads = [
            threading.Thread(target=self._work, args=(process, job))
            for job, process in enumerate(processes)
        ]
        self._processes = list(processes)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive() and self._error is None:
                    thread.join(_LOOK_SECONDS)
        finally:
            self._is_stopped = True
            for process in self._processes:
                process.kill()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self._error is not None:
            raise self._error

    def _work(self, process: TrialProcess, job: int) -> None:
        """One process after another: the next takes the place of one that ended."""
        try:
            with ExitStack() as closing:
                closing.enter_context(process)
                is_usable = True
                while (proposal := self._next()) is not None:
                    if not is_usable:
                        closing.close()
                        process = self._processes[job] = closing.enter_context(self._start(job))
                    settings = self._settings_of(proposal.values)
                    started = time.perf_counter()
                    is_pruned = False

                    def is_enough(epochs: Sequence[Metrics], proposal: Proposal = proposal) -> bool:
                        nonlocal is_pruned
                        is_pruned = self._is_pruned(proposal, epochs)
                        return is_pruned or self._is_patience_over(epochs)

                    outcome = process.train(settings, is_enough=is_enough)
                    seconds = time.perf_counter() - started
                    if self._is_stopped:
                        return
                    self._record(proposal, outcome, is_pruned=is_pruned, seconds=seconds)
                    is_usable = outcome.has_process and process.num_trained < _MOST_TRIALS
        except BaseException as error:  # noqa: BLE001 - raised by `run`, in the main thread
            self._is_stopped = True
            self._error = error

    def _next(self) -> Proposal | None:
        with self._lock:
            is_late = self._end is not None and time.monotonic() >= self._end
            if self._is_stopped or is_late or self._num_begun >= self._num_trials:
                return None
            if self.has_failed:
                return None
            self._num_begun += 1
            return self._study.propose()

    def _is_pruned(self, proposal: Proposal, epochs: Sequence[Metrics]) -> bool:
        with self._lock:
            return self._study.report(proposal, epochs)

    def _is_patience_over(self, epochs: Sequence[Metrics]) -> bool:
        best = self._study.best_epoch(epochs)
        since = len(epochs) - (best or 0)
        return self._patience is not None and since >= self._patience

    def _record(
        self, proposal: Proposal, outcome: Outcome, *, is_pruned: bool, seconds: float
    ) -> None:
        status: Status = outcome.status
        if status == "complete" and is_pruned:
            status = "pruned"
        with self._lock:
            trial = self._study.end(
                proposal, status, outcome.epochs, seconds=seconds, note=outcome.note
            )
            self._ended(trial)
