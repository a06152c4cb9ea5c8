"""The judgement of trials in a search, by their metrics.jsonl and their exit codes.

The processes are real but train nothing; tests/harness/cli/test_tune.py has searches that do.
"""

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.base.errors import InputError
from harness.data.options import BuildOptions
from harness.tools.tune.search import STUDY_FILE_NAME, Search, Trial, open_study
from harness.tools.tune.space import SearchConfig, Space, parameters


def search_in(folder: Path, *, seed: int = 0, falls: bool = False, **changes: Any) -> Search:
    config = SearchConfig(**{"pruner": "none", "early_stopping": None} | changes)
    return Search(
        study=open_study(folder, config),
        searched=parameters(Space(), BuildOptions(), takes_texts=False),
        config=config,
        seed=seed,
        folder=folder,
        gpus=(),
        num_jobs=1,
        settings_of=str,
        ended=lambda trial: None,
        first={"learning_rate": 0.004, "width": 128},
        falls=falls,
    )


def judged(search: Search, values: Sequence[float], command: str = "true", **more: Any) -> Trial:
    """Returns a trial with these accuracies after its epochs, once its process has ended."""
    asked = search._ask([])
    folder = search.folder / str(asked.number)
    folder.mkdir()
    lines = [
        {"step": epoch, "epoch": epoch - 1, "validation_accuracy": value, "validation_loss": -value}
        for epoch, value in enumerate(values, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"diverged": False} | more))
    (folder / "checkpoints").mkdir()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(["sh", "-c", command], stdout=log)
    trial = Trial(asked=asked, folder=folder, process=process)
    if command == "true":
        process.wait()
    while not search._has_ended(trial):
        pass
    assert not (folder / "checkpoints").exists()
    return trial


def params(search: Search) -> list[dict[str, Any]]:
    return [trial.params for trial in search.study.trials]


def test_what_a_trial_comes_to(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    assert judged(search, [0.5, 0.75, 0.75, 0.6]).status == "complete"
    assert search.study.best_value == 0.75
    assert judged(search, [0.5], "exit 1", diverged=True).status == "diverged"
    assert judged(search, [float("nan")]).status == "diverged"
    failed = judged(search, [0.9], "echo all is well; echo error: no memory; exit 2")
    assert (failed.status, failed.note) == ("failed", "no memory")
    killed = judged(search, [0.9], "kill -9 $$")
    assert killed.note.startswith(f"SIGKILL ended it; see {killed.folder / 'log.txt'}")
    states = [trial.state.name for trial in search.study.trials]
    assert states == ["COMPLETE", "PRUNED", "PRUNED", "FAIL", "FAIL"]


def test_a_trial_without_progress_is_ended(tmp_path: Path) -> None:
    search = search_in(tmp_path, early_stopping=2, objective="loss")
    trial = judged(search, [0.5, 0.4, 0.3, 0.9], "exec sleep 100")
    assert (trial.status, list(trial.values)) == ("complete", [1, 2, 3])
    assert trial.process.returncode == -signal.SIGTERM
    assert search.study.best_value == -0.5


def test_the_last_epoch_counts_where_the_rate_falls(tmp_path: Path) -> None:
    search = search_in(tmp_path, falls=True)
    assert judged(search, [0.5, 0.75, 0.6]).status == "complete"
    assert judged(search, [0.5, float("nan"), 0.6]).status == "diverged"
    assert search.study.best_value == 0.6


def test_the_recipe_is_the_first_trial(tmp_path: Path) -> None:
    """Optuna proposes what it leaves out."""
    search = search_in(tmp_path)
    for _ in range(2):
        judged(search, [0.5])
    first, second = params(search)
    assert (first["learning_rate"], first["width"], len(first)) == (0.004, 128, 5)
    assert second["learning_rate"] != 0.004


def test_a_trial_that_learns_is_not_ended(tmp_path: Path) -> None:
    search = search_in(tmp_path, pruner="median")
    for value in (0.6, 0.7, 0.8, 0.9, 1.0):
        judged(search, [value] * 4)
    assert judged(search, [0.1, 0.2, 0.3, 0.4]).status == "complete"


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_bad_trial_is_ended(pruner: str, tmp_path: Path) -> None:
    search = search_in(tmp_path, pruner=pruner)
    for value in (0.6, 0.7, 0.8, 0.9, 1.0):
        judged(search, [value] * 4)
    bad = judged(search, [0.1] * 4, "exec sleep 100")
    assert (bad.status, bad.process.returncode) == ("pruned", -signal.SIGTERM)
    assert len(bad.values) < 4
    # Killed before the study knew it, an interrupted trial is judged by its last epoch again.
    interrupted = search._ask([])
    for epoch in range(1, len(bad.values) + (pruner == "median")):
        interrupted.report(0.1, step=epoch)
    again = Trial(asked=interrupted, folder=bad.folder, process=bad.process)
    assert search_in(tmp_path, pruner=pruner)._has_ended(again)
    assert (again.status, again.values) == ("pruned", bad.values)


def test_the_seed_and_the_trials_before_decide_what_is_proposed(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("whole", "resumed", "other")]
    for folder in folders:
        folder.mkdir()
    whole, other = search_in(folders[0]), search_in(folders[2], seed=1)
    for number in range(12):
        judged(whole, [number / 20])
        judged(search_in(folders[1]), [number / 20])
    for _ in range(2):
        judged(other, [0.5])
    assert params(whole) == params(search_in(folders[1]))
    assert params(other)[1] != params(whole)[1]


def test_a_full_disk_names_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # Optuna waits before it tries again
    search, path = search_in(tmp_path), tmp_path / STUDY_FILE_NAME
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, before[1]))
        with pytest.raises(OSError, match=r"study\.db"):
            search.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert search_in(tmp_path).study.trials == []


def test_the_deadline_ends_trials_once_one_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "a?b {c} %20#"  # whatever a URL would make of it
    folder.mkdir()
    search = replace(search_in(folder), settings_of=lambda _: "epochs = 1_000_000")
    judged(search, [0.5])
    replace(search, deadline=time.monotonic() + 1).run()
    assert [trial.state.name for trial in search.study.trials] == ["COMPLETE", "RUNNING"]
    replace(search, deadline=0.0).run()  # starts none, not even that which was stopped
    assert (folder / STUDY_FILE_NAME).stat().st_size > 0


def test_jobs_take_turns_in_the_gpus_and_share_the_cores(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    trains: dict[str, Any] = {"settings_of": lambda _: "", "gpus": ("GPU-a", "MIG-b")}
    jobs = replace(search_in(tmp_path), num_jobs=3, **trains)
    trials = [jobs._begin(jobs._ask([]), job) for job in range(3)]
    try:
        started = [psutil.Process(trial.process.pid) for trial in trials]
        gpus = [process.environ()["CUDA_VISIBLE_DEVICES"] for process in started]
        assert gpus == ["GPU-a", "MIG-b", "GPU-a"]
        shares = [process.cpu_affinity() for process in started]
        assert shares == [cores[job % len(cores) :: 3] for job in range(3)]
    finally:
        for trial in trials:
            trial.process.kill()
            trial.process.wait()


def test_a_damaged_study_is_one_message(tmp_path: Path) -> None:
    (tmp_path / STUDY_FILE_NAME).write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"study.db is damaged, or not a study of Optuna.*Restore"):
        search_in(tmp_path)
