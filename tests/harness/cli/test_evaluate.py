"""A saved network is evaluated with the same result as in training."""

import json
import shutil
from pathlib import Path

import pytest

from tests.harness.cli.runs import CORPUS, call, summary


@pytest.mark.parametrize(
    ("model", "data", "batch_size"),
    [
        ("", (), 77),
        ("model.keras", ("--data", "synthetic", *CORPUS), 5000),
    ],
)
def test_it_agrees_with_training(
    model: str, data: tuple[str, ...], batch_size: int, trained_folder: Path
) -> None:
    """The data may be the run's or named data."""
    flags = ("--json", "--batch-size", batch_size)
    result = call("evaluate", "--model", trained_folder / model, *data, *flags)
    assert (result.code, result.err) == (0, "")
    figures, trained = json.loads(result.out), summary(trained_folder)
    measures = {name for name in trained if name.startswith("test_")}
    assert set(figures) == measures | {"examples", "classes", "confusion"}
    assert {f"test_{name}" for name in ("f1_macro", "recall_macro", "roc_auc")} <= measures
    for name in measures - {"test_loss"}:
        assert figures[name] == pytest.approx(trained[name], abs=1e-4)
    assert sum(map(sum, figures["confusion"])) == 400
    for number, one in enumerate(figures["classes"]):
        assert one["rows"] == sum(figures["confusion"][number])
        assert one["name"] == str(number)
        assert one["recall"] == figures["confusion"][number][number] / one["rows"]
    assert figures["test_loss"] == pytest.approx(trained["test_loss"], rel=1e-5)
    assert figures["test_accuracy"] == trained["test_accuracy"]
    assert figures["examples"] == 400


def test_what_cannot_be_evaluated(trained_folder: Path, tmp_path: Path) -> None:
    model = shutil.copy(trained_folder / "model.keras", tmp_path)
    (*_, checkpoint) = (trained_folder / "checkpoints").iterdir()
    for arguments, message in (
        ((model,), "give --data"),
        ((checkpoint,), f"{checkpoint} is a checkpoint; name the model that train --resume writes"),
        ((trained_folder, "--data", "synthetic"), "has ids below 10000"),
        ((trained_folder, "--data", "synthetic"), "knows those below 1000"),
    ):
        result = call("evaluate", "--model", *arguments)
        assert (result.code, result.out) == (2, "")
        assert message in result.err


def test_one_of_several_workers_is_refused(
    trained_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"type": "worker", "index": 1}
    monkeypatch.setenv(
        "TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1", "b:1"]}, "task": task})
    )
    result = call("evaluate", "--model", trained_folder)
    assert (result.code, result.out) == (2, "")
    assert "names 2 workers, which only train together" in result.err
