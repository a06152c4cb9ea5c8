"""A saved network judged again: as training judged it."""

import json
import zipfile
from pathlib import Path

import keras
import pytest

from tests.harness.commands.runs import CORPUS, call, summary


@pytest.mark.parametrize("batch_size", [100, 77, 5000])
def test_it_agrees_with_training(trained_folder: Path, batch_size: int) -> None:
    result = call(
        "evaluate", "--model", trained_folder, *CORPUS, "--json", "--batch-size", batch_size
    )
    assert (result.code, result.err) == (0, "")
    figures, trained = json.loads(result.out), summary(trained_folder)
    assert set(figures) == {"test_accuracy", "test_loss", "examples"}
    assert figures["test_loss"] == pytest.approx(trained["test_loss"], rel=1e-5)
    assert figures["test_accuracy"] == trained["test_accuracy"]
    assert figures["examples"] == 400


def test_the_table(trained_folder: Path) -> None:
    model = trained_folder / "model.keras"
    result = call("evaluate", "--model", model, *CORPUS)
    assert (result.code, result.err) == (0, "")
    assert f"{summary(trained_folder)['test_accuracy']:.4f}" in result.out
    # A long path is folded, none of it is lost.
    cells = "".join(line.split("│")[2].strip() for line in result.out.splitlines() if "│" in line)
    assert str(model) in cells
    assert max(map(len, result.out.splitlines())) <= 80


def test_models_that_cannot_be_judged(trained_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.keras").write_text("no model")
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "plain.keras")
    for name, message in (
        ("missing.keras", "no model at"),
        ("", "no model at"),
        ("text.keras", "is not a .keras file"),
        ("other.keras", "cannot be loaded as a Keras model"),
        ("plain.keras", "is not a network of this harness"),
    ):
        result = call("evaluate", "--model", tmp_path / name, *CORPUS)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"error: {'' if message[0] == 'n' else tmp_path}")
        assert message in result.err


def test_data_that_the_model_does_not_know(trained_folder: Path) -> None:
    result = call("evaluate", "--model", trained_folder, "--synthetic-rows", "100")
    assert (result.code, result.out) == (2, "")
    assert "ids below 10000" in result.err
    assert "knows those below 1000" in result.err
    assert "--num-words" in result.err
