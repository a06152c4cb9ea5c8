"""The defaults and the limits of the commands' settings."""

import pytest

from harness.base.errors import InputError
from harness.cli.bench import GateConfig
from harness.model.options import ModelConfig


def test_one_dropout_rate_holds_for_all_layers() -> None:
    assert ModelConfig(hidden_units=(8, 4), dropout=(0.5,)).dropout == (0.5, 0.5)
    assert ModelConfig(hidden_units=(8,)).dropout == (0.3,)
    assert ModelConfig(hidden_units=(8,) * 4).dropout == (0.3, 0.2, 0.0, 0.0)
    with pytest.raises(InputError, match=r"3 rates for 2 hidden layers \(64 32\); give one rate"):
        ModelConfig(hidden_units=(64, 32), dropout=(0.1, 0.2, 0.3))


@pytest.mark.parametrize("text", ["", "%", "5 %%", "-5%", "100%", "1", "nan", "5%5", "0.05.0"])
def test_texts_that_are_no_shares(text: str) -> None:
    with pytest.raises(InputError, match="--fail-if-slower is"):
        GateConfig(fail_if_slower=text)
