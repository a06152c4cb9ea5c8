"""The throughput of the tf.data stream alone, in examples a second.

    ./scripts/test benchmarks/test_stream.py --benchmark-enable

A round is one epoch of 40,000 rows of IMDB's lengths; `examples_per_second` is in the JSON's
extra_info.
"""

from typing import Any

import pytest

import harness
from harness.feed.batch import Columns
from harness.feed.plan import training_plan
from harness.feed.stream import Stream


@pytest.fixture(scope="module")
def columns() -> Columns:
    return Columns.of(harness.Examples.of(harness.load("synthetic").train))


@pytest.mark.parametrize("batch_size", [32, 500, 4096])
def test_stream(benchmark: Any, columns: Columns, batch_size: int) -> None:
    plan = training_plan(
        columns.lengths, batch_size=batch_size, replicas=1, steps_per_call=20, seed=0, epochs=1
    )
    stream = Stream(columns, devices=("/CPU:0",))
    examples = benchmark.pedantic(
        lambda: sum(dispatch.examples for dispatch, _ in stream.dispatches(plan)),
        rounds=10,
        warmup_rounds=1,
    )
    assert examples == plan.num_rows
    if benchmark.enabled:
        benchmark.extra_info["examples_per_second"] = examples / benchmark.stats.stats.median
