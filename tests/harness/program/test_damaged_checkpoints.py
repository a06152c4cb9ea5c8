"""Damaged checkpoints: the one before is restored, or none."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.base.errors import InputError
from harness.data.ragged import RaggedSets
from tests.harness.program.rig import assert_same, build_rig
from tests.harness.program.test_checkpoints import checkpoints, save
from tests.harness.random_sets import random_sets


@pytest.fixture(scope="module")
def sets() -> RaggedSets:
    return random_sets(np.random.default_rng(), rows=77)


def torn(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_a_bit_turned(content: bytes) -> bytes:
    """Returns an archive with a bit flipped in the numbers of the largest array: a header of
    Python's would be refused anyway."""
    inside = content.index(b"model/multi_hot_dense/kernel.npy") + 500
    return content[:inside] + bytes([content[inside] ^ 1]) + content[inside + 1 :]


def without_a_member(content: bytes) -> bytes:
    """Returns an archive without its first member; the others have the right checksums."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(written, "w") as file:
        for name in source.namelist()[1:]:
            file.writestr(name, source.read(name))
    return written.getvalue()


@pytest.mark.parametrize(
    "damage",
    [torn, with_a_bit_turned, without_a_member],
)
def test_a_damaged_checkpoint_is_skipped(
    tmp_path: Path, sets: RaggedSets, damage: Callable[[bytes], bytes]
) -> None:
    rig = build_rig(sets)
    save(rig, tmp_path, 1, 2)
    path = tmp_path / "ckpt-2.npz"
    path.write_bytes(damage(path.read_bytes()))
    restored = checkpoints(rig, tmp_path).restore()
    assert restored.step == 1
    (why,) = restored.skipped
    assert why.startswith(f"{path} is damaged, or not a checkpoint: ")
    before = rig.values()
    (tmp_path / "ckpt-1.npz").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"ckpt-2.npz is damaged, .*, as are all 1 before it\. .*--overwrite"
    ):
        checkpoints(rig, tmp_path).restore()
    assert_same(rig.values(), before)


def test_whatever_byte_is_damaged_no_other_state_is_restored(
    tmp_path: Path, sets: RaggedSets
) -> None:
    rig = build_rig(sets, hidden_units=(3,))
    rig.train(num_calls=1)
    save(rig, tmp_path, 1, 2)
    path, saved = tmp_path / "ckpt-2.npz", rig.values()
    content = path.read_bytes()
    rng = np.random.default_rng()
    steps = set()
    for place in rng.choice(len(content), 150, replace=False):
        turned = bytes([content[place] ^ (1 << rng.integers(8))])
        path.write_bytes(content[:place] + turned + content[place + 1 :])
        rig.set_weights([np.zeros_like(weights) for weights in rig.weights()])
        steps.add(checkpoints(rig, tmp_path).restore().step)
        assert_same(rig.values(), saved)
    assert 1 in steps


def test_a_checkpoint_of_another_step_than_its_names_is_refused(
    tmp_path: Path, sets: RaggedSets
) -> None:
    rig = build_rig(sets)
    save(rig, tmp_path, 1)
    with np.load(tmp_path / "ckpt-1.npz") as arrays:
        np.savez(tmp_path / "ckpt-2.npz", **arrays)
    (tmp_path / "ckpt-1.npz").unlink()
    with pytest.raises(
        InputError, match=r"ckpt-2\.npz is damaged, .*: it holds the state after 1 "
    ):
        checkpoints(rig, tmp_path).restore()
