"""What may be given as an optimizer."""

from typing import Any

import keras
import pytest

from harness.base.errors import InputError
from harness.model.optimizers import optimizer_factory, optimizer_of


def test_an_optimizer_is_itself_a_factory_or_a_name() -> None:
    own, named = keras.optimizers.SGD(), optimizer_of("SGD")
    assert optimizer_of(own) is own
    assert isinstance(named(), keras.optimizers.SGD)
    factory = optimizer_factory("adam", learning_rate_schedule="linear", num_steps=4)
    assert optimizer_of(factory) is factory
    rate = factory()._learning_rate
    assert float(rate(2)) == pytest.approx(0.001 / 2), "of Keras's default"
    wrapped = keras.optimizers.LossScaleOptimizer(own)
    wrong: list[tuple[Any, str]] = [(5, "is int"), (wrapped, "is a LossScaleOptimizer")]
    for given, fact in wrong:
        with pytest.raises(InputError, match=f"^optimizer {fact}"):
            optimizer_of(given)
