"""This harness: a trainer of the tutorial's network, its epochs one by one.

Options: `NAME=VALUE` for settings of the trainer, which are `auto` otherwise. With `num_tokens=`
and `table_dtype=`: a table of so many ids, and no dropout behind it.
"""

import os

from benchmarks.peers import protocol

TASK = protocol.load()
os.environ["TF_NUM_INTRAOP_THREADS"] = str(TASK.threads)

import harness  # noqa: E402 - TensorFlow reads its thread count when it is imported
from benchmarks.training import tutorial_network  # noqa: E402
from harness.model.network import DefaultNetwork  # noqa: E402
from harness.run.records import Observer, Record, Window  # noqa: E402

_NUM_ORDERS = 10
"""Epochs with an order of their own; after them the orders repeat."""


class Losses(Observer):
    """Adds up the losses of all rows."""

    def __init__(self) -> None:
        self.total = 0.0

    def tell(self, record: Record) -> None:
        if isinstance(record, Window):
            self.total += record.loss * record.examples


def main() -> None:
    if len(TASK.named) < len(TASK.options):
        raise ValueError(f"options are {', '.join(TASK.options)}; each is NAME=VALUE")
    settings, network, num_tokens = TASK.named, tutorial_network, protocol.NUM_TOKENS
    if "num_tokens" in settings:
        num_tokens = int(settings.pop("num_tokens"))
        network = DefaultNetwork(
            dropout=(0.0, 0.0, 0.0),
            num_tokens=num_tokens,
            num_classes=2,
            table_dtype=settings.pop("table_dtype", None),
        )
    rows = harness.RaggedSets(
        values=TASK.values,
        row_splits=TASK.row_splits,
        labels=TASK.labels,
        num_tokens=num_tokens,
        name="benchmark",
    ).unique()
    trainer = harness.Trainer(
        network,
        optimizer="adam",  # the default rate is protocol.LEARNING_RATE
        batch_size=TASK.batch_size,
        precision="float32",
        **settings,
    )
    steps = trainer.steps(rows, epochs=_NUM_ORDERS)

    def train_epoch() -> protocol.Epoch:
        losses = Losses()
        # No dispatch goes beyond the end of an epoch.
        steps.run(num_steps=steps.start.steps_per_epoch, observers=[losses])
        return protocol.Epoch(losses.total / TASK.num_rows)

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
