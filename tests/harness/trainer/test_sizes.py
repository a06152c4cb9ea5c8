"""Sizes beyond any machine, from Python: one message, and the trainer can be used afterwards."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.base.memory import OutOfMemoryError
from harness.program.compile_errors import named_culprit

TOKENS = 100


def rows(count: int = 40, num_tokens: int = TOKENS) -> harness.RaggedSets:
    rng = np.random.default_rng()
    return harness.RaggedSets(
        values=rng.integers(0, num_tokens, count),
        row_splits=np.arange(count + 1),
        labels=rng.integers(0, 2, count),
        num_tokens=num_tokens,
    )


def table(units: int, num_tokens: int = TOKENS, **how: Any) -> Callable[[Any], Any]:
    def model(inputs: Any) -> Any:
        return keras.layers.Dense(1)(harness.MultiHotDense(units, num_tokens, **how)(inputs))

    return model


def trainer(model: Any, **settings: Any) -> harness.Trainer:
    return harness.Trainer(model, **{"batch_size": 10, "implementation": "gather", **settings})


def test_a_trainer_goes_on_after_what_did_not_fit() -> None:
    sizes = [2**31 - 1, 3]
    own = trainer(lambda inputs: table(sizes.pop(0))(inputs))
    with pytest.raises(OutOfMemoryError):
        own.steps(rows())
    assert own.steps(rows()).start.batch_size == 10


def test_a_program_that_does_not_fit() -> None:
    """A batch that is too large ends so. TensorFlow itself would wait ten seconds for memory."""
    message = "Out of memory while trying to allocate 1.46TiB. [Op:__inference_function_641]"
    with (
        pytest.raises(OutOfMemoryError, match=r"allocate 1\.46TiB\. Set a smaller --batch-size"),
        named_culprit(set()),
    ):
        raise tf.errors.ResourceExhaustedError(None, None, message)
