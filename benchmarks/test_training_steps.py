"""Whole training steps of the tutorial's network: batch size x implementation x precision.

    ./scripts/benchmark -k training_steps

A round trains 20,480 rows or a few more, in whole dispatches; `examples_per_second` and
`steps_per_second`, sums over all rounds, are in the JSON's extra_info. On a machine with a GPU it
trains there. Without --benchmark-enable each trains one round, as a test.
"""

from typing import Any

import pytest
import tensorflow as tf

import harness
from harness.data.options import SyntheticOptions
from harness.tools.experiment import TrainConfig, trainer_of
from harness.trainer.settings import PRECISIONS, Precision, Settings
from kernels.multi_hot import IMPLEMENTATIONS, Implementation, why_unavailable

DEVICE_TYPE = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
ROUND_ROWS = 20_480


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("batch_size", [500, 4_096])
def test_training_steps(
    benchmark: Any, batch_size: int, implementation: Implementation, precision: Precision
) -> None:
    if why := why_unavailable(implementation, DEVICE_TYPE):
        pytest.skip(why)
    options = SyntheticOptions(synthetic_rows=5 * ROUND_ROWS // 4)
    data = harness.load("synthetic", synthetic=options)
    how = Settings(batch_size=batch_size, implementation=implementation, precision=precision)
    steps = trainer_of(TrainConfig(), data, how, epochs=2).steps(data.train, epochs=2)
    steps.compile()
    trained = []

    def train() -> None:
        trained.append(steps.run(num_steps=ROUND_ROWS // batch_size).windows)

    benchmark.group = f"training, {batch_size} rows"
    benchmark.pedantic(train, rounds=20, warmup_rounds=4 if benchmark.enabled else 0)
    seconds = sum(windows.train_seconds for windows in trained)
    examples = sum(windows.examples for windows in trained)
    assert examples >= batch_size
    benchmark.extra_info["examples_per_second"] = examples / seconds
    benchmark.extra_info["steps_per_second"] = examples / batch_size / seconds
