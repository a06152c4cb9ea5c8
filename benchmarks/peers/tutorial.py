"""The tutorial as published: IMDB as a dense NumPy matrix, a small Keras network, `model.fit`.

Nothing here is improved: `vectorize`, the network, `compile` and `fit` are the tutorial's own
(`keras.Input` stands for its `input_shape=`, of which Keras 3 warns). Around them are only the
reading of a local `imdb.npz` with the conventions of `keras.datasets.imdb.load_data`, whose own
function refuses a file without the published hash, and the measurements. Needs 10 GB of memory.

    python benchmarks/peers/tutorial.py --data imdb.npz

The last line on stdout is one JSON object; progress goes to stderr. Its figures:

- `wall_seconds`: since the operating system started the process, imports included.
- `peak_rss_bytes`: the most memory the process ever held (`VmHWM`).
- `epoch_seconds`: per epoch, from its first step to its last, without the validation after it.
- `examples_per_second`: the median over epochs of examples / seconds, both counted from the end
  of the epoch's first step, which is where the first epoch traces its graph. `fit` converts the
  whole matrix before that, so this is the tutorial at its best.
- `test_accuracy`: validation accuracy after the last epoch; `mean_validation_accuracy`: over the
  epochs, which is the figure that the tutorial prints.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import psutil
from keras import layers, models

NUM_WORDS = 10_000
START_TOKEN, UNKNOWN_TOKEN, INDEX_OFFSET = 1, 2, 3
NUM_TEST_ROWS = 10_000
NUM_EPOCHS = 2
BATCH_SIZE = 500


def load_data(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Loads the 50,000 reviews as `keras.datasets.imdb.load_data(num_words=10000)` does, merged.

    Returns an object array of lists of token ids [50000], and labels [50000], train before test.
    """
    with np.load(path, allow_pickle=True) as file:
        splits = [(file[f"x_{name}"], file[f"y_{name}"]) for name in ("train", "test")]
    generator = np.random.RandomState(113)  # one generator for both splits, as in Keras
    sequences, labels = [], []
    for ranks_of_reviews, targets in splits:
        order = np.arange(len(ranks_of_reviews))
        generator.shuffle(order)
        labels.append(targets[order])
        for ranks in ranks_of_reviews[order]:
            ids = [START_TOKEN] + [rank + INDEX_OFFSET for rank in ranks]
            sequences.append([i if i < NUM_WORDS else UNKNOWN_TOKEN for i in ids])
    return np.array(sequences, dtype="object"), np.concatenate(labels)


def vectorize(sequences, dimension=NUM_WORDS):
    """Returns the multi-hot matrix, float64 [len(sequences), dimension]: 4 GB for the whole data
    set."""
    results = np.zeros((len(sequences), dimension))
    for i, sequence in enumerate(sequences):
        results[i, sequence] = 1
    return results


def build_model() -> keras.Model:
    """Makes the tutorial's network, 505,201 parameters, compiled as in the tutorial."""
    model = models.Sequential()
    model.add(keras.Input(shape=(NUM_WORDS,)))
    model.add(layers.Dense(50, activation="relu"))
    model.add(layers.Dropout(0.3, noise_shape=None, seed=None))
    model.add(layers.Dense(50, activation="relu"))
    model.add(layers.Dropout(0.2, noise_shape=None, seed=None))
    model.add(layers.Dense(50, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid"))
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return model


class StepClock(keras.callbacks.Callback):
    """Notes when each epoch begins and when each of its steps ends."""

    def __init__(self) -> None:
        super().__init__()
        self.begins: list[float] = []
        self.step_ends: list[list[float]] = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begins.append(time.perf_counter())
        self.step_ends.append([])

    def on_train_batch_end(self, batch, logs=None):
        self.step_ends[-1].append(time.perf_counter())

    def epoch_seconds(self) -> list[float]:
        return [ends[-1] - begin for begin, ends in zip(self.begins, self.step_ends, strict=True)]

    def examples_per_second(self) -> float:
        return statistics.median(
            (len(ends) - 1) * BATCH_SIZE / (ends[-1] - ends[0]) for ends in self.step_ends
        )


def peak_rss_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM line: this needs Linux")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the tutorial's network the tutorial's way.")
    parser.add_argument("--data", type=Path, required=True, help="imdb.npz in Keras's format")
    parser.add_argument("--seed", type=int, default=None, help="the tutorial sets none")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        keras.utils.set_random_seed(arguments.seed)

    data, targets = load_data(arguments.data)
    data = vectorize(data)
    targets = np.array(targets).astype("float32")

    test_x, train_x = data[:NUM_TEST_ROWS], data[NUM_TEST_ROWS:]
    test_y, train_y = targets[:NUM_TEST_ROWS], targets[NUM_TEST_ROWS:]
    model = build_model()
    clock = StepClock()
    with contextlib.redirect_stdout(sys.stderr):
        results = model.fit(
            train_x,
            train_y,
            epochs=NUM_EPOCHS,
            batch_size=BATCH_SIZE,
            validation_data=(test_x, test_y),
            callbacks=[clock],
        )

    accuracies = results.history["val_accuracy"]
    figures = {
        "wall_seconds": time.time() - psutil.Process().create_time(),
        "peak_rss_bytes": peak_rss_bytes(),
        "epoch_seconds": clock.epoch_seconds(),
        "examples_per_second": clock.examples_per_second(),
        "test_accuracy": accuracies[-1],
        "mean_validation_accuracy": float(np.mean(accuracies)),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
