"""The peak memory of training a large table, in a process of its own.

    .venv/bin/python -m benchmarks.table_memory [--num-tokens 4194304]

Prints the peak of resident memory over what the process took before its model was made, and that
as a multiple of weights, slots and data set. Two epochs of training with an evaluation after each;
no run folder, since a checkpoint is written from a copy of the state.
"""

import argparse
import sys
from pathlib import Path

import keras
import numpy as np

import harness
from harness.engine.tables import layers_of
from harness.model.layers import MultiHotDense

_UNITS = 50
_MOST = 1.15


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-tokens", type=int, default=2**22)
    parser.add_argument("--table-optimizer", default="exact_adam")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--num-steps", type=int, default=8)
    arguments = parser.parse_args()
    V = arguments.num_tokens
    rng = np.random.default_rng(0)
    num_rows = arguments.num_steps * arguments.batch_size
    rows = harness.RaggedSets(
        values=(V ** rng.random(130 * num_rows)).astype(np.int32),  # P(id) ~ 1 / id
        row_splits=130 * np.arange(num_rows + 1),
        labels=rng.integers(0, 2, num_rows),
        num_tokens=V,
        name="ids",
    ).unique()
    trainer = harness.Trainer(
        lambda inputs: keras.layers.Dense(1)(MultiHotDense(_UNITS, V, activation="relu")(inputs)),
        batch_size=arguments.batch_size,
        precision="float32",
        implementation="native",
        table_optimizer=arguments.table_optimizer,
    )
    harness.Trainer(  # loads what every training needs
        lambda inputs: keras.layers.Dense(1)(MultiHotDense(1, V)(inputs)), implementation="native"
    ).fit(rows.take(np.arange(2000)), verbose=False)
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    trainer.fit(rows, validation=rows, epochs=2, verbose=False)
    peak = 1024 * (_kilobytes("VmHWM") - before)
    state = trainer._setup.engine.states[0]
    held = sum(v.dtype.size * int(np.prod(v.shape)) for v in state.variables)
    data = rows.values.nbytes + rows.row_splits.nbytes + rows.labels.nbytes
    (layer,) = layers_of(trainer.model).values()
    print(
        f"{layer.num_tokens:,} x {_UNITS}, {arguments.table_optimizer}: weights and slots "
        f"{held / 1e6:,.0f} MB, data set {data / 1e6:,.0f} MB, peak {peak / 1e6:,.0f} MB: "
        f"{peak / (held + data):.3f} times (at most {_MOST})"
    )
    return int(peak > _MOST * (held + data))


if __name__ == "__main__":
    sys.exit(main())
