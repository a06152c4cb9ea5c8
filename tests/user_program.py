"""A user's program that calls the public names, for `scripts/check`: strictly typed."""

from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness.sklearn import MultiHotClassifier, MultiHotRegressor


def model(inputs: Any) -> Any:
    x = harness.MultiHotDense(8, num_tokens=10, activation="relu")(inputs)
    return harness.HashDropout(0.5)(x)


def main(folder: Path) -> None:
    rows = harness.RaggedSets.from_lists([[1, 2], [3]], labels=np.array([0, 1]), num_tokens=10)
    examples: harness.Examples = harness.as_examples([[1, 2], [3]], ["no", "yes"])
    data: harness.Dataset = harness.load("synthetic", validation_split=0.1)
    print(len(rows), rows[0], rows[:1], [row.tolist() for row in rows], examples.num_rows)
    task = harness.Task("binary", metrics=["accuracy"])
    trainer = harness.Trainer(model, task=task, batch_size=2, precision="float32")
    history = trainer.fit(data.train, validation=data.validation, epochs=2, run_dir=folder)
    losses: list[float] = history.history["loss"]
    figures: dict[str, float] = trainer.evaluate((rows, [0, 1]))
    outputs: np.ndarray[Any, Any] = trainer.predict(rows)
    print(losses, figures["loss"] + 1, outputs.shape, trainer.measure(rows).confusion)
    trainer.save(folder / "mine.keras")
    trainer.export(folder / "saved", format="saved_model")
    print(harness.load_model(folder / "mine.keras").count_params())
    settings, options = harness.Settings(batch_size=5), harness.RunOptions(telemetry_hz=0)
    print(settings.batch_size + 1, options.run_dir)
    try:
        trainer.fit([[1]])
    except (harness.InputError, harness.DivergenceError) as error:
        print(str(error))
    classifier = MultiHotClassifier(hidden_units=(8,), epochs=2).fit(["a", "b"], [0, 1])
    classes: np.ndarray[Any, Any] = classifier.predict(["a"])
    print(classes, classifier.predict_proba(["b"])[0], classifier.score(["a"], [0]))
    print(MultiHotRegressor(learning_rate=0.01).fit([[0.5]], [1.5]).predict([[1]]) + 1)
