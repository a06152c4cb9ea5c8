"""Training by the step: single dispatches, and whole epochs with their input.

    ./scripts/test benchmarks/test_step.py --benchmark-enable

The tutorial's network on 40,000 rows of IMDB's lengths. `examples_per_second` is in the JSON's
extra_info; compilation is outside every round.
"""

from typing import Any

import pytest
import tensorflow as tf

import harness
from benchmarks.training import tutorial_network
from kernels.multi_hot import IMPLEMENTATIONS, why_unavailable

STEPS_PER_DISPATCH = 8


@pytest.fixture(scope="module")
def rows() -> harness.RaggedSets:
    return harness.load("synthetic").train


@pytest.mark.parametrize("batch_size", [500, 4096])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_dispatch(
    benchmark: Any, rows: harness.RaggedSets, implementation: str, precision: str, batch_size: int
) -> None:
    gpus = tf.config.list_physical_devices("GPU")
    if why := why_unavailable(implementation, "GPU" if gpus else "CPU"):
        pytest.skip(why)
    measure(
        benchmark,
        rows,
        STEPS_PER_DISPATCH,
        batch_size=batch_size,
        implementation=implementation,
        precision=precision,
        steps_per_dispatch=STEPS_PER_DISPATCH,
    )


@pytest.mark.parametrize("batch_size", [500, 4096])
@pytest.mark.parametrize("feed", ["resident", "stream"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_epoch(
    benchmark: Any, rows: harness.RaggedSets, feed: str, replicas: int, batch_size: int
) -> None:
    gpus = len(tf.config.list_physical_devices("GPU"))
    if replicas > max(gpus, 1):
        pytest.skip(f"needs {replicas} GPUs; there are {gpus}")
    steps_per_epoch = -(-rows.num_rows // batch_size)
    measure(benchmark, rows, steps_per_epoch, batch_size=batch_size, input=feed, replicas=replicas)


def measure(benchmark: Any, rows: harness.RaggedSets, num_steps: int, **settings: Any) -> None:
    steps = harness.Trainer(tutorial_network, **settings).steps(rows)
    steps.compile()

    def train() -> int:
        return steps.run(num_steps=num_steps).windows.examples

    examples = benchmark.pedantic(train, rounds=5, warmup_rounds=1)
    if benchmark.enabled:
        benchmark.extra_info["examples_per_second"] = examples / benchmark.stats.stats.median
