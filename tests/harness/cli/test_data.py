"""The contents of a data set, and the same data in the harness's own format."""

import json
import re
from pathlib import Path

import numpy as np

from harness.run.machine import peak_rss_bytes
from tests.harness.cli.runs import (
    CORPUS,
    IMPLEMENTATION,
    LAYOUT,
    NETWORK,
    call,
    contents,
    losses,
    write_npz,
)


def test_info_of_the_synthetic_corpus() -> None:
    result = call("data", "info", *CORPUS)
    assert (result.code, result.err) == (0, "")
    for pattern in (
        r"1,600 to train on, 400 to test on",
        r"classes .* 0: 1,000, 1: 1,000",
        r"unique ids .* [\d,]+ of 1,000",
        r"ids per row .* \d+\.\d{3} on average, deviation \d+\.\d{3}, median \d+,",
        r"no words",
    ):
        assert re.search(pattern, result.out), result.out
    assert max(map(len, result.out.splitlines())) <= 80


def test_converted_data_trains_as_its_source(trained_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "[own]"
    result = call("data", "convert", *CORPUS, "--out", out)
    assert (result.code, result.err) == (0, "")
    assert f"wrote 2,000 rows (215,816 ids) to {out}\n" in result.out or str(out) in result.out
    assert set(contents(out)) == {"values.npy", "row_splits.npy", "labels.npy", "meta.json"}
    flags = ("--data", out, *NETWORK, *LAYOUT, *IMPLEMENTATION, "--recipe", "tutorial")
    assert call("train", *flags, "--run-dir", tmp_path / "run").code == 0
    assert losses(tmp_path / "run") == losses(trained_folder)


def test_converted_reviews_keep_their_split_and_labels(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "reviews.npz")
    out = tmp_path / "deep" / "own"
    assert call("data", "convert", "--data", path, "--out", out, "--split", "standard").code == 0
    assert json.loads((out / "meta.json").read_text())["held_out_rows"] == 3
    assert sorted(np.load(out / "labels.npy")[:3]) == [0, 1, 1]
    info = call("data", "info", "--data", out)
    assert "4 to train on, 3 to test on" in info.out


def test_one_label_or_id_of_two_thousand_million_takes_no_memory(tmp_path: Path) -> None:
    highest = 2**31 - 2
    labels = np.array([0, 1, highest, 1])
    path = write_npz(
        tmp_path / "reviews.npz", y_train=labels, x_train=[[1], [highest - 3], [3], [4]]
    )
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_rss_bytes()
    info = call("data", "info", "--data", path, "--split", "standard", "--num-words", "None")
    assert (info.code, info.err) == (0, "")
    assert "2,147,483,647, of 1 to 4 rows; 2,147,483,644 without" in info.out
    assert peak_rss_bytes() - before < 100_000_000
