"""The compiled training step on batches at hand, and whole epochs with their input.

    ./scripts/test benchmarks/test_step.py --benchmark-enable

The tutorial's network on 40,000 rows of IMDB's lengths. `examples_per_second` is in the JSON's
extra_info; compilation is outside every round.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf

from harness.commands.session import Session, build_session
from harness.config import ExecutionConfig, Implementation, Precision, TrainConfig
from kernels.multi_hot.native.build import find_compiler

NEEDS_COMPILER = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
IMPLEMENTATIONS = [pytest.param("native", marks=NEEDS_COMPILER), "gather", "dense"]
STEPS_PER_DISPATCH = 8


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    yield
    tf.keras.backend.clear_session()


def session_of(**execution: object) -> Session:
    config = TrainConfig(execution=ExecutionConfig(**execution))
    # Nothing is saved there: neither evaluation nor checkpoint belongs to what is measured.
    return build_session(config, checkpoint_dir=Path(tempfile.gettempdir()) / "never-written")


@pytest.mark.parametrize("batch_size", [500, 4096])
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_step(
    benchmark, implementation: Implementation, precision: Precision, batch_size: int
) -> None:
    session = session_of(
        batch_size=batch_size,
        implementation=implementation,
        precision=precision,
        steps_per_dispatch=STEPS_PER_DISPATCH,
    )
    dispatch, batches = next(iter(session.dispatches(epochs=1)))
    session.engine.prepare(dispatch, batches)
    benchmark.pedantic(
        lambda: session.engine.fetch(session.engine.train(dispatch, batches)),
        rounds=5,
        warmup_rounds=1,
    )
    report(benchmark, dispatch.examples)


@pytest.mark.parametrize("batch_size", [500, 4096])
@pytest.mark.parametrize("feed", ["resident", "stream"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_epoch(benchmark, feed: str, replicas: int, batch_size: int) -> None:
    gpus = len(tf.config.list_physical_devices("GPU"))
    if 0 < gpus < replicas:
        pytest.skip(f"needs {replicas} GPUs, or none; there is {gpus}")
    session = session_of(
        batch_size=batch_size,
        implementation="native" if find_compiler() else "gather",
        precision="float32",
        input=feed,
        replicas=replicas,
    )

    def epoch() -> int:
        examples = 0
        for dispatch, batches in session.dispatches(epochs=1):
            session.engine.prepare(dispatch, batches)
            session.engine.fetch(session.engine.train(dispatch, batches))
            examples += dispatch.examples
        return examples

    examples = benchmark.pedantic(epoch, rounds=5, warmup_rounds=1)
    assert examples == session.dataset.train.num_rows
    report(benchmark, examples)


def report(benchmark, examples: int) -> None:
    if benchmark.enabled:
        benchmark.extra_info["examples_per_second"] = examples / benchmark.stats.stats.median
