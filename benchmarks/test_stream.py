"""The tf.data stream alone: how many examples a second it hands over.

    ./scripts/test benchmarks/test_stream.py --benchmark-enable

A round is one epoch of 40,000 rows of IMDB's lengths; `examples_per_second` is in the JSON's
extra_info.
"""

import pytest

from harness.data.ragged import RaggedSets
from harness.data.synthetic import synthetic_corpus
from harness.pipeline.plan import training_plan
from harness.pipeline.stream import Stream

_BATCH_SIZES = (32, 500, 4096)


@pytest.fixture(scope="module")
def sets() -> RaggedSets:
    return synthetic_corpus().split(10_000)[1].unique()


@pytest.mark.parametrize("batch_size", _BATCH_SIZES)
@pytest.mark.parametrize("replicas", [1, 2])
def test_stream(benchmark, sets: RaggedSets, batch_size: int, replicas: int) -> None:
    plan = training_plan(
        sets.lengths, batch_size=batch_size, replicas=replicas, steps_per_dispatch=20, seed=0
    )
    stream = Stream(sets, plan)
    examples = benchmark.pedantic(
        lambda: sum(dispatch.examples for dispatch, _ in stream), rounds=10, warmup_rounds=1
    )
    assert examples == sets.num_rows
    if benchmark.enabled:
        benchmark.extra_info["examples_per_second"] = examples / benchmark.stats.stats.median
