"""Checkpoints: a fresh process repeats the uninterrupted run, and nothing else is restored."""

import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from harness.base.errors import InputError
from harness.data.ragged import RaggedSets
from harness.program.devices import Devices, set_up_devices
from harness.program.state import State
from harness.program.strategy import copies_of
from harness.run.background import Background, Task
from harness.run.checkpoints import Checkpoints
from tests.harness.program.rig import Rig, assert_same, build_rig, on_cpus
from tests.harness.random_sets import random_sets


class Held(Background):
    """A background thread that does nothing before it may, and counts its tasks."""

    def __init__(self, may_begin: threading.Event) -> None:
        super().__init__()
        self._may_begin = may_begin
        self.num_given = 0

    def do(self, task: Task) -> Future[None]:
        self.num_given += 1
        return super().do(lambda: task() if self._may_begin.wait(60) else pytest.fail("held up"))


@pytest.fixture(scope="module")
def sets() -> RaggedSets:
    return random_sets(np.random.default_rng(), rows=77)


def checkpoints(rig: Rig, folder: Path, *, background: Background | None = None) -> Checkpoints:
    return Checkpoints(folder, rig.state, background or Background())


def save(rig: Rig, folder: Path, *steps: int) -> None:
    with Background() as background:
        saver = Checkpoints(folder, rig.state, background)
        for step in steps:
            saver.save(step)


def test_holds_the_state_as_it_was_though_it_is_written_later(
    tmp_path: Path, sets: RaggedSets
) -> None:
    """Where memory has no room for a copy, training waits."""
    rig = build_rig(sets, precision="mixed_float16", dropout=0.3)
    rig.train(num_calls=1)
    before = rig.values()
    with Background() as background:
        saver = Checkpoints(tmp_path / "own", rig.state, background, free=lambda: 0)
        saver.save(4)
        assert not saver.is_writing
    trained = threading.Event()
    with Held(trained) as background:
        background.do(lambda: None)  # like a record still to be passed on: nobody waits for it
        checkpoints(rig, tmp_path / "copied", background=background).save(4)
        rig.train(start_step=4)
        assert not (tmp_path / "copied").exists(), "nothing is written yet"
        trained.set()
    first, second = (tmp_path / name / "ckpt-4.npz" for name in ("own", "copied"))
    assert first.read_bytes() == second.read_bytes()
    other = build_rig(sets, precision="mixed_float16", dropout=0.3, seed=1)
    assert checkpoints(other, tmp_path / "own").restore().step == 4
    assert_same(other.values(), before)
    with np.load(first) as file:  # as another program can
        assert file["step"] == 4
        kernel = file["model/multi_hot_dense/kernel"]
        kinds = {name.partition("/")[0] for name in file.files}
    assert kinds == {"step", "model", "optimizer", "loss_scale"}
    np.testing.assert_array_equal(kernel, other.weights()[0])


def test_one_copy_waits_to_be_written_and_no_more(tmp_path: Path, sets: RaggedSets) -> None:
    rig = build_rig(sets)
    may_begin = threading.Event()
    with Held(may_begin) as background:
        saver = checkpoints(rig, tmp_path, background=background)
        saver.save(1)
        others = threading.Thread(target=lambda: [saver.save(step) for step in (2, 3)])
        others.start()
        others.join(0.5)
        assert background.num_given == 1
        may_begin.set()
        others.join(60)
        assert background.num_given == 3
    assert checkpoints(rig, tmp_path).restore().step == 3


def state_of(
    *names: str, units: int = 40, devices: Devices | None = None, metrics: Any = ()
) -> State:
    layers = [keras.layers.Dense(units, name=name) for name in names]
    model = keras.Sequential([keras.Input((40,)), *layers], name="net")
    return State(model, keras.optimizers.Adam(), devices or set_up_devices(1), metrics=metrics)


def test_weights_are_restored_by_name(tmp_path: Path) -> None:
    first, same = state_of("one", "two"), state_of("one", "two")
    with Background() as background:
        Checkpoints(tmp_path, first, background).save(1)
    Checkpoints(tmp_path, same, background).restore()
    for name, array in same.save().items():
        np.testing.assert_array_equal(array, first.save()[name])
    for other, misfit in (
        (state_of("one", "three"), "of model/net/three/kernel it holds nothing"),
        (
            state_of("one", "two", units=9),
            r"kernel it holds float32 \[40, 40\], and .* \[40, 9\] is",
        ),
    ):
        before = other.save()
        with pytest.raises(InputError, match=f"does not fit .*{misfit}.*resume with the settings"):
            Checkpoints(tmp_path, other, background).restore()
        for name, array in other.save().items():
            np.testing.assert_array_equal(array, before[name])


def test_later_ones_of_before_a_resume_are_removed(tmp_path: Path, sets: RaggedSets) -> None:
    rig = build_rig(sets)
    (tmp_path / "ckpt-9.npz").write_bytes(b"damaged")
    with Background() as background:
        saver = Checkpoints(tmp_path, rig.state, background, keep=1)
        for step in (3, 5):
            saver.save(step, {"seconds": 0.1 * step})
            background.wait()
            assert saver.is_writing is False
        assert {path.name for path in tmp_path.iterdir()} == {"ckpt-5.npz"}
    assert saver.restore().about == {"seconds": 0.5}


def test_metrics_that_run_over_an_epoch_go_on_within_it(tmp_path: Path, sets: RaggedSets) -> None:
    two, again = (
        state_of("one", devices=on_cpus(2), metrics=[keras.metrics.Recall(thresholds=[0.3, 0.6])])
        for _ in range(2)
    )
    for variable in two.sums[0]:
        for place, copy in enumerate(copies_of(variable), 1):
            copy.assign([place, 5])
    with Background() as background:
        Checkpoints(tmp_path, two, background).save(1)
    assert Checkpoints(tmp_path, again, Background()).restore().step == 1
    found = [[copy.numpy().tolist() for copy in copies_of(v)] for v in again.sums[0]]
    assert found == [[[3, 10], [0, 0]]] * 2


def test_damaged_checkpoints_are_not_restored(tmp_path: Path, sets: RaggedSets) -> None:
    """benchmarks.faults.hostile damages any byte of one."""
    rig = build_rig(sets)
    save(rig, tmp_path, 1)
    path = tmp_path / "ckpt-2.npz"
    before = rig.values()
    (tmp_path / "ckpt-1.npz").rename(path)
    (tmp_path / "ckpt-1.npz").write_bytes(b"")
    message = (
        r"ckpt-2.npz is damaged, .*: it holds the state after 1 .*as are all 1 before it\. .*--o"
    )
    with pytest.raises(InputError, match=message):
        checkpoints(rig, tmp_path).restore()
    assert_same(rig.values(), before)


@pytest.mark.parametrize("change", [lambda array: array[:-8], lambda array: array + bytes(8)])
def test_one_with_a_longer_or_shorter_array_is_not_restored(
    tmp_path: Path, sets: RaggedSets, change: Callable[[bytes], bytes]
) -> None:
    rig = build_rig(sets)
    save(rig, tmp_path, 1, 2)
    path = tmp_path / "ckpt-2.npz"
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    name = max(content, key=lambda name: len(content[name]))
    content[name] = change(content[name])
    with zipfile.ZipFile(path, "w") as archive:
        for each in content.items():
            archive.writestr(*each)
    restored = checkpoints(rig, tmp_path).restore()
    assert restored.step == 1
    assert "longer or shorter than its array" in restored.skipped[0]
