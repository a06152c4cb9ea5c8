"""A regression as a user trains it."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import harness
from harness.base.errors import InputError
from harness.cli.saved_model import load_saved_model
from tests.harness.trainer.test_trainer import TOKENS, single, trainer


def test_a_regression_leaves_a_run(tmp_path: Path) -> None:
    rng = np.random.default_rng()
    sets = single()
    numbers = np.stack([sets.labels, 2 * sets.labels], axis=1) + rng.normal(size=[300, 2])
    train = harness.Examples(inputs={"": sets}, labels=numbers)

    def two(inputs: Any) -> Any:
        return keras.layers.Dense(2)(harness.MultiHotDense(4, TOKENS)(inputs))

    task = harness.Task(metrics=["mae", keras.metrics.R2Score()])
    options: dict[str, Any] = {"run_dir": tmp_path / "run", "verbose": False}
    first = trainer(two, task=task, seed=1)
    history = first.fit(train, test=train, epochs=1, **options).history
    assert set(history) == {"loss", "mae", "r2_score"}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {name for name in summary if name.startswith("test_")} == {
        *("test_loss", "test_mae", "test_r2_score")
    }
    found = first.evaluate(train)
    errors = first.predict(train) - numbers
    assert found["loss"] == pytest.approx((errors**2).mean(), rel=1e-5)
    assert found["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)
    variance = ((numbers - numbers.mean(axis=0)) ** 2).sum(axis=0)
    shares = 1 - (errors**2).sum(axis=0) / variance
    assert found["r2_score"] == pytest.approx(shares.mean(), abs=1e-4)
    with pytest.raises(
        InputError, match=r"of a regression or of several outputs, no classes to measure.*R2Score"
    ):
        first.measure(train)
    loaded = harness.Trainer(harness.load_model(tmp_path / "run" / "model.keras"), batch_size=60)
    assert loaded.evaluate(train)["loss"] == pytest.approx(found["loss"])
    saved = load_saved_model(str(tmp_path / "run"))
    with pytest.raises(InputError, match=r"trained for a regression.*this command knows classes"):
        saved.require_classes()
