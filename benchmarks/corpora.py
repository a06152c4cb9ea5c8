"""Published corpora: the command without flags, scikit-learn's LinearSVC and fastText.

    python -m benchmarks.corpora --tables FOLDER --goemotions FOLDER --polarity FILE --imdb FOLDER
    python -m benchmarks.corpora --growth FOLDER --programs ours fasttext

Each program gets the published split. LinearSVC sees tf-idf of words, and of words and pairs;
fastText trains 25 epochs on words, and on words and pairs: of each the better counts. With
`--characters` both see characters too, in two other columns: LinearSVC their runs of up to four,
within words and across; fastText runs of two to five within words, and characters as words with
runs of up to three. Figures are
the accuracy, or for several labels the macro F1; seconds are the whole process of our command, with
start-up and compilation, and the better run of the others without their imports.

The files are not part of the project. FOLDER of `--tables` has a folder for each corpus with its
train.csv and test.csv, such as `banking_data` of PolyAI's task-specific-datasets.
"""

import csv
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from harness.data.ragged import stratified

_NUM_EMOTIONS = 28
_FASTTEXT = {"epoch": 25, "thread": 2, "verbose": 0, "lr": 0.5}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The places of the corpora. A corpus without a place is skipped."""

    tables: Path | None = None
    goemotions: Path | None = None
    polarity: Path | None = None
    imdb: Path | None = None  # The folder aclImdb
    growth: Path | None = None
    """The folder aclImdb, of whose reviews rows of 30 words are drawn, in growing numbers."""
    rows: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    """The numbers of train rows of `growth`; a fifth as many, 200 to 20,000, are test rows."""
    only: tuple[str, ...] = ()  # Names of the corpora to run; all if left out
    programs: tuple[str, ...] = ()  # Names of the columns to measure; all if left out
    characters: bool = False
    """Whether to compare with LinearSVC and fastText on characters as well."""
    estimator: bool = False
    """Whether to compare our command with our estimator for scikit-learn alone."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Texts, labels and the flags that name them to our command."""

    name: str
    train: tuple[list[str], Any]
    test: tuple[list[str], Any]
    """Texts, and class names or, for several labels, 0 and 1 [rows, classes]."""
    flags: tuple[str, ...]

    @property
    def is_multi_label(self) -> bool:
        """Whether a row may have several classes."""
        return isinstance(self.test[1], np.ndarray)

    def figure(self, found: Any) -> float:
        """Returns the accuracy of predictions, or the macro F1."""
        from sklearn.metrics import accuracy_score, f1_score

        if self.is_multi_label:
            return float(f1_score(self.test[1], found, average="macro", zero_division=0))
        return float(accuracy_score(self.test[1], found))


def tables(folder: Path) -> Iterator[Corpus]:
    """Reads corpora of a text and a label in each row."""
    csv.field_size_limit(10**9)
    for place in sorted(folder.glob("*/train.csv")):
        parts = []
        for name in ("train", "test"):
            with (place.parent / f"{name}.csv").open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))[1:]
            parts.append(([row[0] for row in rows], [row[1] for row in rows]))
        flags = ("--data", str(place), "--test-data", str(place.parent / "test.csv"))
        yield Corpus(name=place.parent.name, train=parts[0], test=parts[1], flags=flags)


def goemotions(folder: Path) -> Iterator[Corpus]:
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
    yield Corpus(name="goemotions", train=part("train"), test=part("test"), flags=(*data, *columns))


def polarity(path: Path) -> Iterator[Corpus]:
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

    flags = ("--data", str(path))
    yield Corpus(name="polarity", train=part(~is_test), test=part(is_test), flags=flags)


def imdb(folder: Path) -> Iterator[Corpus]:
    """Reads 50,000 film reviews, half of them test rows."""

    def part(name: str) -> tuple[list[str], list[str]]:
        files = [path for label in ("neg", "pos") for path in (folder / name / label).iterdir()]
        texts = [path.read_text(encoding="utf-8") for path in files]
        return texts, [path.parent.name for path in files]

    flags = ("--data", str(folder))
    yield Corpus(name="imdb", train=part("train"), test=part("test"), flags=flags)


def growth(folder: Path, sizes: Sequence[int]) -> Iterator[Corpus]:
    """Draws runs of consecutive words of film reviews, labelled as the review is."""
    (reviews,) = imdb(folder)
    with tempfile.TemporaryDirectory() as place:
        for size in sizes:
            parts, flags = [], []
            counts = size, min(max(200, size // 5), 20_000)
            for flag, (texts, labels), count in zip(
                ("--data", "--test-data"), (reviews.train, reviews.test), counts, strict=True
            ):
                draws = np.random.RandomState(0)
                words = [text.split() for text in texts]
                chosen = draws.randint(len(texts), size=count).tolist()
                starts = (draws.random_sample(count) * [len(words[n]) - 29 for n in chosen]).clip(0)
                drawn = zip(chosen, starts.astype(int).tolist(), strict=True)
                rows = [" ".join(words[n][start : start + 30]) for n, start in drawn]
                parts.append((rows, [labels[n] for n in chosen]))
                path = Path(place) / f"{flag}.csv"
                with path.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows([("text", "label"), *zip(*parts[-1], strict=True)])
                flags += [flag, str(path)]
            yield Corpus(name=f"{size:,}", train=parts[0], test=parts[1], flags=tuple(flags))


def ours(corpus: Corpus) -> tuple[float, float]:
    """Returns the figure and seconds of our command."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        flags = (*corpus.flags, "--data-cache", "off", "--run-dir", str(run))
        command = [sys.executable, "-m", "harness", "train", *flags]
        subprocess.run(command, check=True, capture_output=True)
        summary = json.loads((run / "summary.json").read_text())
    seconds = time.perf_counter() - start
    return summary["test_f1_macro" if corpus.is_multi_label else "test_accuracy"], seconds


def estimator(corpus: Corpus) -> tuple[float, float]:
    """Returns the figure and seconds of our estimator, in this process."""
    from harness.sklearn import MultiHotClassifier

    start = time.perf_counter()
    model = MultiHotClassifier().fit(*corpus.train)
    return corpus.figure(model.predict(corpus.test[0])), time.perf_counter() - start


def linear_svc(corpus: Corpus) -> tuple[float, float]:
    """Returns the better figure of scikit-learn on words, and its seconds."""
    return _linear_svc(corpus, {"ngram_range": (1, 1)}, {"ngram_range": (1, 2)})


def svc_of_characters(corpus: Corpus) -> tuple[float, float]:
    """Returns the better figure of scikit-learn on characters, and its seconds."""
    return _linear_svc(
        corpus, *({"analyzer": kind, "ngram_range": (1, 4)} for kind in ("char", "char_wb"))
    )


def _linear_svc(corpus: Corpus, *views: dict[str, Any]) -> tuple[float, float]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.svm import LinearSVC

    found = []
    for view in views:
        start = time.perf_counter()
        vectorizer = TfidfVectorizer(**view)
        rows = vectorizer.fit_transform(corpus.train[0])
        model = OneVsRestClassifier(LinearSVC()) if corpus.is_multi_label else LinearSVC()
        predicted = model.fit(rows, corpus.train[1]).predict(vectorizer.transform(corpus.test[0]))
        found.append((corpus.figure(predicted), time.perf_counter() - start))
    return max(found)


def fasttext(corpus: Corpus) -> tuple[float, float]:
    """Returns the better figure of fastText on words, and its seconds."""
    return _fasttext(corpus, (_spaced, {"wordNgrams": 1}), (_spaced, {"wordNgrams": 2}))


def fasttext_of_characters(corpus: Corpus) -> tuple[float, float]:
    """Returns the better figure of fastText on characters, and its seconds."""
    return _fasttext(corpus, (_spaced, {"minn": 2, "maxn": 5}), (_characters, {"wordNgrams": 3}))


def _fasttext(corpus: Corpus, *views: tuple[Any, dict[str, int]]) -> tuple[float, float]:
    import fasttext as program

    classes = np.unique(corpus.train[1])
    if corpus.is_multi_label:
        classes = np.arange(_NUM_EMOTIONS)
    found = []
    for divided, view in views:
        start = time.perf_counter()
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
            # Each thread reads a part of the file from end to end, which may be all of one class.
            for row in np.random.RandomState(0).permutation(len(corpus.train[0])):
                text, label = corpus.train[0][row], corpus.train[1][row]
                named = np.flatnonzero(label) if corpus.is_multi_label else [label]
                marks = " ".join(f"__label__{np.searchsorted(classes, name)}" for name in named)
                file.write(f"{marks} {divided(text)}\n")
            file.flush()
            loss = "ova" if corpus.is_multi_label else "softmax"
            model = program.train_supervised(file.name, loss=loss, **view, **_FASTTEXT)
        predicted: Any = np.zeros((len(corpus.test[0]), len(classes)), np.int64)
        for row, text in enumerate(corpus.test[0]):
            most, least = (-1, 0.5) if corpus.is_multi_label else (1, 0.0)
            # The method `predict` of the module cannot make NumPy 2 arrays.
            for _, mark in model.f.predict(f"{divided(text)}\n", most, least, "strict"):
                predicted[row, int(mark.removeprefix("__label__"))] = 1
        if not corpus.is_multi_label:
            predicted = classes[predicted.argmax(axis=1)]
        found.append((corpus.figure(predicted), time.perf_counter() - start))
    return max(found)


def _spaced(text: str) -> str:
    """Returns a text in lower case with its punctuation apart, as fastText's examples do."""
    return " ".join(re.sub(r"([.!?,'/()\"])", r" \1 ", text.lower()).split())


def _characters(text: str) -> str:
    """Returns the characters of a text in lower case, with spaces between."""
    return " ".join("_" if character.isspace() else character for character in text.lower())


def corpora(config: Config) -> Iterator[Corpus]:
    """Reads the corpora that have a place, one after another."""
    for read in (tables, goemotions, polarity, imdb):
        place = getattr(config, read.__name__)
        yield from read(place) if place is not None else ()
    yield from growth(config.growth, config.rows) if config.growth is not None else ()


def main(config: Config) -> None:
    """Prints a row of Markdown for each corpus."""
    programs = [ours, estimator] if config.estimator else [ours, linear_svc, fasttext]
    programs += [svc_of_characters, fasttext_of_characters] if config.characters else []
    if unknown := {*config.programs} - {program.__name__ for program in programs}:
        sys.exit(f"no such column, or it needs --characters or --estimator: {', '.join(unknown)}")
    programs = [one for one in programs if one.__name__ in config.programs or not config.programs]
    names = " | ".join(program.__name__ for program in programs)
    print(f"| corpus | train rows | {names} |\n| --- | --- |{' --- |' * len(programs)}")
    for corpus in corpora(config):
        if config.only and corpus.name not in config.only:
            continue
        found = [program(corpus) for program in programs]
        cells = [f"{figure:.4f} in {seconds:.0f} s" for figure, seconds in found]
        rows = f"{len(corpus.train[0]):,}"
        print("|", " | ".join([corpus.name, rows, *cells]), "|", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
