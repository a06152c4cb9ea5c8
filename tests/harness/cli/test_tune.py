"""`harness tune` from texts to the settings of a model: killed, resumed, and repeated by train."""

import contextlib
import json
import os
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import psutil
import pytest

from harness.cli.tune import described, toml_text
from tests.harness.cli.runs import (
    Result,
    call,
    command_line,
    contents,
    environment,
    names_in,
    records,
    summary,
)
from tests.harness.run.observers.tensorboard_app import TensorBoardApp

SPACE = (
    *("--learning-rates", "0.05", "--widths", "8", "--depths", "1", "--dropouts", "0"),
    *("--weight-decays", "1e-4", "1e-3", "--ngrams-choices", "1", "2"),
    *("--num-tokens-choices", "100", "--epochs", "8", "--early-stopping", "7"),
)
LAYOUT = ("--batch-size", "20", "--implementation", "gather")


def write_table(path: Path, *, reverse: bool) -> None:
    """Writes rows whose class follows from the order of two words, but from no single word."""
    order = ("no", "yes")
    if reverse:
        order = order[::-1]
    rows = [f"good bad {n % 7},{order[0]}\nbad good {n % 7},{order[1]}\n" for n in range(100)]
    path.write_text("text,label\n" + "".join(rows))


def started(*arguments: object) -> subprocess.Popen[str]:
    """Starts `harness tune` in a separate process, as a terminal does."""
    env = environment() | {"XLA_FLAGS": os.environ["XLA_FLAGS"], "PYTHONUNBUFFERED": "1"}
    command = command_line("tune", *arguments)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[object, ...], Result]:
    """Returns the folder of a search that was killed and resumed, its flags, and its result."""
    place = tmp_path_factory.mktemp("tune")
    write_table(place / "train.csv", reverse=False)
    write_table(place / "test.csv", reverse=False)
    flags = ("--data", place / "train.csv", "--test-data", place / "test.csv", *SPACE, *LAYOUT)
    folder = place / "search"
    with started(*flags, "--run-dir", folder, "--trials", 30) as process:
        assert process.stdout is not None
        assert any("1/30" in line for line in process.stdout)  # a trial has ended
        process.send_signal(signal.SIGKILL)
    # Whatever the test rows say, the search goes on as it began.
    write_table(place / "test.csv", reverse=True)
    result = call("tune", *flags, "--run-dir", folder, "--trials", 2, "--resume")
    return folder, flags, result


def test_it_finds_the_better_setting(searched: tuple[Path, tuple[object, ...], Result]) -> None:
    folder, _, result = searched
    best = tomllib.loads((folder / "best.toml").read_text())
    assert (result.code, "2/2  learning rate 0.05" in result.out) == (0, True), result
    assert "1/2" not in result.out  # the one that had ended before
    assert "validation accuracy 1.0000" in result.out
    assert "recipe" not in result.out  # it was found before
    config = json.loads((folder / "config.json").read_text())
    assert config["recipe"]["weighting"] == best["weighting"] == "tf_idf"
    assert "longer         " in result.out
    assert (best["ngrams"], best["num_tokens"], best["hidden_units"]) == (2, 100, [8])
    assert 1 <= best["epochs"] <= 8


def test_train_repeats_the_best_trial(
    searched: tuple[Path, tuple[object, ...], Result], tmp_path: Path
) -> None:
    train = ("train", "--config", searched[0] / "best.toml", "--run-dir")
    done = call(*train, tmp_path / "run")
    assert done.code == 0, done.err
    assert records(tmp_path / "run")[-1]["validation_accuracy"] == 1.0
    on_all = call(*train, tmp_path / "all", "--validation-split", "0", "--epochs", "1")
    assert on_all.code == 0, on_all.err
    assert "best.keras" not in names_in(tmp_path / "all")
    # Its test rows say the opposite, which the search never saw.
    assert summary(tmp_path / "run")["test_accuracy"] == 0.0


def test_trials_are_run_folders(searched: tuple[Path, tuple[object, ...], Result]) -> None:
    trials = searched[0] / "trials"
    assert sorted(path.name for path in trials.iterdir()) == ["0001", "0002"]
    for folder in trials.iterdir():
        assert "validation_accuracy" in summary(folder)
        assert "test_accuracy" not in summary(folder)
        assert not list(folder.rglob("*.keras"))
        assert not list(folder.rglob("*.npz"))
    request = {
        "sliceSize": 10,
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE"],
        "colParams": [
            {"hparam": name, "includeInResult": True} for name in ("ngrams", "weight_decay")
        ],
    }
    rows = TensorBoardApp(trials).post("hparams/session_groups", request)["sessionGroups"]
    assert {row["hparams"]["ngrams"] for row in rows} == {1, 2}
    assert len({row["hparams"]["weight_decay"] for row in rows}) == 2


def records_of(trial: Path) -> str:
    path = trial / "metrics.jsonl"
    return path.read_text() if path.exists() else ""


def test_ctrl_c_saves_what_was_trained(tmp_path: Path) -> None:
    data = ("--synthetic-rows", "1000", "--synthetic-tokens", "100")
    flags = (*data, "--run-dir", tmp_path / "search", *LAYOUT)
    flags += ("--trials", "1", "--epochs", "80", "--early-stopping", "None", "--widths", "8")
    trial = tmp_path / "search" / "trials" / "0001"
    with started(*flags) as process:
        while "validation" not in records_of(trial):
            assert process.poll() is None
            time.sleep(0.05)
        children = psutil.Process(process.pid).children()
        (job,) = (child for child in children if "train" in child.cmdline())
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        out = process.stdout.read()
    assert process.returncode == 130
    assert f"interrupted with 1 trials left; to go on, add --run-dir {tmp_path}" in out
    assert not job.is_running()
    assert list((trial / "checkpoints").iterdir())


def test_a_search_is_killed_while_the_process_of_its_checks_starts(tmp_path: Path) -> None:
    with started("--run-dir", tmp_path / "search") as process:
        search, found = psutil.Process(process.pid), []
        while not found:
            assert process.poll() is None
            with contextlib.suppress(psutil.NoSuchProcess):  # another child, which has ended
                words = {child: " ".join(child.cmdline()) for child in search.children()}
                found = [child for child in words if "spawn_main" in words[child]]
        found[0].suspend()
        process.kill()
        process.wait()
        found[0].resume()
    found[0].wait(60)


def test_a_folder_with_a_search(
    searched: tuple[Path, tuple[object, ...], Result], tmp_path: Path
) -> None:
    folder, flags, _ = searched
    before = contents(folder)
    for more, message in (
        ((), "already holds a search (config.json, study.db); give --resume to go on with it"),
        (("--resume", "--seed", "1"), "cannot be resumed with other settings: --seed was 0 and is"),
    ):
        refused = call("tune", *flags, "--run-dir", folder, *more)
        assert (refused.code, refused.out) == (2, "")
        assert message in refused.err
    none = call("tune", *flags, "--run-dir", tmp_path / "none", "--resume")
    assert (none.code, "holds no search to go on with" in none.err) == (2, True)
    assert contents(folder) == before
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
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


def test_settings_are_read_back() -> None:
    settings = {
        "data": '/a "folder"\\with\x7f\n\ttabs, ä and 🎬',
        "learning_rate": 1e-30,
        "hidden_units": [8, 16],
        "dropout": [],
        "unique": False,
        "num_words": None,
    }
    assert tomllib.loads(toml_text(settings)) == settings | {"num_words": "None"}
    values = {"learning_rate": 0.00123456, "num_tokens": 30_000}
    assert described(values) == "learning rate 0.001235, num tokens 30,000"
