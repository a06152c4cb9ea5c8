"""`harness tune` from texts to the settings of a model: killed, resumed, and repeated by train."""

import json
import os
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest

from harness.tune.study import STUDY_FILE_NAME
from tests.harness.cli.runs import (
    Result,
    call,
    command_line,
    contents,
    environment,
    records,
    summary,
)

SPACE = (
    *("--learning-rates", "0.05", "--widths", "8", "--depths", "1", "--dropouts", "0"),
    *("--weight-decays", "1e-4", "1e-3", "--ngrams-choices", "1", "2"),
    *("--num-tokens-choices", "100", "--epochs", "8", "--early-stopping", "7"),
)
LAYOUT = ("--batch-size", "20", "--implementation", "gather")


def write_table(path: Path, *, reverse: bool) -> None:
    """The order of two words decides: each word by itself says nothing."""
    order = ("no", "yes")
    if reverse:
        order = order[::-1]
    rows = [f"good bad {n % 7},{order[0]}\nbad good {n % 7},{order[1]}\n" for n in range(100)]
    path.write_text("text,label\n" + "".join(rows))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[object, ...], Result]:
    """The folder of a search that was killed and resumed, its flags, and what that came to."""
    place = tmp_path_factory.mktemp("tune")
    write_table(place / "train.csv", reverse=False)
    write_table(place / "test.csv", reverse=False)
    flags = ("--data", place / "train.csv", "--test-data", place / "test.csv", *SPACE, *LAYOUT)
    folder = place / "search"
    command = command_line("tune", *flags, "--tune-dir", folder, "--trials", 30)
    env = environment() | {"XLA_FLAGS": os.environ["XLA_FLAGS"], "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # a trial has ended
        process.send_signal(signal.SIGKILL)
    # Whatever the test rows say, the search goes on as it began.
    write_table(place / "test.csv", reverse=True)
    result = call("tune", *flags, "--tune-dir", folder, "--trials", 3, "--resume")
    return folder, flags, result


def test_it_finds_the_better_setting(searched: tuple[Path, tuple[object, ...], Result]) -> None:
    folder, _, result = searched
    assert (result.code, "3/3  learning rate 0.05" in result.out) == (0, True), result
    assert "1/3" not in result.out  # the one that had ended before
    assert "validation accuracy 1.0000" in result.out
    best = tomllib.loads((folder / "best.toml").read_text())
    assert (best["ngrams"], best["num_tokens"], best["hidden_units"]) == (2, 100, [8])
    assert 1 <= best["epochs"] <= 8


def test_train_repeats_the_best_trial(
    searched: tuple[Path, tuple[object, ...], Result], tmp_path: Path
) -> None:
    folder, _, _ = searched
    done = call("train", "--config", folder / "best.toml", "--run-dir", tmp_path / "run")
    assert done.code == 0, done.err
    assert records(tmp_path / "run")[-1]["validation_accuracy"] == 1.0
    # Its test rows say the opposite, which the search never saw.
    assert summary(tmp_path / "run")["test_accuracy"] == 0.0


def test_trials_are_rows_of_the_hparams_page(
    searched: tuple[Path, tuple[object, ...], Result],
) -> None:
    folder, _, _ = searched
    names = sorted(path.name for path in (folder / "tensorboard").iterdir() if path.is_dir())
    assert names == ["trial_0001", "trial_0002", "trial_0003"]


def test_a_folder_with_a_search(
    searched: tuple[Path, tuple[object, ...], Result], tmp_path: Path
) -> None:
    folder, flags, _ = searched
    before = contents(folder)
    for more, message in (
        ((), "already holds a search (config.json, study.db); give --resume to go on with it"),
        (("--resume", "--seed", "1"), "cannot be resumed with other settings: --seed was 0 and is"),
        (("--resume", "--min-count", "2"), "--min-count was 1 and is now 2"),
        (("--resume", "--validation-split", "0.5"), "cannot be resumed with other data"),
    ):
        refused = call("tune", *flags, "--tune-dir", folder, *more)
        assert (refused.code, refused.out) == (2, "")
        assert message in refused.err
    none = call("tune", *flags, "--tune-dir", tmp_path / "none", "--resume")
    assert (none.code, "holds no search to go on with" in none.err) == (2, True)
    assert contents(folder) == before
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--validation-split", "0"), "--validation-split is 0, but a search needs rows to judge"),
        (("--trials", "0"), "--trials is 0; it must be at least 1"),
        (("--jobs", "0"), "--jobs is 0"),
        (("--timeout", "0"), "--timeout is 0.0; it must be above 0"),
        (("--early-stopping", "0"), "--early-stopping is 0"),
        (("--widths", "9", "3"), "--widths is 9 3; the first must not be above the second"),
        (("--resume",), "--resume needs --tune-dir"),
        (("--ngrams-choices", "2", "3"), "the data is not built from texts; leave it out"),
        (("--batch-size", "5000", "--synthetic-rows", "500"), "--batch-size is 5000 but the data"),
    ],
)
def test_wrong_options(
    flags: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("tune", *flags)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not list(tmp_path.iterdir())


def test_what_only_the_process_knows_is_one_message(tmp_path: Path) -> None:
    flags = ("--synthetic-rows", "1000", "--batch-size", "100", "--tune-dir", tmp_path / "none")
    done = call("tune", *flags, "--optimizer", "ftrll")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "--optimizer is 'ftrll'" in done.err
    assert not (tmp_path / "none").exists()


def test_the_study_is_optunas(searched: tuple[Path, tuple[object, ...], Result]) -> None:
    """Its own tools read it."""
    import optuna

    folder, _, _ = searched
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / STUDY_FILE_NAME}")
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    assert study.best_value == 1.0
    assert json.loads((folder / "config.json").read_text())["trials"] == 30
