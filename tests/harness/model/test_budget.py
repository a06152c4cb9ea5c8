"""Variables that do not fit into memory are refused before they are made. The sizes are real: no
machine has room for the refused ones."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.base.memory import OutOfMemoryError
from harness.data.examples import Examples
from harness.model.budget import Budget
from harness.model.compile_errors import naming_failed_layer
from harness.model.network import DefaultNetwork, build_model
from tests.harness.random_sets import random_sets

GB = 10**9
MANY = 2**31 - 1
ROWS = Examples.of(random_sets(np.random.default_rng(), rows=20, num_tokens=100))
GPU = Budget(device="/GPU:0", device_free=lambda: 10 * GB, optimizer=2, gradients=True, copies=1)


def built(model: Any, *, budget: Budget | None = None) -> keras.Model:
    return build_model(model, ROWS, dtype="float32", device="/CPU:0", seed=3, budget=budget)


def network(*hidden_units: int, num_tokens: int = 100) -> Any:
    return DefaultNetwork(
        hidden_units=hidden_units,
        dropout=(0.5,) * len(hidden_units),
        num_tokens=num_tokens,
        num_classes=2,
    )


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        (network(50, num_tokens=MANY), r"multi_hot_dense/kernel, float32 \[2147483647, 50\]"),
        (network(50, MANY), r"dense_1/kernel, float32 \[50, 2147483647\]"),
    ],
)
def test_a_variable_that_no_machine_holds(model: Any, variable: str) -> None:
    with pytest.raises(OutOfMemoryError, match=f"GB for the variable .*{variable}; .*--num-words"):
        built(model, budget=Budget(optimizer=2, gradients=True, copies=1))
    assert built(network(3)).count_params() == 3 * 100 + 3 + 3 + 1, "the next model is whole"


def test_a_network_that_is_trained_is_refused_with_all_that_it_needs() -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        built(network(10**8), budget=GPU)
    assert str(caught.value).startswith(
        "the memory of /GPU:0 has 10.0 GB free, but at least 163.2 GB are needed: 40.0 GB for the "
        "variable multi_hot_dense/kernel, float32 [100, 100000000]; 800.0 MB for the others; "
        "40.8 GB for gradients; 81.6 GB for the optimizer. Use fewer ids (--num-words)"
    )


def test_a_step_that_runs_out_of_memory_is_told() -> None:
    error = tf.errors.ResourceExhaustedError(None, None, "OOM in a step [Op:MatMul]")
    with (
        pytest.raises(OutOfMemoryError, match=r"^OOM in a step Set a smaller --batch-size, or"),
        naming_failed_layer(built(network(3))),
    ):
        raise error


@pytest.mark.parametrize(
    ("free", "left"), [(4 * 40_000 * 4, 0), (4 * 40_000 * 4 - 1, None)], ids=["just", "not"]
)
def test_what_a_model_that_is_built_still_needs(free: int, left: int | None) -> None:
    """A model still needs gradients, slots and, on a second GPU, variables, except frozen ones."""
    model = keras.Sequential([keras.Input((200,)), keras.layers.Dense(200, use_bias=False)])
    pair = Budget(device="/GPU:1", device_free=lambda: free, optimizer=2, gradients=True, copies=2)
    if left is None:
        with pytest.raises(OutOfMemoryError, match=r"needed: 0.2 MB for the variables; 0.2 MB for"):
            pair.require_rest(model, devices=2)
    else:
        assert pair.require_rest(model, devices=2) == left
    model.trainable = False
    assert pair.require_rest(model) == free


def test_a_large_table_that_is_frozen_needs_no_gradients() -> None:
    """The table may be frozen after it was made."""
    budget = Budget(device="/GPU:0", device_free=lambda: 20 * 10**6, optimizer=2, gradients=True)

    def frozen(inputs: Any) -> Any:
        table = harness.MultiHotDense(15_000, 100)  # 6 MB; 24 MB with all that goes with it
        pooled = table(inputs)
        table.trainable = False
        return keras.layers.Dense(1)(pooled)

    model = built(frozen, budget=budget)
    assert budget.require_rest(model) > 10**6
    with pytest.raises(OutOfMemoryError, match=r"24.5 MB are needed: 6.0 MB for the variable"):
        built(network(15_000), budget=budget)
