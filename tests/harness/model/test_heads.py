"""Commands and exports of models whose outputs only their loss names probabilities."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.cli.main import main
from harness.cli.saved_model import load_saved_model
from harness.data.vocabulary import Vocabulary

TEXTS = ["good film", "bad", "good", "bad film film", "film", "good bad"] * 5
LABELS = np.array([1, 0, 1, 0, 1, 0] * 5)
WORDS = Vocabulary(ids={"good": 0, "bad": 1, "film": 2}, num_tokens=3)


def averaged(inputs: Any) -> Any:
    x = [
        keras.layers.Dense(1, "sigmoid")(harness.MultiHotDense(4, 3, activation="tanh")(inputs))
        for _ in range(2)
    ]
    return keras.layers.Average()(x)


def test_a_run_tells_commands_and_exports_what_its_outputs_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = keras.losses.BinaryCrossentropy(label_smoothing=0.1)
    trainer = harness.Trainer(averaged, task=harness.Task(loss=loss), batch_size=10)
    sets = WORDS.encode_all(TEXTS)
    run, exported = tmp_path / "run", tmp_path / "exported"
    trainer.fit((sets, LABELS), epochs=3, run_dir=run, vocabulary=WORDS, verbose=False)
    expected = trainer.predict(sets)[:, 0]

    assert main(["predict", "--model", str(run), "--json", "--texts", *TEXTS]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose([one["probabilities"]["1"] for one in found], expected, atol=1e-5)
    loaded = load_saved_model(str(run)).trainer  # as `harness evaluate` does
    assert loaded.evaluate((sets, LABELS)) == pytest.approx(trainer.evaluate((sets, LABELS)))
    assert main(["export", "--model", str(run), "--out", str(exported)]) == 0
    serve = tf.saved_model.load(exported).signatures["serve_text"]
    judged = serve(tf.constant(TEXTS))["probabilities"]
    np.testing.assert_allclose(judged[:, 1], expected, atol=1e-5)

    trainer.save(tmp_path / "alone.keras")  # no run says what the loss was
    (tmp_path / "vocabulary.json").write_bytes((run / "vocabulary.json").read_bytes())
    capsys.readouterr()
    assert main(["predict", "--model", str(tmp_path / "alone.keras"), "--texts", "good"]) == 2
    assert "ends in RealDiv, and no loss is known that says" in capsys.readouterr().err
