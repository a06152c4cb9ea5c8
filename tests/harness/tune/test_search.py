"""Searches by processes that only act: proposals, pruning, failures, several jobs, resuming."""

import resource
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.tune.search import Search
from harness.tune.space import Parameter, Range
from harness.tune.study import STUDY_FILE_NAME, Study, Trial, storage_errors
from harness.tune.trial import TrialProcess

RATE = {"learning_rate": Range(low=0.1, high=1.0, log=False)}


def start(job: int) -> TrialProcess:
    module = "tests.harness.tune.acting_process"
    return TrialProcess({}, job=job, num_jobs=1, module=module)


def open_study(folder: Path, parameters: dict[str, Parameter] = RATE, **changes: Any) -> Study:
    asked = {"objective": "accuracy", "pruner": "none", "seed": 0, "in_parallel": False}
    return Study(folder, parameters, **asked | changes)


def search(study: Study, num_trials: int, *, num_jobs: int = 1, **changes: Any) -> Search:
    """One that has ended."""
    ended: list[Trial] = []
    asked: dict[str, Any] = {"timeout": None, "patience": None, "settings_of": dict} | changes
    made = Search(study, num_trials=num_trials, start=start, ended=ended.append, **asked)
    with ExitStack() as closing:
        made.run([closing.enter_context(start(job)) for job in range(num_jobs)])
    assert {t.number for t in ended} <= {t.number for t in study.trials}
    return made


def without_times(trials: list[Trial]) -> list[dict[str, Any]]:
    return [vars(trial) | {"seconds": 0} for trial in trials]


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    """The trials of a search that nothing disturbed."""
    study = open_study(tmp_path_factory.mktemp("eight"))
    search(study, 8)
    return study.trials


def test_it_finds_the_best_of_its_trials(tmp_path: Path, eight: list[Trial]) -> None:
    assert [trial.number for trial in eight] == list(range(1, 9))
    assert {trial.status for trial in eight} == {"complete"}
    rates = [trial.values["learning_rate"] for trial in eight]
    assert len(set(rates)) == 8
    for trial in eight:
        rate = trial.values["learning_rate"]
        rises = rate > 0.5
        assert trial.best_epoch == (6 if rises else 1)
        assert trial.value == pytest.approx(rate + (0.5 - rate) / 32 if rises else 0.5)
    study = open_study(tmp_path)
    search(study, 2, num_jobs=2)  # at the same time
    both = study.trials
    assert [trial.number for trial in both] == [1, 2]
    assert study.best is not None
    assert study.best.value == max(trial.value or 0 for trial in both)


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(
    tmp_path: Path, eight: list[Trial]
) -> None:
    study = open_study(tmp_path)
    search(study, 3)
    study.propose()  # it runs while the search is killed
    again = open_study(tmp_path)
    assert len(again.trials) == 3
    search(again, 5)
    again.propose()
    longer = open_study(tmp_path)
    search(longer, 8)
    assert without_times(longer.trials) == without_times(eight)


def test_another_seed_is_another_search(tmp_path: Path, eight: list[Trial]) -> None:
    study = open_study(tmp_path, seed=1)
    search(study, 1)
    assert study.trials[0].values != eight[0].values


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_bad_trials_are_pruned(pruner: str, tmp_path: Path) -> None:
    study = open_study(tmp_path, pruner=pruner)
    search(study, 12)
    pruned = [trial for trial in study.trials if trial.status == "pruned"]
    assert pruned
    assert all(len(trial.epochs) < 6 for trial in pruned)
    best = study.best
    assert best is not None
    assert best.status == "complete"
    assert all((trial.value or 0) < (best.value or 0) for trial in pruned)


def test_a_trial_without_progress_ends(tmp_path: Path) -> None:
    study = open_study(tmp_path, {"learning_rate": (0.2,)}, objective="loss")
    search(study, 1, patience=2)
    (trial,) = study.trials
    assert (trial.status, trial.best_epoch, len(trial.epochs)) == ("complete", 1, 3)
    assert trial.value == pytest.approx(0.5)


def test_trials_that_fail_are_recorded(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    rates = iter([0.9, 1.5, 2.5, 3.5, 0.8])
    search(study, 5, settings_of=lambda _: {"learning_rate": next(rates)})
    statuses = [trial.status for trial in study.trials]
    assert statuses == ["complete", "diverged", "failed", "failed", "complete"]
    assert study.trials[2].note == "the rate is above 2"
    assert "SIGABRT" in study.trials[3].note
    assert study.best is not None
    assert study.best.number == 1


def test_a_search_of_which_all_fails_ends(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    made = search(study, 50, settings_of=lambda _: {"learning_rate": 2.5})
    assert made.has_failed
    assert len(study.trials) == 3
    assert study.best is None


def test_no_trial_starts_after_the_timeout(tmp_path: Path) -> None:
    folder = tmp_path / "a?b {c} %20#"  # whatever a URL would make of it
    folder.mkdir()
    study = open_study(folder)
    search(study, 50, timeout=1e-9)
    assert study.trials == []
    assert (folder / STUDY_FILE_NAME).stat().st_size > 0


def test_a_damaged_study_is_one_message(tmp_path: Path) -> None:
    (tmp_path / STUDY_FILE_NAME).write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"study.db is damaged, or not a study of Optuna.*Restore"):
        open_study(tmp_path)


def test_a_full_disk_names_the_study(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    path = tmp_path / STUDY_FILE_NAME
    size = path.stat().st_size + 1
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        with pytest.raises(OSError, match=r"study\.db"), storage_errors(path):
            search(study, 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    again = open_study(tmp_path)
    num_kept = len(again.trials)
    assert num_kept < 20
    search(again, num_kept + 1)
    assert [trial.number for trial in again.trials] == list(range(1, num_kept + 2))


def test_ctrl_c_repeats_what_ran(tmp_path: Path, eight: list[Trial]) -> None:
    study = open_study(tmp_path)

    def interrupted() -> Iterator[dict[str, float]]:
        yield {"learning_rate": 0.9}
        raise KeyboardInterrupt

    settings = interrupted()
    with pytest.raises(KeyboardInterrupt):
        search(study, 8, settings_of=lambda _: next(settings))
    assert len(study.trials) == 1
    again = open_study(tmp_path)
    search(again, 2)
    assert [trial.number for trial in again.trials] == [1, 2]
