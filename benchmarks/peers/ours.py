"""This harness: a trainer of the tutorial's network, its epochs one by one.

Options: `NAME=VALUE` for settings of the trainer, which are `auto` otherwise.
"""

from benchmarks.peers import protocol

TASK = protocol.load()

import harness  # noqa: E402 - TensorFlow reads its thread count when it is imported
from harness.model.network import DefaultNetwork  # noqa: E402

_NUM_ORDERS = 10  # Epochs with an order of their own; after them the orders repeat


def main() -> None:
    if len(TASK.named) < len(TASK.options):
        raise ValueError(f"options are {', '.join(TASK.options)}; each is NAME=VALUE")
    rows = harness.RaggedSets(
        values=TASK.values,
        row_splits=TASK.row_splits,
        labels=TASK.labels,
        num_tokens=protocol.NUM_TOKENS,
        name="benchmark",
    ).unique()
    trainer = harness.Trainer(
        DefaultNetwork(
            hidden_units=protocol.HIDDEN_UNITS,
            dropout=protocol.DROPOUT,
            num_tokens=protocol.NUM_TOKENS,
            num_classes=2,
        ),
        optimizer="adam",  # the default rate is protocol.LEARNING_RATE
        batch_size=TASK.batch_size,
        precision="float32",
        **TASK.named,
    )
    steps = trainer.steps(rows, epochs=_NUM_ORDERS)

    def train_epoch() -> float:
        # No dispatch goes beyond the end of an epoch.
        last = steps.run(num_steps=steps.start.steps_per_epoch).last_window
        assert last is not None
        return last.so_far["loss"]

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
