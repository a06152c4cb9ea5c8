"""Counts the programs that XLA compiles while several dispatches run, for 1 and for 2 replicas.

XLA writes a file for each program it compiles; the folder must be named before TensorFlow starts,
hence a process of its own. How well it optimizes does not matter here.
Prints a JSON list of what happened.
"""

import json
import os
import sys
from pathlib import Path

FOLDER = Path(sys.argv[1])
os.environ["XLA_FLAGS"] = (
    f"--xla_dump_to={FOLDER} --xla_dump_hlo_as_text --xla_backend_optimization_level=0"
)

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from harness.background import Background  # noqa: E402
from harness.config import OptimizerConfig  # noqa: E402
from harness.engine.engine import Engine  # noqa: E402
from harness.pipeline.plan import evaluation_plan  # noqa: E402
from harness.pipeline.stream import Stream  # noqa: E402
from tests.harness.engine.outliers import sets_with_outliers  # noqa: E402
from tests.harness.engine.rig import build_rig  # noqa: E402


def num_programs() -> int:
    return len(list(FOLDER.glob("*.before_optimizations.txt")))


def run(replicas: int) -> list[dict]:
    sets = sets_with_outliers(np.random.default_rng(0))
    # 40 steps in dispatches of 16, 16 and 8. Dropout and float16 add all that a step can hold.
    rig = build_rig(
        sets,
        replicas=replicas,
        steps_per_dispatch=16,
        epochs=2,
        hidden_units=(4,),
        dropout=0.2,
        precision="mixed_float16",
    )
    plan = evaluation_plan(sets.lengths, batch_size=8, replicas=replicas, steps_per_dispatch=16)
    engine = Engine(
        rig.network,
        rig.devices,
        OptimizerConfig(),
        scaled=True,
        test_feed=Stream(sets, plan),
        checkpoint_dir=FOLDER,
        background=Background(),
    )
    events = []

    def note(what: str, **more: int) -> None:
        events.append({"what": what, "replicas": replicas, "programs": num_programs(), **more})

    for dispatch, batches in rig.dispatches():
        compilation = engine.prepare(dispatch, batches)
        note("prepare", capacity=dispatch.capacity, compiled=int(compilation is not None))
        engine.fetch(engine.train(dispatch, batches))
        note("train", num_steps=dispatch.num_steps)
        if (dispatch.step + dispatch.num_steps) % 40 == 0:
            engine.evaluate(step=0, epoch=dispatch.epoch)
            note("evaluate", epoch=dispatch.epoch)
    return events


if __name__ == "__main__":
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    print(json.dumps(run(1) + run(2)))
