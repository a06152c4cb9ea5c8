"""Trains small models, one after another, and prints their losses.

    python -m tests.emulated_gpu.trainings CASES

CASES is a JSON list of settings of `harness.Trainer`, each with a `name` and perhaps `weighted`,
`unique` (no row holds an id twice), `clip` (the gradients' norm), `embeds` (an own layer in the
table's place), `predicts`, `epochs`,
`quick` (dispatches grow as on a quick device, beyond an epoch's end on a GPU) or `ragged` (an epoch
ends in a smaller batch, whose programs take as long to compile as the others).
The environment decides which devices the process computes on.
"""

import contextlib
import json
import sys
from typing import Any
from unittest import mock

import keras
import numpy as np

import harness
import harness.feed.cadence as lengths
from benchmarks.differential.layers import Pooled

NUM_TOKENS, NUM_ROWS, BATCH_SIZE = 101, 90, 16  # so that an epoch may end in a smaller batch


def rows_of(*, weighted: bool) -> harness.RaggedSets:
    random = np.random.default_rng(0)
    lengths = random.integers(0, 12, NUM_ROWS)
    num_values = int(lengths.sum())
    return harness.RaggedSets(
        values=random.integers(0, NUM_TOKENS, num_values),
        row_splits=np.concatenate([[0], np.cumsum(lengths)]),
        weights=random.uniform(0.5, 2, num_values).astype(np.float32) if weighted else None,
        labels=random.integers(0, 2, NUM_ROWS),
        num_tokens=NUM_TOKENS,
    )


def network(inputs: Any) -> Any:
    """Computes a smooth network: a row that crosses a kink would part the losses by more than
    rounding."""
    x = harness.MultiHotDense(8, num_tokens=NUM_TOKENS, activation="gelu")(inputs)
    return keras.layers.Dense(1)(keras.layers.Dense(8, activation="gelu")(x))


def embedding(inputs: Any) -> Any:
    """Computes a network with an embedding of the user's own, which has a gradient by rows."""
    return keras.layers.Dense(1)(Pooled(NUM_TOKENS, 8, mean=True, seed=1)(inputs))


def train(case: dict[str, Any]) -> dict[str, Any]:
    case = dict(case)
    name, epochs = case.pop("name", ""), case.pop("epochs", 2)
    weighted, embeds, predicts = (case.pop(k, False) for k in ("weighted", "embeds", "predicts"))
    quick = case.pop("quick", False)
    updates = case.keys() & {"table_optimizer", "clip"}
    if case.get("table_optimizer") == "adagrad":
        optimizer: Any = keras.optimizers.Adagrad(0.1)
    else:
        optimizer = keras.optimizers.Adam(0.01, clipnorm=case.pop("clip", None))
    rows = rows_of(weighted=weighted)
    rows = rows.unique() if case.pop("unique", False) else rows
    if not case.pop("ragged", False):
        rows = rows.take(np.arange(NUM_ROWS // BATCH_SIZE * BATCH_SIZE))
    model = embedding if embeds else network
    trainer = harness.Trainer(model, optimizer=optimizer, batch_size=BATCH_SIZE, **case)
    # An evaluation does not depend on how weights were updated: its programs are those of others.
    validation = None if updates else rows
    with contextlib.ExitStack() as patches:
        if quick:
            limits = {"AIM_SECONDS": 1e9, "_TOO_SHORT_SECONDS": 1e9, "_TOO_LONG_SECONDS": 1e9}
            patches.enter_context(mock.patch.multiple(lengths, **limits))
        after = lengths.Cadence.after
        spy = mock.patch.object(lengths.Cadence, "after", autospec=True, side_effect=after)
        ended = patches.enter_context(spy)
        history = trainer.fit(rows, validation=validation, epochs=epochs, verbose=False).history
    if quick and trainer.devices.device_type == "GPU":
        assert ended.call_count < epochs, "each epoch had a dispatch of its own"
    losses = [float(loss) for key in ("loss", "val_loss") for loss in history.get(key, ())]
    if predicts:  # a mean square that both sides must agree in
        losses.append(float(np.mean(np.square(trainer.predict(rows)))))
        losses.append(float(trainer.evaluate(rows)["loss"]))
    return {"name": name, "devices": list(trainer.devices.names), "losses": losses}


def main() -> None:
    for case in json.loads(sys.argv[1]):
        print(json.dumps(train(case)), flush=True)


if __name__ == "__main__":
    main()
