"""What each device holds, and how replicas are kept alike."""

import numpy as np
import pytest

from harness.config import OptimizerConfig
from harness.data.ragged import RaggedSets
from harness.engine.replica import align_replicas, build_replicas
from tests.harness.engine.rig import build_rig
from tests.harness.random_sets import random_sets

FIVE_DRAWS = np.array([0, 5])
"""What they add to the state of a seed generator."""


@pytest.fixture(scope="module")
def sets() -> RaggedSets:
    return random_sets(np.random.default_rng(), rows=8)


@pytest.mark.parametrize("replicas", [1, 2])
def test_each_holds_its_own_copies_on_its_own_device(sets: RaggedSets, replicas: int) -> None:
    rig = build_rig(sets, replicas=replicas, dropout=0.2, precision="mixed_float16")
    held = [id(variable) for replica in rig.replicas for variable in replica.state()]
    assert len(held) == len(set(held))
    for index, replica in enumerate(rig.replicas):
        assert (replica.index, replica.device) == (index, f"/CPU:{index}")
        assert {v.device[-6:] for v in replica.state()} == {f":CPU:{index}"}
        assert len(replica.variables) == len(rig.network.logits.trainable_variables)
        assert len(replica.seeds) == 2
        for copy, weights in zip(replica.variables, rig.network.logits.get_weights(), strict=False):
            np.testing.assert_array_equal(copy.numpy(), weights)


def test_alignment_copies_all_but_the_dropout(sets: RaggedSets) -> None:
    rig = build_rig(sets, replicas=2, dropout=0.2, precision="mixed_float16")
    first, second = rig.replicas
    start = [seed.numpy() for seed in second.seeds]
    assert not any(
        np.array_equal(a.numpy(), b.numpy()) for a, b in zip(first.seeds, second.seeds, strict=True)
    )
    for variable in first.state():
        if not any(variable is seed for seed in first.seeds):
            variable.assign(variable + 1)
    for seed in first.seeds:
        seed.assign(seed + FIVE_DRAWS)
    align_replicas(rig.replicas)
    for a, b in zip(first.state(), second.state(), strict=True):
        if not any(a is seed for seed in first.seeds):
            np.testing.assert_array_equal(a.numpy(), b.numpy())
    for seed, before in zip(second.seeds, start, strict=True):
        np.testing.assert_array_equal(seed.numpy(), before + FIVE_DRAWS)


def test_is_built_outside_the_strategys_scope(sets: RaggedSets) -> None:
    rig = build_rig(sets, replicas=2)
    with rig.devices.strategy.scope(), pytest.raises(AssertionError, match="mirrored"):
        build_replicas(rig.network.logits, rig.devices, OptimizerConfig(), scaled=False)
