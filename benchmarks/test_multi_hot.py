"""The multi-hot product: case x implementation x direction x precision, on the contract's cases.

    ./scripts/test benchmarks/test_multi_hot.py --benchmark-enable --benchmark-group-by=group

A round is one dispatch of 20 steps in one compiled program; `step_ms` (a step's median) is in the
JSON's extra_info. On a machine with a GPU it runs there. Without --benchmark-enable each runs once,
as a test.
"""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kernels.multi_hot import IMPLEMENTATIONS, Implementation, multi_hot_dense, why_unavailable
from tests.kernels.multi_hot.cases import CASES, Case

DEVICE_TYPE = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
STEPS_PER_DISPATCH = 20
MAX_MATRIX_ELEMENTS = 2**23
"""The most elements of a multi-hot matrix: with more a round of `dense` would take seconds."""


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16, tf.float16], ids=lambda t: t.name)
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_multi_hot(
    benchmark: Any, case: Case, implementation: Implementation, direction: str, dtype: tf.DType
) -> None:
    if implementation == "dense" and case.num_rows * case.num_tokens > MAX_MATRIX_ELEMENTS:
        pytest.skip("the matrix is too large for dense")
    if why := why_unavailable(implementation, DEVICE_TYPE):
        pytest.skip(why)
    sets = case.draw(0)
    num_steps = STEPS_PER_DISPATCH if benchmark.enabled else 1

    @tf.function(jit_compile=True)
    def dispatch(table: Any, values: Any, row_splits: Any, dy: Any, weights: Any) -> Any:
        part = table[:1]
        for step in tf.range(num_steps):
            # The added number is always 0, but the compiler does not know that, so it cannot move
            # a step out of the loop.
            ids = values + step // 2**30
            with tf.GradientTape() as tape:
                tape.watch(table)
                y = multi_hot_dense(
                    table, ids, row_splits,
                    implementation=implementation, unique=case.unique, weights=weights,
                )  # fmt: skip
            # XLA removes a forward pass whose result is not used.
            result = y if direction == "forward" else tape.gradient(y, table, output_gradients=dy)
            part = result[:1]
        return part

    operands = (
        tf.cast(sets.table, dtype),
        tf.constant(sets.values),
        tf.constant(sets.row_splits),
        tf.cast(sets.dy, dtype),
        None if sets.weights is None else tf.constant(sets.weights),
    )
    benchmark.group = f"{case.name} {direction} {dtype.name}"
    part = benchmark.pedantic(
        lambda: dispatch(*operands).numpy(), rounds=10, warmup_rounds=2 if benchmark.enabled else 0
    )
    assert np.isfinite(part.astype(np.float32)).all()
    if benchmark.enabled:
        median_seconds = benchmark.stats.stats.median
        benchmark.extra_info["step_ms"] = 1e3 * median_seconds / num_steps
