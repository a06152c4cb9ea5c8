"""Two processes train as one; the script says so for more steps, workers and cases."""

import json
from pathlib import Path

from benchmarks.cluster.parity import MOST, differences, run
from benchmarks.cluster.worker import train

CASE = "float32"


def test_two_workers_train_as_one(tmp_path: Path) -> None:
    one = {CASE: train(CASE, tmp_path / "1", steps=20)}
    two = run(tmp_path / "2", workers=2, steps=20, cases=[CASE])
    assert differences(tmp_path / "1", tmp_path / "2", one, two)[CASE] < MOST
    folder = tmp_path / "2" / CASE
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "summary.json", "metrics.jsonl", "model.keras"} <= names
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["workers"] == 2
    assert summary["scaling_efficiency"] > 0
