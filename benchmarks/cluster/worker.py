"""A worker of the cluster that TF_CONFIG names, or a single process: trains cases, and writes the
results.

    python -m benchmarks.cluster.worker FOLDER STEPS
"""

import itertools
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.initializers import GlorotUniform

from harness import MultiHotDense, RaggedSets, Task, Trainer
from harness.model.network import DefaultNetwork

BATCH, NUM_TOKENS, MANY_TOKENS = 60, 300, 20_000
STEPS, LAST_ROWS, FEWEST_ROWS = 10, 23, 1
"""The steps of an epoch, and the rows of its last batch: of 23, workers get shares of different
sizes; of 1, some get no row."""


def sets(
    *,
    rows: int = (STEPS - 1) * BATCH + LAST_ROWS,
    seed: int = 0,
    weight: float | None = None,
    num_tokens: int = NUM_TOKENS,
) -> RaggedSets:
    """Returns random rows with learnable labels. With `weight`, ids have weights: `weight` for the
    first id of row 7, else 1."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 20, rows)
    splits = np.concatenate([[0], np.cumsum(lengths)])
    values = rng.integers(0, num_tokens, splits[-1])
    labels = np.array(
        [np.median(values[a:b]) < num_tokens / 2 for a, b in itertools.pairwise(splits)]
    )
    weights = np.ones(len(values), np.float32)
    weights[splits[7]] = weight or 1
    return RaggedSets(
        values=values,
        row_splits=splits,
        labels=labels.astype(np.int64),
        num_tokens=num_tokens,
        weights=None if weight is None else weights,
        name="random rows",
    )


def normalized(inputs: Any) -> Any:
    """Computes a network that needs sums over all rows of a batch inside."""
    # No biases: normalization cancels them, and Adam would make steps of rounding errors.
    own, hidden, last = (GlorotUniform(seed=seed) for seed in (1, 2, 3))
    x = MultiHotDense(16, NUM_TOKENS, use_bias=False, kernel_initializer=own)(inputs)
    x = keras.activations.gelu(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dense(8, use_bias=False, kernel_initializer=hidden)(x)
    x = keras.activations.gelu(keras.layers.BatchNormalization()(x))
    return keras.layers.Dense(1, kernel_initializer=last)(x)


class _Unhurried(keras.callbacks.Callback):
    """Delays the second epoch until the first one's checkpoints are surely written: otherwise, with
    a fast machine and a slow disk, a checkpoint that is due would wait for a later step."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == 1:
            time.sleep(0.5)


def train(case: str, folder: Path, *, steps: int, resume: bool = False) -> dict[str, Any]:
    """Trains a case, or continues it; returns this worker's results."""
    huge = case == "one overflow in float16"
    by_rows = case == "touched rows"
    num_tokens = MANY_TOKENS if by_rows or case == "large table" else NUM_TOKENS
    network = DefaultNetwork(
        hidden_units=(16, 8),
        dropout=(0.0, 0.0),
        activation="gelu",
        num_tokens=num_tokens,
        num_classes=2,
        seed=1,
    )
    accumulate = 4 if case == "gradient accumulation" else None
    trainer = Trainer(
        normalized if case == "batch normalization" else network,
        optimizer=partial(
            keras.optimizers.Adam, learning_rate=0.01, gradient_accumulation_steps=accumulate
        ),
        task=Task(metrics=["accuracy", "Precision"]),
        batch_size=BATCH,
        precision="mixed_float16" if huge else "float32",
        implementation="native" if by_rows else "gather",
        table_optimizer="exact_adam" if by_rows else "dense",
        input="stream" if case == "stream" else "resident",
        steps_per_dispatch=1,
    )
    rows = sets(
        rows=(STEPS - 1) * BATCH + (FEWEST_ROWS if case in _FEWEST else LAST_ROWS),
        weight=1e30 if huge else None,  # more than float16 holds
        num_tokens=num_tokens,
    )
    held_out = sets(rows=101, seed=1, weight=1.0 if huge else None, num_tokens=num_tokens)
    trainer.fit(
        rows,
        validation=held_out,
        epochs=-(-steps // STEPS),
        run_dir=folder / case.replace(" ", "-"),
        tensorboard="off",
        telemetry_hz=0,
        verbose=False,
        on_nan="continue",
        checkpoint_every=7,
        callbacks=[_Unhurried()],
        resume=resume,
    )
    progress = trainer.last.progress if trainer.last else None
    assert progress is not None
    weights = np.concatenate([w.reshape(-1) for w in trainer.model.get_weights()])
    return {
        "weights": weights.tolist(),
        "skipped": progress.windows.skipped_steps,
        "predictions": [] if huge else trainer.predict(held_out).reshape(-1).tolist(),
        "evaluation": {} if huge else trainer.evaluate(held_out),
    }


CASES = (
    "float32",
    "gradient accumulation",
    "one overflow in float16",
    "stream",
    "touched rows",
    "large table",
    "batch normalization",
)
"""The cases. In `large table`, workers exchange ids and the gradients of products."""
_FEWEST = ("float32", "stream", "touched rows")


def losses(folder: Path, case: str) -> np.ndarray:
    """Returns the losses of every step and of every validation."""
    lines = (folder / case.replace(" ", "-") / "metrics.jsonl").read_text().splitlines()
    found = []
    for record in map(json.loads, lines):
        for name in ("loss", "validation_loss"):
            if name in record:
                value = record[name]
                found.append(float("nan") if value is None else float(value))
    return np.array(found)


def main() -> int:
    folder, steps, *cases = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    from harness.workers.membership import membership

    index = membership(os.environ).index
    found = {case: train(case, folder, steps=steps) for case in cases or CASES}
    (folder / f"worker-{index}.json").write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
