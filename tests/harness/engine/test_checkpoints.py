"""Checkpoints: a fresh process repeats the uninterrupted run, and nothing else is restored."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from harness.data.ragged import RaggedSets
from harness.engine.checkpoints import Checkpoints
from harness.errors import InputError
from tests.harness.engine import saving_process
from tests.harness.engine.rig import Rig, assert_same, build_rig
from tests.harness.random_sets import random_sets


@pytest.fixture(scope="module")
def sets() -> RaggedSets:
    return random_sets(np.random.default_rng(), rows=77)


def checkpoints(rig: Rig, folder: Path) -> Checkpoints:
    return Checkpoints(folder, rig.network.logits, rig.replicas)


def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path: Path, sets: RaggedSets) -> None:
    # 10 steps in dispatches of 5. Adam, dropout and loss scale have a state of their own, on each
    # replica. (One replica in float32: test_engine.py.)
    def rig() -> Rig:
        return build_rig(
            sets, replicas=2, precision="mixed_float16", dropout=0.3, steps_per_dispatch=5
        )

    first = rig()
    first.train(num_dispatches=1)
    for replica in first.replicas:
        assert replica.loss_scale is not None
        replica.loss_scale.scale.assign(2.0**12)  # not where it began
    checkpoints(first, tmp_path).save(5)
    sums, end = first.train(start_step=5), first.state()

    resumed = rig()
    assert checkpoints(resumed, tmp_path).restore() == 5
    again = resumed.train(start_step=5)
    np.testing.assert_array_equal(again, sums)
    assert_same(resumed.state(), end)


def test_keeps_the_last_two(tmp_path: Path, sets: RaggedSets) -> None:
    rig = build_rig(sets)
    saver = checkpoints(rig, tmp_path)
    for step in (3, 7, 11):
        saver.save(step)
    assert sorted(path.stem for path in tmp_path.glob("*.index")) == ["ckpt-11", "ckpt-7"]
    assert checkpoints(rig, tmp_path).restore() == 11


def test_nothing_to_restore(tmp_path: Path, sets: RaggedSets) -> None:
    saver = checkpoints(build_rig(sets), tmp_path / "none")
    with pytest.raises(InputError, match="holds no checkpoint to resume from"):
        saver.restore()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"hidden_units": (6, 5)},
        {"hidden_units": (6,)},
        {"hidden_units": (6, 4, 4)},
        {"optimizer": "sgd"},
        {"precision": "float32"},
        {"dropout": 0.0},
    ],
    ids=str,
)
def test_a_checkpoint_of_other_settings_is_refused(
    tmp_path: Path, sets: RaggedSets, changed: dict
) -> None:
    settings = {"hidden_units": (6, 4), "precision": "mixed_float16", "dropout": 0.1}
    checkpoints(build_rig(sets, **settings), tmp_path).save(1)
    other = build_rig(sets, **(settings | changed))
    with pytest.raises(InputError, match=r"does not fit .*; resume with the settings"):
        checkpoints(other, tmp_path).restore()


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, sets: RaggedSets) -> None:
    rig = build_rig(sets)
    checkpoints(rig, tmp_path).save(1)
    (data,) = tmp_path.glob("*.data-*")
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(InputError, match=r"ckpt-1 .* is damaged: .*--overwrite"):
        checkpoints(rig, tmp_path).restore()


def test_killed_while_saving_it_leaves_the_one_before(tmp_path: Path) -> None:
    command = [sys.executable, "-m", saving_process.__name__, str(tmp_path)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        saved = [process.stdout.readline() for _ in range(2)]
        time.sleep(np.random.default_rng().uniform(0, 0.1))
        process.kill()
        saved += process.stdout.readlines()
    last = int([line for line in saved if line.endswith("\n")][-1])
    rig = saving_process.build()
    step = checkpoints(rig, tmp_path).restore()
    assert step in (last, last + 1)
    for weights in rig.network.logits.get_weights():
        assert (weights == step).all()
