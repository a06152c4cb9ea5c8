"""This harness, driven as the peers are: what `harness train` builds, its epochs one by one.

Options: an implementation, and `stream` or `resident`; `auto`'s choice without.
"""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.peers import protocol
from harness.quiet import quiet_import

with quiet_import():
    import tensorflow as tf

    from harness.commands.session import build_session
from harness.config import (
    IMPLEMENTATIONS,
    DataConfig,
    ExecutionConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from harness.data import store
from harness.data.ragged import RaggedSets
from harness.loop import train


def main() -> None:
    task = protocol.load()
    tf.config.threading.set_intra_op_parallelism_threads(task.threads)
    inputs = [option for option in task.options if option in ("stream", "resident")]
    implementations = [option for option in task.options if option in IMPLEMENTATIONS]
    with tempfile.TemporaryDirectory() as temporary:
        # The harness holds out rows; one copied row more keeps all of the task's for training.
        rows = RaggedSets(
            values=task.values,
            row_splits=task.row_splits,
            labels=task.labels,
            num_tokens=protocol.NUM_TOKENS,
            name="benchmark",
            is_unique=True,
        )
        both = RaggedSets.concatenate([rows.take(np.array([0])), rows], name="benchmark")
        store.save(both, Path(temporary) / "sets", held_out_rows=1)
        session = build_session(
            TrainConfig(
                data=DataConfig(data=str(Path(temporary) / "sets")),
                model=ModelConfig(hidden_units=protocol.HIDDEN_UNITS, dropout=protocol.DROPOUT),
                optimizer=OptimizerConfig(learning_rate=protocol.LEARNING_RATE),
                execution=ExecutionConfig(
                    batch_size=task.batch_size,
                    precision="float32",
                    implementation=implementations[0] if implementations else "auto",
                    input=inputs[0] if inputs else "auto",
                ),
            ),
            checkpoint_dir=Path(temporary) / "checkpoints",
        )
    epoch = 0

    def train_epoch() -> protocol.Epoch:
        nonlocal epoch
        steps = session.plan.steps_per_epoch
        progress = train(
            session.dispatches(epochs=epoch + 1, start_step=epoch * steps),
            session.engine,
            [session.steps],
            # Beyond the epoch: neither evaluation nor checkpoint belong to what is compared.
            steps_per_epoch=10**12,
            start_step=epoch * steps,
        )
        epoch += 1
        return protocol.Epoch(sum(w.loss * w.examples for w in progress.windows) / task.num_rows)

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
