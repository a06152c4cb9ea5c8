"""This harness, driven as the peers are: the engine and the stream of `harness train`.

Options: an implementation by name; none is `auto`'s choice.
"""

import tempfile
from pathlib import Path

from benchmarks.peers import protocol
from harness.quiet import quiet_import

with quiet_import():
    import tensorflow as tf

    from harness.engine.devices import set_up_devices
    from harness.engine.engine import Engine
from harness.config import ModelConfig, OptimizerConfig
from harness.data.ragged import RaggedSets
from harness.loop import train
from harness.model.network import build_network
from harness.pipeline.plan import evaluation_plan, training_plan
from harness.pipeline.stream import Stream

_STEPS_PER_DISPATCH = 20


def main() -> None:
    task = protocol.load()
    tf.config.threading.set_intra_op_parallelism_threads(task.threads)
    sets = RaggedSets(
        values=task.values,
        row_splits=task.row_splits,
        labels=task.labels,
        num_tokens=protocol.NUM_TOKENS,
        name="benchmark",
        is_unique=True,
    )
    devices = set_up_devices(1)
    implementation = task.options[0] if task.options else "gather"
    network = build_network(
        ModelConfig(hidden_units=protocol.HIDDEN_UNITS, dropout=protocol.DROPOUT),
        num_tokens=protocol.NUM_TOKENS,
        num_classes=2,
        implementation=implementation,
        unique=True,
        dtype="float32",
        seed=0,
    )
    steps = min(_STEPS_PER_DISPATCH, -(-task.num_rows // task.batch_size))
    shape = {"batch_size": task.batch_size, "replicas": 1, "steps_per_dispatch": steps}
    plan = training_plan(sets.lengths, **shape, seed=0)
    few = sets.take(range(task.batch_size))
    engine = Engine(
        network,
        devices,
        OptimizerConfig(learning_rate=protocol.LEARNING_RATE),
        scaled=False,
        test_feed=Stream(few, evaluation_plan(few.lengths, **shape)),
        checkpoint_dir=Path(tempfile.gettempdir()) / "unused",
    )
    stream = Stream(sets, plan)

    def train_epoch() -> float:
        # A limit beyond the epoch: neither evaluation nor checkpoint belong to what is compared.
        progress = train(stream, engine, (), steps_per_epoch=plan.steps_per_epoch + 1)
        return sum(w.loss * w.examples for w in progress.windows) / sets.num_rows

    protocol.serve(train_epoch)


if __name__ == "__main__":
    main()
