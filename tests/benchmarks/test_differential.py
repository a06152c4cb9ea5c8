"""A sample of the random cases of benchmarks.differential, and the named ones."""

import gc
import warnings
from collections.abc import Iterator

import pytest

from benchmarks.differential.judging import judge
from benchmarks.differential.named import NAMED, judge_named

pytestmark = pytest.mark.usefixtures("logical_devices")
# All but the one that two workers train, which takes as long as ten others.
SEEDS = sorted({*range(1_000_000, 1_000_025)} - {1_000_021})


@pytest.fixture(autouse=True)
def _unwarned() -> Iterator[None]:
    """Keras warns of models and data as users have them, such as weights without a gradient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    gc.collect()


@pytest.mark.parametrize("seed", SEEDS)
def test_case(seed: int) -> None:
    verdict = judge(seed)
    assert verdict.result in ("equal", "refused"), "\n".join([verdict.reason, *verdict.details])


@pytest.mark.parametrize("name", NAMED)
def test_named_case(name: str) -> None:
    verdict = judge_named(name)
    assert verdict.result == "equal", "\n".join([verdict.reason, *verdict.details])
