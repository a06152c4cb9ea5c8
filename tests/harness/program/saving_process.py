"""Saves checkpoints for ever, each with weights that are its step: made to be killed."""

import sys
from pathlib import Path

import numpy as np

from harness.program.checkpoints import Checkpoints
from harness.run.background import Background
from tests.harness.program.rig import Rig, build_rig
from tests.harness.random_sets import random_sets


def build() -> Rig:
    """Builds a rig so large that most of the time goes into writing."""
    sets = random_sets(np.random.default_rng(), rows=8, num_tokens=20_000)
    return build_rig(sets, hidden_units=(64,))


def save_for_ever(folder: Path) -> None:
    rig = build()
    background = Background()
    checkpoints = Checkpoints(folder, rig.states, background)
    shapes = [weights.shape for weights in rig.weights()]
    step = 0
    while True:
        step += 1
        rig.set_weights([np.full(shape, step, np.float32) for shape in shapes])
        checkpoints.save(step)
        background.wait()
        print(step, flush=True)


if __name__ == "__main__":
    save_for_ever(Path(sys.argv[1]))
