"""Two processes train as one; the script tests more steps, workers and cases."""

import json
from pathlib import Path

import numpy as np

from benchmarks.cluster.parity import MOST, differences, losses, run, train

CASE = "batch normalization"


def test_two_workers_train_as_one(tmp_path: Path) -> None:
    one = {CASE: train(CASE, tmp_path / "1", steps=20)}
    two = run(tmp_path / "2", workers=2, steps=20, cases=[CASE])
    assert max(differences(tmp_path / "1", tmp_path / "2", one, two).values()) < MOST
    one_folder, folder = (tmp_path / workers / CASE.replace(" ", "-") for workers in "12")
    own, expected = (  # in the middle of an epoch
        dict(np.load(path / "checkpoints" / "ckpt-14.npz")) for path in (folder, one_folder)
    )
    sums = [name for name in own if name.startswith("metrics/")]
    assert sums
    assert all(expected[name].any() for name in sums)
    for name in sums:
        np.testing.assert_allclose(own[name], expected[name], err_msg=name)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "summary.json", "metrics.jsonl", "model.keras"} <= names
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["workers"] == 2
    # Another number of workers goes on with it.
    train(CASE, tmp_path / "2", steps=30, resume=True)
    train(CASE, tmp_path / "1", steps=30, resume=True)
    resumed, expected = (losses(tmp_path / workers, CASE) for workers in ("2", "1"))
    np.testing.assert_allclose(resumed, expected, rtol=MOST)
