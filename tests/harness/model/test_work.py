"""The least bytes and operations of a step, counted for known networks."""

import keras
import pytest

from harness.model.layers import MultiHotDense
from harness.model.work import work_of_step
from tests.harness.model.test_network import TUTORIAL, network


def work(implementation: str = "gather") -> tuple[float, float]:
    """Returns the work of the tutorial's step: 505,201 parameters with three layers of 50."""
    model = network(**TUTORIAL, num_tokens=10_000)
    return work_of_step(model, rows=500, ids=65_000, implementation=implementation)


@pytest.mark.parametrize("implementation", ["gather", "native"])
def test_of_the_tutorials_step(implementation: str) -> None:
    """Adam reads and writes the parameters eight times in all; forward and backward there is a sum
    for each id."""
    bytes_moved, flops = work(implementation)
    assert bytes_moved == 2 * 65_000 * 50 * 4 + 8 * 4 * 505_201
    assert flops == 2 * 65_000 * 50 + 6 * 500 * (2 * 50 * 50 + 50) + 12 * 505_201


def test_dense_multiplies_with_the_whole_matrix() -> None:
    """Each element of the table and row takes two operations forward, and four backward."""
    more = work("dense")[1] - work()[1]
    assert more == 6 * 500 * 10_000 * 50 - 2 * 65_000 * 50


def test_a_layers_own_implementation_counts() -> None:
    layer = MultiHotDense(8, 100, implementation="dense")
    inputs = {
        name: keras.Input(batch_shape=(None,), dtype="int32", name=name)
        for name in ("values", "row_splits")
    }
    model = keras.Model(inputs, layer(inputs))
    assert work_of_step(model, rows=10, ids=50, implementation="gather")[1] == (
        6 * 10 * 100 * 8 + 12 * (100 * 8 + 8)
    )
