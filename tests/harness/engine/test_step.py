"""The compiled step against NumPy in float64, and what a dispatch promises.

Networks are compiled once for the module; each test sets their weights or state.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from harness.config import PRECISIONS
from harness.data.ragged import RaggedSets
from harness.engine.step import TrainingStep
from tests.harness.engine.numpy_network import forward_backward
from tests.harness.engine.rig import Rig, State, assert_same, build_rig, steps_of
from tests.harness.random_sets import random_sets

Exact = Callable[..., Rig]


@pytest.fixture(scope="module")
def exact() -> Exact:
    """Rigs with plain SGD and learning rate 1: a step's change of the weights is the gradient.

    21 rows in batches of 8: the last batch has 5, so that of two replicas one has a single row.
    """
    rigs: dict[tuple, Rig] = {}

    def of(*, implementation: str, replicas: int, num_classes: int) -> Rig:
        key = (implementation, replicas, num_classes)
        if key not in rigs:
            sets = random_sets(np.random.default_rng(), rows=21, num_classes=num_classes)
            rigs[key] = build_rig(
                sets,
                replicas=replicas,
                implementation=implementation,
                optimizer="sgd",
                learning_rate=1.0,
                steps_per_dispatch=1,
            )
        return rigs[key]

    return of


@pytest.mark.parametrize(
    ("implementation", "replicas", "num_classes"),
    [("dense", 1, 2), ("gather", 1, 2), ("gather", 2, 2), ("dense", 2, 2), ("gather", 1, 4)],
)
def test_loss_hits_and_gradients_of_real_rows(
    exact: Exact, implementation: str, replicas: int, num_classes: int
) -> None:
    rig = exact(implementation=implementation, replicas=replicas, num_classes=num_classes)
    rng = np.random.default_rng()
    order = rig.plan.order(0)
    for step, (dispatch, batches) in enumerate(rig.dispatches()):
        rig.randomize(rng)
        before = rig.network.logits.get_weights()
        rows = order[step * 8 : (step + 1) * 8]
        truth = forward_backward(before, rig.sets.take(rows[rows < 21]))
        loss, hits, skipped, scale = rig.step(batches, dispatch.num_steps).numpy()
        after = rig.network.logits.get_weights()

        np.testing.assert_allclose(loss, truth.loss.sum(), rtol=1e-5)
        assert hits == truth.hits.sum()
        assert (skipped, scale) == (0, 1)
        for old, new, gradient in zip(before, after, truth.gradients, strict=True):
            np.testing.assert_allclose(old - new, gradient, rtol=1e-4, atol=1e-6)
    assert step == 2


@pytest.mark.parametrize("replicas", [1, 2])
def test_what_padding_holds_does_not_matter(exact: Exact, replicas: int) -> None:
    rig = exact(implementation="gather", replicas=replicas, num_classes=2)
    *_, (_, batches) = rig.dispatches()  # 5 real rows, 3 of padding
    rig.randomize(np.random.default_rng())
    before = rig.state()
    sums = rig.step(batches, 1).numpy()
    after = rig.state()
    # Other labels, and ids behind the rows: in the buffers' ends and in the padding rows.
    soiled = []
    for replica, fields in enumerate(batches):
        share = fields.labels.shape[1]
        padding = replica * share + np.arange(share) >= 5
        values, labels = fields.values.numpy(), fields.labels.numpy()
        row_splits = fields.row_splits.numpy()
        values[0, row_splits[0, -1] :] = 49
        labels[0, padding] = 1
        row_splits[0, 1:][padding] += 3 * np.arange(1, padding.sum() + 1)
        soiled.append(fields._replace(values=values, labels=labels, row_splits=row_splits))
    moved = [
        (new.row_splits != old.row_splits.numpy()).sum()
        for new, old in zip(soiled, batches, strict=True)
    ]
    assert sum(moved) == 3
    rig.set_state(before)
    np.testing.assert_array_equal(rig.step(tuple(soiled), 1).numpy(), sums)
    assert_same(rig.state(), after)


@pytest.fixture(scope="module")
def rich_sets() -> RaggedSets:
    return random_sets(np.random.default_rng(), rows=70, unique=True)


def rich_rig(sets: RaggedSets, replicas: int) -> Rig:
    """Adam, dropout, float16 with its loss scale; 9 steps in dispatches of 4, 4 and 1."""
    return build_rig(sets, replicas=replicas, dropout=0.3, precision="mixed_float16", epochs=2)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A rig that was compiled beforehand and then trained for two epochs."""

    rig: Rig
    start: list[State]
    compiled: list[State]
    """The state after compiling, before training."""
    sums: np.ndarray


@pytest.fixture(scope="module", params=[1, 2])
def rich(request: pytest.FixtureRequest, rich_sets: RaggedSets) -> Run:
    rig = rich_rig(rich_sets, request.param)
    start = rig.state()
    _, batches = next(rig.dispatches())
    rig.step.compile_for(batches)
    return Run(rig=rig, start=start, compiled=rig.state(), sums=rig.train())


def test_a_large_state_is_compiled_without_a_second_copy(rich_sets: RaggedSets) -> None:
    rig = rich_rig(rich_sets, 1)
    start = rig.state()
    step = TrainingStep(rig.network.logits, rig.replicas, rig.devices, max_rehearsal_bytes=100)
    _, batches = next(rig.dispatches())
    step.compile_for(batches)
    assert_same(rig.state(), start)
    step(batches, 1).numpy()
    assert step.num_traces == 1


def test_same_seed_same_sums(rich: Run, rich_sets: RaggedSets) -> None:
    again = rich_rig(rich_sets, len(rich.rig.replicas))
    np.testing.assert_array_equal(again.train(), rich.sums)  # also without compiling beforehand


def test_many_steps_per_dispatch_equal_many_dispatches(
    rich: Run,
) -> None:
    rig, start = rich.rig, rich.start
    _, batches = next(rig.dispatches())
    rig.set_state(start)
    together = rig.step(batches, 4).numpy()
    after = rig.state()
    rig.set_state(start)
    single = [rig.step(steps_of(batches, s, s + 1), 1).numpy() for s in range(4)]
    assert_same(rig.state(), after)
    np.testing.assert_array_equal(np.sum(single, axis=0)[:3], together[:3])
    assert single[-1][3] == together[3]


def test_fewer_steps_than_a_dispatch_holds(rich: Run) -> None:
    rig, start = rich.rig, rich.start
    _, batches = next(rig.dispatches())
    rig.set_state(start)
    first_two = rig.step(batches, 2).numpy()
    after = rig.state()
    rig.set_state(start)
    single = [rig.step(steps_of(batches, s, s + 1), 1).numpy() for s in range(2)]
    assert_same(rig.state(), after)
    np.testing.assert_array_equal(np.sum(single, axis=0)[:3], first_two[:3])


def test_compiling_leaves_every_variable_as_it_was(rich: Run) -> None:
    assert_same(rich.compiled, rich.start)


def test_replicas_stay_alike(rich: Run) -> None:
    rig, start = rich.rig, rich.start
    rig.set_state(start)
    rig.train()
    first = rig.replicas[0]
    for other in rig.replicas[1:]:
        for a, b in zip(first.state(), other.state(), strict=True):
            if not any(a is seed for seed in first.seeds):
                np.testing.assert_array_equal(a.numpy(), b.numpy())
    changed = [
        not np.array_equal(a.numpy(), b) for a, b in zip(first.variables, start[0], strict=False)
    ]
    assert all(changed)


def test_replicas_drop_other_units() -> None:
    # Both replicas get the same rows, and the loss is summed: only other masks make a difference.
    half = random_sets(np.random.default_rng(), rows=16)
    sets = half.concatenate([half, half], name="twice")
    rig = build_rig(sets, replicas=2, batch_size=32, hidden_units=(32,), dropout=0.5)
    _, (batches, _) = next(rig.dispatches())
    first_alone = batches._replace(num_rows=np.array([16, 0, 0, 0], np.int32))
    differences = []
    for _ in range(4):  # two masks may lose alike by chance
        start = rig.state()
        both = rig.step((batches, batches), 1).numpy()[0]
        rig.set_state(start)
        first = rig.step((first_alone, first_alone), 1).numpy()[0]
        differences.append(abs(both - 2 * first) / both)
    assert max(differences) > 1e-3


def test_one_and_two_replicas_lose_alike() -> None:
    sets = random_sets(np.random.default_rng(), rows=155, num_tokens=200, longest=40)
    losses = []
    for replicas in (1, 2):
        rig = build_rig(
            sets,
            replicas=replicas,
            steps_per_dispatch=1,
            epochs=4,
            hidden_units=(16, 8),
            learning_rate=0.01,
        )
        losses.append(rig.train()[:, 0])
    assert len(losses[0]) == 80
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    assert losses[0][-20:].sum() < 0.8 * losses[0][:20].sum()  # they have learnt something


def test_16_bit_training_follows_float32() -> None:
    sets = random_sets(np.random.default_rng(2), rows=64, longest=20)
    losses = {}
    for precision in PRECISIONS:
        rig = build_rig(
            sets,
            precision=precision,
            batch_size=16,
            steps_per_dispatch=8,
            epochs=8,
            hidden_units=(16, 8),
            learning_rate=0.01,
        )
        sums = rig.train()
        losses[precision] = sums[:, 0]
        assert sums[-1, 0] < 0.75 * sums[0, 0]
        assert sums[:, 2].sum() == 0
        assert set(sums[:, 3]) == {2.0**15 if precision == "mixed_float16" else 1.0}
    for precision in ("mixed_bfloat16", "mixed_float16"):
        np.testing.assert_allclose(losses[precision], losses["float32"], rtol=0.05, atol=1)
        assert (losses[precision] != losses["float32"]).any()


def test_clipping_bounds_the_whole_gradient() -> None:
    sets = random_sets(np.random.default_rng(), rows=8)
    rig = build_rig(sets, optimizer="sgd", learning_rate=1.0, clip_norm=1e-2, steps_per_dispatch=1)
    rig.randomize(np.random.default_rng(0))
    before = rig.network.logits.get_weights()
    ((_, batches),) = rig.dispatches()
    rig.step(batches, 1)
    change = [a - b for a, b in zip(before, rig.network.logits.get_weights(), strict=True)]
    norm = np.sqrt(sum((part.astype(np.float64) ** 2).sum() for part in change))
    np.testing.assert_allclose(norm, 1e-2, rtol=1e-3)
