"""Trains small models in one process and prints their losses: `python -m tests.emulated_gpu.trainings CASES`.

CASES is a JSON list of settings of `harness.Trainer`, each with a `name`; what the process computes on
follows from its environment. Keys beside the settings: `weights`, `clip`, `epochs`.
"""

import json
import sys
from typing import Any

import keras
import numpy as np

import harness

NUM_TOKENS, ROWS, BATCH = 101, 96, 16


def rows_of(weights: bool) -> harness.RaggedSets:
    random = np.random.default_rng(0)
    lengths = random.integers(0, 12, ROWS)
    values = np.concatenate([random.integers(0, NUM_TOKENS, length) for length in lengths])
    return harness.RaggedSets(
        values=values,
        row_splits=np.concatenate([[0], np.cumsum(lengths)]),
        weights=random.uniform(0.5, 2, len(values)).astype(np.float32) if weights else None,
        labels=random.integers(0, 2, ROWS),
        num_tokens=NUM_TOKENS,
    )


def network(inputs: Any) -> Any:
    """Smooth, so that rounding stays rounding."""
    x = harness.MultiHotDense(8, num_tokens=NUM_TOKENS, activation="gelu")(inputs)
    x = keras.layers.Dense(8, activation="gelu")(x)
    return keras.layers.Dense(1)(x)


def train(case: dict[str, Any]) -> dict[str, Any]:
    rows = rows_of(case.pop("weights", False))
    epochs = case.pop("epochs", 3)
    name = case.pop("name")
    optimizer = keras.optimizers.Adam(0.01, clipnorm=case.pop("clip", None))
    if case.get("table_optimizer") in ("adagrad", "sgd"):
        optimizer = keras.optimizers.get({"class_name": case["table_optimizer"], "config": {"learning_rate": 0.1}})
    trainer = harness.Trainer(network, optimizer=optimizer, batch_size=BATCH, **case)
    history = trainer.fit(rows, validation=rows, epochs=epochs, verbose=False).history
    device = trainer.devices
    return {"name": name, "devices": str(device), "losses": [*map(float, history["loss"])], "validation": [*map(float, history["val_loss"])]}


def main() -> None:
    for case in json.loads(sys.argv[1]):
        name = case["name"]
        try:
            result = train(case)
        except Exception as error:
            import traceback; traceback.print_exc()
            result = {"name": name, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
