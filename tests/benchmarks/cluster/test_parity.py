"""Two processes train as one; the script that says so for more steps and workers."""

from pathlib import Path

from benchmarks.cluster.parity import MOST, differences, run
from benchmarks.cluster.worker import train

CASES = ("float32", "one overflow in float16")


def test_two_workers_train_as_one(tmp_path: Path) -> None:
    one = {case: train(case, tmp_path / "1", steps=20) for case in CASES}
    two = run(tmp_path / "2", workers=2, steps=20, cases=CASES)
    found = differences(tmp_path / "1", tmp_path / "2", one, two)
    assert found["float32"] < MOST
    assert found["one overflow in float16"] < 0.05
    assert one["one overflow in float16"]["skipped"] == 2  # once an epoch
    names = {path.name for path in (tmp_path / "2" / "float32").iterdir()}
    assert {"config.json", "summary.json", "metrics.jsonl", "model.keras"} <= names
