"""The fixture of the multi-hot product's tests: random input, fresh in every run."""

import secrets

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a generator with a seed that pytest shows when the test fails."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return np.random.default_rng(seed)
