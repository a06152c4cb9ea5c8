"""The recipe of `harness train`, on texts of a real corpus: chosen on held-out train rows alone."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.base.decoding import flattened
from harness.run.observers.run_files import RESOLVED, read_config
from harness.tools.recipe import DECIDES
from tests.harness.cli.runs import call, summary

# Both have the tutorial's values, which a recipe would change.
FLAGS = ("--epochs", "2", "--learning-rate-schedule", "constant")


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])


@pytest.fixture(scope="module")
def reviews(imdb_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with the words of real reviews: train.csv, of 800, and test.csv, of 400,
    whose labels are turned round: were they looked at, the worst candidate would be chosen."""
    folder = tmp_path_factory.mktemp("reviews")
    data = harness.load(imdb_path, unique=False)
    assert data.vocabulary is not None
    for part, sets, count in (("train", data.train, 800), ("test", data.test, 400)):
        bounds = sets.row_splits.tolist()
        names = ("neg", "pos") if part == "train" else ("pos", "neg")
        rows = [
            (data.vocabulary.decode(sets.values[bounds[row] : bounds[row + 1]]), names[label])
            for row, label in enumerate(sets.labels[:count].tolist())
        ]
        write(folder / f"{part}.csv", rows)
    return folder


@pytest.fixture(scope="module")
def trained(reviews: Path) -> tuple[Path, Any]:
    """Returns the folder of a run of the default command, and the command's result."""
    folder = reviews / "run"
    data = ("--data", reviews / "train.csv", "--test-data", reviews / "test.csv")
    return folder, call("train", *data, *FLAGS, "--run-dir", folder)


def chosen(folder: Path) -> dict[str, Any]:
    """Returns the settings that a recipe decides, as config.json has them."""
    config = read_config(folder)
    config.pop(RESOLVED)
    return {name: value for name, value in flattened(config).items() if name in DECIDES}


def test_the_default_command_beats_the_tutorials_settings(
    reviews: Path, trained: tuple[Path, Any]
) -> None:
    folder, result = trained
    assert result.code == 0, result.err
    data = ("--data", reviews / "train.csv", "--test-data", reviews / "test.csv")
    flags = ("--recipe", "tutorial", "--run-dir", reviews / "tutorial")
    assert call("train", *data, *flags).code == 0
    assert summary(folder)["test_accuracy"] < summary(reviews / "tutorial")["test_accuracy"] - 0.05


def test_it_says_and_records_what_it_chose(trained: tuple[Path, Any]) -> None:
    folder, result = trained
    (recipe,) = (line for line in result.out.splitlines() if line.startswith("recipe: "))
    found = chosen(folder)
    assert found.pop("label_smoothing") == 0.0, "there are two classes"
    for name, value in found.items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        assert f"--{name.replace('_', '-')} {shown}" in recipe
    assert "loss on held-out rows" in result.out
    assert "; linear, " in result.out
    # On the test rows, whose labels are turned round, what is learned does worse than chance.
    losses = [float(loss) for loss in re.findall(r"([\d.]+) after", result.out)]
    assert 0.1 < min(losses) < 0.6


def test_a_flag_is_kept_also_with_the_tutorials_value(trained: tuple[Path, Any]) -> None:
    """The run was given the tutorial's number of epochs, which is the default of the flag."""
    assert chosen(trained[0])["epochs"] == 2


def test_a_resumed_run_keeps_its_recipe(trained: tuple[Path, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(trained[0], tmp_path / "run")
    before = chosen(folder)
    result = call("train", "--resume", "--run-dir", folder, "--epochs", "3")
    assert result.code == 0, result.err
    assert "recipe" not in result.out
    assert chosen(folder) == before | {"epochs": 3}


def test_a_folder_that_is_refused_is_told_before_the_search(
    reviews: Path, trained: tuple[Path, Any]
) -> None:
    again = call("train", "--data", reviews / "train.csv", "--run-dir", trained[0])
    assert (again.code, again.out) == (2, "")
    assert "already holds a run" in again.err


def test_few_rows_are_trained_without_a_search(tmp_path: Path) -> None:
    write(tmp_path / "few.csv", [("good film", "pos"), ("bad film", "neg")] * 2)
    result = call("train", "--data", tmp_path / "few.csv", "--run-dir", tmp_path / "run")
    assert result.code == 0, result.err
    assert "too few to hold some out" in result.out


def test_thresholds_of_several_labels_are_saved_and_used(tmp_path: Path) -> None:
    rows = [("sun and rain", "sun,rain"), ("sun", "sun"), ("rain", "rain"), ("snow", "snow")]
    write(tmp_path / "labels.csv", rows * 100)
    folder = tmp_path / "run"
    flags = ("--data", tmp_path / "labels.csv", "--label-separator", ",", "--run-dir", folder)
    of_words = ("--ngrams", "1", "--tokenizer", "keras", "--weighting", "tf_idf")
    trained = call("train", *flags, *of_words)
    assert trained.code == 0
    assert "note: 80 of 80 test rows have the same ids as a train row" in trained.out
    recorded = json.loads((folder / "config.json").read_text())["resolved"]["recipe"]
    assert recorded["why"] in trained.out
    thresholds = json.loads((folder / "vocabulary.json").read_text())["thresholds"]
    assert len(thresholds) == 3
    for told in (trained.out, call("evaluate", "--model", folder).out):
        assert told.index("test micro F1") < told.index("test accuracy  ")
    evaluated = json.loads(call("evaluate", "--model", folder, "--json").out)
    assert summary(folder)["test_f1_macro"] == evaluated["test_f1_macro"] == 1.0
    texts = ("--model", folder, "--texts", "rain and sun", "snow")
    found = call("predict", *texts, "--json").out.splitlines()
    labels = [sorted(json.loads(line)["labels"]) for line in found]
    assert labels == [["rain", "sun"], ["snow"]]
    none = call("predict", *texts, "--threshold", "0.9999999")
    assert "(none)" in none.out
    two = call("predict", *texts, "--top-k", "2", "--json")
    assert all(len(json.loads(line)["labels"]) == 2 for line in two.out.splitlines())


@pytest.mark.parametrize(
    "flags",
    [
        ("--hash-bits", "16", "--hidden-units", "1", "1", "1", "--optimizer", "sgd"),
        # A candidate has 48 steps, the run 60.
        ("--dropout", "0.4", "--warmup", "50", "--weighting", "count"),
        ("--validation-split", "0.2", "--early-stopping", "1"),
    ],
)
def test_flags_go_together_with_a_recipe(flags: tuple[str, ...], tmp_path: Path) -> None:
    write(tmp_path / "rows.csv", [("a good film", "pos"), ("a bad one", "neg")] * 150)
    data = ("--data", tmp_path / "rows.csv", "--hidden-units", "8", "8", "8")
    fixed = ("--tokenizer", "keras", "--ngrams", "1", "--epochs", "4", "--batch-size", "16")
    result = call("train", *data, *fixed, *flags, "--run-dir", tmp_path / "run")
    assert result.code == 0, result.err
    recorded = read_config(tmp_path / "run")
    assert recorded["optimizer"]["learning_rate"] == (None if "sgd" in flags else 0.01)
    assert set(recorded["model"]["dropout"]) == {0.4 if "--dropout" in flags else 0.5}


def test_marks_are_words_where_they_help(tmp_path: Path) -> None:
    """They tell two classes apart that have the same words."""
    rows = [("you like it?", "question"), ("you like it.", "answer")] * 150
    write(tmp_path / "marks.csv", rows)
    fixed = ("--ngrams", "1", "--epochs", "4", "--weighting", "binary", "--hidden-units", "32")
    folder = tmp_path / "run"
    assert call("train", "--data", tmp_path / "marks.csv", *fixed, "--run-dir", folder).code == 0
    assert chosen(folder)["tokenizer"] == "punctuation"
    assert summary(folder)["test_accuracy"] == 1.0


def test_characters_are_read_where_no_spaces_are(reviews: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        with (reviews / f"{part}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        turned = {"neg": "pos", "pos": "neg"} if part == "test" else {}
        texts = [(text.replace(" ", "")[:400], turned.get(label, label)) for text, label in rows]
        write(tmp_path / f"{part}.csv", texts)
    folder = tmp_path / "run"
    result = call("train", "--data", tmp_path / "train.csv", "--run-dir", folder)
    assert result.code == 0, result.err
    assert "of words 0." in result.out
    assert (chosen(folder)["tokenizer"], chosen(folder)["ngrams"]) == ("characters", 4)
    assert summary(folder)["test_accuracy"] > 0.6
    told = call("predict", "--model", folder, "--texts", "wonderful", "--explain", "50", "--json")
    assert {"nder", "ful▁"} & {run for run, _ in json.loads(told.out)["explanation"]}


def test_without_test_rows_figures_are_by_the_thresholds_that_are_saved(tmp_path: Path) -> None:
    """One epoch leaves the probability of the rare label below 0.5 in all rows."""
    rows = [("sun today", "sun"), ("sun and rain", "sun,rain")] + [("sun", "sun")] * 8
    write(tmp_path / "labels.csv", rows * 40)
    folder = tmp_path / "run"
    flags = ("--validation-split", "0.3", "--test", "off", "--epochs", "1", "--run-dir", folder)
    data = ("--data", tmp_path / "labels.csv", "--label-separator", ",", "--ngrams", "1")
    fixed = ("--learning-rate", "0.005", "--learning-rate-schedule", "constant")
    assert call("train", *data, *flags, *fixed, "--tokenizer", "keras").code == 0
    low = min(json.loads((folder / "vocabulary.json").read_text())["thresholds"])
    assert low < 0.5
    assert summary(folder)["validation_f1_macro"] > 0.9


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--batch-size", "100000"), "--batch-size is 100000 but the data set has 320 rows"),
        (("--label-separator", ",", "--class-weight", "balanced"), "--class-weight is balanced"),
    ],
)
def test_what_cannot_be_trained_is_told_before_the_search(
    flags: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    write(tmp_path / "labels.csv", [("sun and rain", "sun,rain"), ("sun", "sun")] * 200)
    result = call("train", "--data", tmp_path / "labels.csv", *flags)
    assert (result.code, result.out) == (2, "")
    assert told in result.err


def test_items_of_baskets_and_a_rate_for_each_layer(tmp_path: Path) -> None:
    baskets = {"a": ["tea", "milk"], "b": ["ale"], "c": ["rum", "tea"]}
    rows = [{"basket": items, "label": label} for label, items in baskets.items()] * 90
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = ("--data", tmp_path / "rows.jsonl", "--epochs", "2")
    rates = ("--dropout", "0.3", "0.2", "0.1", "--run-dir", tmp_path / "run")
    result = call("train", *data, *rates)
    assert result.code == 0, result.err
    assert "tf-idf of items" in result.out
    assert "--ngrams" not in result.out
    assert "--label-smoothing 0.05" in result.out, "there are three classes"
    assert read_config(tmp_path / "run")["model"]["dropout"] == [0.3, 0.2, 0.1]
