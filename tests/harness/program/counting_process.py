"""Counts the programs that XLA compiles while several dispatches run, from either kind of feed.

XLA writes a file for each program it compiles; the folder must be named before TensorFlow starts,
hence a separate process. How well XLA optimizes does not matter here. The process prints a JSON
list of events.
"""

import json
import os
import sys
from pathlib import Path

FOLDER = Path(sys.argv[1])
os.environ["XLA_FLAGS"] = (
    f"--xla_dump_to={FOLDER} --xla_dump_hlo_as_text --xla_backend_optimization_level=0"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)

import numpy as np  # noqa: E402

from harness.feed.plan import evaluation_plan  # noqa: E402
from tests.harness.program.rig import build_rig, sets_with_outliers  # noqa: E402


def num_programs() -> int:
    """Returns the number of programs, without the one that starts TensorFlow's threads."""
    return len(list(FOLDER.glob("*.before_optimizations.txt"))) - 1


def run(input_: str) -> list[dict]:
    sets = sets_with_outliers(np.random.default_rng(0), rows=323)
    # 41 steps in calls of 16, 16, 8 and, of 3 rows, 1. Dropout and float16 add all that a step can
    # hold.
    rig = build_rig(
        sets,
        steps_per_call=16,
        epochs=2,
        hidden_units=(4,),
        dropout=0.2,
        precision="mixed_float16",
        input=input_,
    )
    plan = evaluation_plan(rig.plan.lengths, batch_size=8, replicas=1, steps_per_call=16)
    programs = rig.programs
    events = []

    def note(what: str, compiled: int) -> None:
        programs = num_programs()
        events.append({"what": what, "run": input_, "programs": programs, "compiled": compiled})

    for dispatch, batches in rig.dispatches():
        compiled = programs.prepare(
            rig.plan, dispatch, batches, start_step=0, evaluation=(rig.feed, plan)
        )
        note("prepare", len(compiled))
        programs.train(dispatch, batches)
        note("train", 0)
        if (dispatch.step + dispatch.num_steps) % 41 == 0:
            evaluated = programs.evaluate(rig.feed, plan, step=0, epoch=dispatch.epoch)
            note("evaluate", len(evaluated[1]))
    return events


if __name__ == "__main__":
    print(json.dumps(run("stream") + run("resident")))
