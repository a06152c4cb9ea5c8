"""Row losses and hits against NumPy in float64."""

import numpy as np
import pytest

from harness.engine.losses import row_hits, row_losses


def test_two_classes() -> None:
    rng = np.random.default_rng()
    logits = rng.normal(scale=8, size=(50, 1)).astype(np.float32)
    labels = rng.integers(0, 2, 50, dtype=np.int32)
    z = logits[:, 0].astype(np.float64)
    np.testing.assert_allclose(
        row_losses(labels, logits), np.logaddexp(0, z) - labels * z, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(row_hits(labels, logits), (z > 0) == (labels == 1))


@pytest.mark.parametrize("num_classes", [3, 11])
def test_more_classes(num_classes: int) -> None:
    rng = np.random.default_rng()
    logits = rng.normal(scale=8, size=(50, num_classes)).astype(np.float32)
    labels = rng.integers(0, num_classes, 50, dtype=np.int32)
    z = logits.astype(np.float64)
    truth = np.log(np.exp(z).sum(axis=1)) - z[np.arange(50), labels]
    np.testing.assert_allclose(row_losses(labels, logits), truth, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(row_hits(labels, logits), z.argmax(axis=1) == labels)


def test_sure_and_wrong_is_costly_but_finite() -> None:
    logits = np.array([[200.0], [-200.0], [200.0], [-200.0]], np.float32)
    losses = row_losses(np.array([1, 0, 0, 1], np.int32), logits)
    np.testing.assert_allclose(losses, [0, 0, 200, 200], atol=1e-6)


def test_an_even_chance_is_class_0_as_in_keras() -> None:
    logits = np.zeros((2, 1), np.float32)
    np.testing.assert_array_equal(row_hits(np.array([0, 1], np.int32), logits), [1, 0])
