"""Tests whether several workers train as one: losses of 1, 2 and 3 processes on this machine.

    python -m benchmarks.cluster.parity [STEPS [WORKERS ...]]

Prints the largest relative difference of a loss for each case; exit code 1 when one is above 1e-5
in float32, or when workers of one job end with different weights.
"""

import io
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.initializers import GlorotUniform

from harness import MultiHotDense, RaggedSets, Task, Trainer
from harness.model.network import DefaultNetwork
from harness.workers.launcher import run_job
from harness.workers.membership import membership

MOST = 1e-5  # The largest relative difference of a loss allowed in float32
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
    names = ("loss", "validation_loss")
    found = [record[n] for record in map(json.loads, lines) for n in names if n in record]
    return np.array(found, float)  # None, which stands for NaN in the file, becomes one


def run(
    folder: Path, *, workers: int, steps: int, cases: Sequence[str] = CASES
) -> list[dict[str, Any]]:
    """Trains cases with some workers; returns what each of them wrote."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "benchmarks.cluster.parity", "--worker", str(folder)]
    out = io.StringIO()
    code = run_job(workers, [*command, str(steps), *cases], out=out, errors=out)
    if code:
        raise RuntimeError(f"{workers} workers ended with exit code {code}:\n{out.getvalue()}")
    return [json.loads((folder / f"worker-{i}.json").read_text()) for i in range(workers)]


def differences(
    reference: Path, folder: Path, one: dict[str, Any], several: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Returns the largest relative difference of a loss by case between one process's results and
    folder, the reference, and those of several workers; checks everything else."""
    found = {}
    for case in one:
        own, expected = losses(folder, case), losses(reference, case)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(own), finite)
        found[case] = float(np.max(np.abs(own - expected)[finite] / np.abs(expected[finite])))
        for worker in several:
            for name in ("weights", "predictions", "skipped"):
                np.testing.assert_array_equal(worker[case][name], several[0][case][name])
            assert worker[case]["skipped"] == one[case]["skipped"], (case, worker[case]["skipped"])
            for name, value in one[case]["evaluation"].items():
                np.testing.assert_allclose(worker[case]["evaluation"][name], value, rtol=0.01)
    return found


def be_worker(folder: Path, steps: int, cases: Sequence[str]) -> None:
    """Trains the cases as a worker of the cluster that TF_CONFIG names, or as a single process, and
    writes the results."""
    index = membership(os.environ).index
    found = {case: train(case, folder, steps=steps) for case in cases}
    (folder / f"worker-{index}.json").write_text(json.dumps(found))


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--worker"]:
        be_worker(Path(arguments[1]), int(arguments[2]), arguments[3:])
        return 0
    steps = int(arguments[0]) if arguments else 200
    counts = list(map(int, arguments[1:])) or [2, 3]
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (one,) = run(folder / "1", workers=1, steps=steps)
        for workers in counts:
            several = run(folder / str(workers), workers=workers, steps=steps)
            found = differences(folder / "1", folder / str(workers), one, several)
            for case, difference in found.items():
                print(f"{workers} workers, {steps} steps, {case}: {difference:.1e}", flush=True)
                if "float16" not in case:
                    worst = max(worst, difference)
    print(f"largest in float32: {worst:.1e}; allowed: {MOST:.0e}")
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
