"""Published corpora, trained from their files by one command of ours, and by scikit-learn's
TfidfVectorizer with an MLPClassifier of the same size.

    python -m benchmarks.corpora --banking77 FOLDER --goemotions FOLDER --polarity FILE

The files are not part of the project: `banking_data/{train,test}.csv` of PolyAI's
task-specific-datasets, `{train,test}.tsv` of GoEmotions, `review_polarity.tar.gz` (version 2.0).
"""

import csv
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from harness.data.ragged import stratified

_SIZE = ("--hidden-units", "100", "--batch-size", "200")
_WEIGHTS = ("--weighting", "tf_idf", "--normalize", "l2", "--dropout", "0")
_NUM_EMOTIONS = 28


@dataclass(frozen=True, kw_only=True)
class Config:
    """The places of the corpora. A corpus without a place is skipped."""

    banking77: Path | None = None
    goemotions: Path | None = None
    polarity: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Texts and labels for scikit-learn, and the flags and epochs of our command."""

    name: str
    train: tuple[list[str], Any]
    test: tuple[list[str], Any]
    flags: tuple[str, ...]
    epochs: int


def banking77(folder: Path) -> Corpus:
    """Reads 77 intents of bank customers."""

    def part(name: str) -> tuple[list[str], list[str]]:
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        return [row[0] for row in rows], [row[1] for row in rows]

    data = "--data", str(folder / "train.csv"), "--test-data", str(folder / "test.csv")
    return Corpus(
        name="banking77",
        train=part("train"),
        test=part("test"),
        flags=(*data, *_SIZE, *_WEIGHTS),
        epochs=30,
    )


def goemotions(folder: Path) -> Corpus:
    """Reads 28 emotions, of which a comment may have several."""

    def part(name: str) -> tuple[list[str], np.ndarray]:
        lines = (folder / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        rows = [line.split("\t") for line in lines]
        labels = np.zeros((len(rows), _NUM_EMOTIONS), np.int64)
        for row, (_, classes, *_) in enumerate(rows):
            labels[row, list(map(int, classes.split(",")))] = 1
        return [row[0] for row in rows], labels

    data = "--data", str(folder / "train.tsv"), "--test-data", str(folder / "test.tsv")
    columns = "--text-column", "1", "--label-column", "2", "--label-separator", ","
    return Corpus(
        name="goemotions",
        train=part("train"),
        test=part("test"),
        flags=(*data, *columns, "--num-tokens", "30000", *_SIZE, *_WEIGHTS),
        epochs=10,
    )


def polarity(path: Path) -> Corpus:
    """Reads 2,000 long film reviews; the test rows are the same as our command draws."""
    texts, labels = [], []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.startswith("txt_sentoken/"):
                file = archive.extractfile(member)
                assert file is not None
                texts.append(file.read().decode(errors="replace"))
                labels.append(member.name.split("/")[1])
    _, classes = np.unique(labels, return_inverse=True)
    is_test = stratified(classes, round(0.2 * len(texts)), seed=0)

    def part(chosen: np.ndarray) -> tuple[list[str], list[str]]:
        rows = np.flatnonzero(chosen).tolist()
        return [texts[row] for row in rows], [labels[row] for row in rows]

    return Corpus(
        name="review polarity",
        train=part(~is_test),
        test=part(is_test),
        flags=("--data", str(path), *_SIZE, *_WEIGHTS),
        epochs=20,
    )


def ours(corpus: Corpus) -> tuple[float, float, float]:
    """Returns the accuracy, macro F1 and seconds of our command, with start-up and compilation."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        flags = (*corpus.flags, "--epochs", str(corpus.epochs), "--run-dir", str(run))
        command = [sys.executable, "-m", "harness", "train", *flags]
        subprocess.run(command, check=True, capture_output=True)
        summary = json.loads((run / "summary.json").read_text())
    seconds = time.perf_counter() - start
    return summary["test_accuracy"], summary["test_f1_macro"], seconds


def scikit_learn(corpus: Corpus) -> tuple[float, float, float]:
    """Returns the accuracy, macro F1 and seconds of scikit-learn, without its import."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.neural_network import MLPClassifier

    start = time.perf_counter()
    vectorizer = TfidfVectorizer()
    rows = vectorizer.fit_transform(corpus.train[0])
    model = MLPClassifier((100,), max_iter=corpus.epochs, random_state=0)
    found = model.fit(rows, corpus.train[1]).predict(vectorizer.transform(corpus.test[0]))
    seconds = time.perf_counter() - start
    labels = corpus.test[1]
    accuracy = accuracy_score(labels, found)
    if isinstance(labels, np.ndarray):  # like ours, the share of right answers, not of right rows
        accuracy = (labels == found).mean()
    return accuracy, f1_score(labels, found, average="macro", zero_division=0), seconds


def main(config: Config) -> None:
    """Prints a line for each corpus and program."""
    for read, path in (
        (banking77, config.banking77),
        (goemotions, config.goemotions),
        (polarity, config.polarity),
    ):
        if path is None:
            continue
        corpus = read(path)
        for name, program in (("ours", ours), ("scikit-learn", scikit_learn)):
            accuracy, f1, seconds = program(corpus)
            print(
                f"{corpus.name:16} {name:13} accuracy {accuracy:.4f}  macro F1 {f1:.4f}  "
                f"{corpus.epochs} epochs, {seconds:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Config))
