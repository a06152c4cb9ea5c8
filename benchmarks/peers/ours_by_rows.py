"""This harness with a large table.

Options: what updates the table; `V=` and the number of ids; the table's dtype.
"""

import os

from benchmarks.peers import protocol

TASK = protocol.load()
os.environ["TF_NUM_INTRAOP_THREADS"] = str(TASK.threads)

import harness  # noqa: E402 - TensorFlow reads its thread count when it is imported
from benchmarks.peers.ours import Losses  # noqa: E402
from harness.model.network import default_network  # noqa: E402

_NUM_ORDERS = 10
"""Epochs with an order of their own; after them the orders repeat."""


def main() -> None:
    (num_tokens,) = (int(o.removeprefix("V=")) for o in TASK.options if o.startswith("V="))
    table_optimizer, dtype = (o for o in TASK.options if not o.startswith("V="))
    rows = harness.RaggedSets(
        values=TASK.values,
        row_splits=TASK.row_splits,
        labels=TASK.labels,
        num_tokens=num_tokens,
        name="benchmark",
    ).unique()
    network = default_network(
        dropout=(0.0, 0.0, 0.0), num_tokens=num_tokens, num_classes=2, table_dtype=dtype
    )
    trainer = harness.Trainer(
        network,
        batch_size=TASK.batch_size,
        precision="float32",
        implementation="native",
        table_optimizer=table_optimizer,
    )
    steps = trainer.steps(rows, epochs=_NUM_ORDERS)

    def train_epoch() -> protocol.Epoch:
        losses = Losses()
        steps.run(num_steps=steps.start.steps_per_epoch, observers=[losses])
        return protocol.Epoch(losses.total / TASK.num_rows)

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
