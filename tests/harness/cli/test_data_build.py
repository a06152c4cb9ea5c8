"""`harness data build` on files of texts, and a model from such files in one command."""

import json
import os
from pathlib import Path

from tests.harness.cli.runs import (
    IMPLEMENTATION,
    NETWORK,
    call,
    contents,
)

TABLE = "review,sentiment\n" + "".join(
    f'"a good, nice film {number}",pos\n<script>bad</script> and [bold]awful[/] {number},neg\n'
    for number in range(50)
)


def test_one_command_from_a_table_to_a_model(tmp_path: Path) -> None:
    table, run_dir = tmp_path / "reviews.csv", tmp_path / "run"
    table.write_text(TABLE + "short\n")
    weights = ("--weighting", "tf_idf", "--normalize", "l2")
    layout = ("--batch-size", "20", "--epochs", "60", *NETWORK, *IMPLEMENTATION)
    words = ("--tokenizer", "punctuation", "--ngrams", "2", *weights)
    done = call("train", "--data", table, "--run-dir", run_dir, *layout, *words)
    assert done.code == 0, done.err
    assert "text from column review, labels from column sentiment" in done.err
    assert f"{table}, line 102: too few columns" in done.err
    assert json.loads((run_dir / "summary.json").read_text())["test_accuracy"] == 1.0
    texts = ("A good film", "<script>bad</script> and [bold]awful[/]")
    told = call("predict", "--model", run_dir, "--json", "--explain", "1", "--texts", *texts)
    judged = [json.loads(line) for line in told.out.splitlines()]
    assert [one["labels"] for one in judged] == [["pos"], ["neg"]]
    assert [one["known_words"] for one in judged] == [4, 31]  # with marks and pairs
    evaluated = call("evaluate", "--model", run_dir, "--json")
    assert json.loads(evaluated.out)["test_accuracy"] == 1.0
    other = tmp_path / "other.csv"
    other.write_text("text,label\n<script>bad</script>,neg\na good film,pos\nnew,fair\n")
    named = ("evaluate", "--model", run_dir, "--data", table, "--test-data", other)
    evaluated = call(*named, "--json")  # words and classes keep the model's ids
    found = json.loads(evaluated.out)
    assert (found["examples"], found["test_accuracy"], found["confusion"]) == (
        2,
        1.0,
        [[1, 0], [0, 1]],
    )
    assert "as in the class fair: test label that no train row has" in evaluated.err
    refused = call(*named, "--ngrams", "1")
    assert (refused.code, "leave out --ngrams" in refused.err) == (2, True)
    refused = call(*named, "--label-separator", ";")
    assert (refused.code, "one that" in refused.err) == (2, True)
    table.write_text(TABLE + "a new film,pos\n")
    refused = call("evaluate", "--model", run_dir)  # its rows to train on may now be drawn to test
    assert (refused.code, "has changed since" in refused.err) == (2, True)
    table.unlink()
    refused = call("evaluate", "--model", run_dir)
    assert (refused.code, "is not there; change to the folder" in refused.err) == (2, True)


def test_build_tells_what_it_found(tmp_path: Path) -> None:
    table, folder = tmp_path / "reviews.csv", tmp_path / "new" / "built"
    table.write_text(TABLE + "x,\n")
    done = call("data", "build", table, "--output", folder, "--test-split", "0.1")
    assert (done.code, done.err) == (0, "")
    for told in ("90 to train on, 10 to test on", "neg: 50, pos: 50", "empty label", "were drawn"):
        assert told in done.out, done.out
    assert contents(folder).keys() == {
        *("values.npy", "row_splits.npy", "labels.npy", "meta.json"),
        *("vocabulary.json", "build.json"),
    }
    assert os.listdir(folder.parent) == ["built"]
    info = call("data", "info", "--data", folder)
    assert "0 (neg): 50, 1 (pos): 50" in info.out
    before = contents(folder)
    again = call("data", "build", table, "--output", folder)
    assert (again.code, contents(folder)) == (2, before)
    assert "exists already" in again.err


def test_wrong_sources_leave_nothing(tmp_path: Path) -> None:
    table, folder = tmp_path / "reviews.csv", tmp_path / "built"
    table.write_text(TABLE)
    (tmp_path / "odd.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((tmp_path / "missing.csv",), "missing.csv"),
        ((tmp_path / "odd.txt",), "has no ending of a format"),
        ((tmp_path / "empty",), "no folder with files in it"),
        ((table, "--label-column", "stars"), "no column stars. Its columns are review, sentiment"),
        ((table, "--ngrams", "0"), "--ngrams is 0"),
    ):
        done = call("data", "build", *arguments, "--output", folder)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert message in done.err
    wrong = call("train", "--data", "synthetic", "--ngrams", "2")
    assert (wrong.code, "--ngrams is for texts" in wrong.err) == (2, True)
    assert sorted(os.listdir(tmp_path)) == ["empty", "odd.txt", "reviews.csv"]
