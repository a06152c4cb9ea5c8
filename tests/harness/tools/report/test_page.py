"""The page of each kind of task, with hostile texts, and of a folder that holds nothing."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import keras
import numpy as np
import pytest

import harness
from harness.base.errors import InputError
from harness.data.options import BuildOptions, DataConfig
from harness.data.sources import Dataset
from harness.data.vocabulary import Vocabulary
from harness.tools.report.page import write_report
from tests.harness.random_sets import random_sets

NUMBER = re.compile(r'<td class="number">([^<]*)</td>')
EVIL = "<script>alert(1)</script>"
SECTIONS = ("throughput", "run", "curves", "ranking", "confusion", "words")


def trainer(num_outputs: int, num_tokens: int) -> harness.Trainer:
    def network(inputs: Any) -> Any:
        return keras.layers.Dense(num_outputs)(harness.MultiHotDense(4, num_tokens)(inputs))

    return harness.Trainer(network, batch_size=60, implementation="gather")


def labelled(kind: str, num_classes: int) -> harness.RaggedSets:
    rng = np.random.default_rng()
    rows = random_sets(rng, rows=120, num_classes=num_classes)
    if kind != "multi_label":
        return rows
    sets = random_sets(rng, rows=120, num_tokens=num_classes).unique()
    return harness.RaggedSets(
        values=rows.values,
        row_splits=rows.row_splits,
        num_tokens=rows.num_tokens,
        num_classes=num_classes,
        label_sets=sets,
    )


def written(
    folder: Path, own: harness.Trainer, rows: harness.RaggedSets, words: Vocabulary | None = None
) -> str:
    """The report of rows that lie in no file."""
    data = Dataset(train=rows, test=rows, name="mine")
    return write_report(folder, own, data, DataConfig(), words).read_text()


@pytest.mark.parametrize(
    ("kind", "num_classes"), [("binary", 2), ("multi_class", 35), ("multi_label", 4)]
)
def test_all_sections_and_every_text_escaped(kind: str, num_classes: int, tmp_path: Path) -> None:
    rows = labelled(kind, num_classes)
    names = [f"{EVIL}{n}$x$ _{{" for n in range(num_classes)]
    words = Vocabulary(
        ids={f"<img src=x onerror=alert({t})>": t for t in range(rows.num_tokens)},
        num_tokens=rows.num_tokens,
        class_names=["_$", *names[1:]],
    )
    own = trainer(1 if kind == "binary" else num_classes, rows.num_tokens)
    page = written(tmp_path, own, rows, words)
    assert re.findall(r'<section id="(\w+)">', page) == [*SECTIONS, "mistakes"]
    assert "<script" not in page
    assert "<img src=x" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page), "nothing is fetched"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;1$x$ _{" in page.replace("<wbr>", "")
    assert "&lt;img src=x onerror=alert(" in page
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert [ElementTree.fromstring(one).tag[-3:] for one in pictures] == ["svg", "svg"]
    assert len(page) < 1_000_000
    quality = own.measure(rows)
    assert f"{quality.accuracy:.4g}" in page
    assert ("most often mistaken" in page) == (kind == "multi_class")
    listed = page.partition("the lowest F1 first")[2].partition("</table>")[0]
    classes = [row for row in map(NUMBER.findall, listed.split("<tr>")) if row]
    assert len(classes) == num_classes
    # Those without test rows come last.
    assert classes == sorted(classes, key=lambda row: (row[3] == "0", float(row[2])))


def test_mistakes_are_wrong_rows_from_the_worst_on(tmp_path: Path) -> None:
    rows = labelled("multi_class", 3)
    own = trainer(3, rows.num_tokens)
    page = written(tmp_path, own, rows)
    found = re.findall(
        r"<summary>Row (\d+): (\d), predicted (\d) \(.* ([\d.]+)\)</summary>\n<p>(.*)</p>", page
    )
    mistakes = [(int(row), *others) for row, *others in found]
    assert len(mistakes) == 20
    for row, truth, predicted, _, text in mistakes:
        assert truth == str(rows.labels[row]) != predicted
        assert text == f"ids {', '.join(map(str, rows.row(row)))}" or "..." in text
    probabilities = [float(probability) for *_, probability, _ in mistakes]
    assert probabilities == sorted(probabilities)


def test_weighted_texts_are_shown_in_their_own_order(tmp_path: Path) -> None:
    text, path = "what a long and long winded film", tmp_path / "films.csv"
    path.write_text("text,label\n" + "".join(f"{text},{n % 2}\n" for n in range(20)))
    build = BuildOptions(ngrams=2, weighting="tf_idf", normalize="l2")
    data = harness.load(path, **vars(build))
    own = trainer(1, data.num_tokens)
    source = DataConfig(data=str(path), build=build)
    page = write_report(tmp_path, own, data, source, data.vocabulary).read_text()
    assert f"<p>{text}</p>" in page
    assert "its distinct tokens" not in page


def test_a_folder_without_a_run_and_rows_without_labels(tmp_path: Path) -> None:
    rows = labelled("binary", 2)
    own = trainer(1, rows.num_tokens)
    assert "its distinct tokens" in written(tmp_path, own, rows.unique())
    page = written(tmp_path, own, rows)
    assert "metrics.jsonl is missing" in page
    assert "ids " in page
    assert "its distinct tokens" not in page
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    bare = harness.RaggedSets(
        values=rows.values, row_splits=rows.row_splits, num_tokens=rows.num_tokens
    )
    with pytest.raises(InputError, match="has no labels"):
        written(tmp_path, own, bare)
    (tmp_path / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "epoch": 0, "num_steps": 1, "loss": []}) + "\n"
    )
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged"):
        written(tmp_path, own, rows)
    assert (tmp_path / "report.html").read_text() == page
