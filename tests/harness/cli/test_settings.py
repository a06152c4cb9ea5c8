"""The defaults and the limits of the commands' settings."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.checks import parse_share
from harness.base.errors import InputError
from harness.cli.bench import GateConfig
from harness.cli.evaluate import EvaluateConfig
from harness.cli.settings import OptimizerConfig, OutputConfig, TrainConfig
from harness.cli.smoke import SmokeConfig
from harness.data.options import DataConfig, SourceConfig, SyntheticOptions
from harness.model.options import ModelConfig


def test_the_defaults_are_the_tutorials() -> None:
    config = TrainConfig()
    assert (config.epochs, config.execution.batch_size) == (2, 500)
    assert config.model == ModelConfig(hidden_units=(50, 50, 50), dropout=(0.3, 0.2, 0.0))
    assert (config.optimizer.optimizer, config.optimizer.learning_rate) == ("adam", None)


def test_the_limits_themselves_are_accepted() -> None:
    SmokeConfig(batch_size=2)
    ModelConfig(hidden_units=(1,), dropout=(0.0,))
    OptimizerConfig(learning_rate=1e-30, clip_norm=1e30)
    TrainConfig(output=OutputConfig(run_dir="r", resume=True), epochs=1)
    TrainConfig(data=DataConfig(validation_split=0.1), early_stopping=1)
    EvaluateConfig(model="m", data=SourceConfig(synthetic=SyntheticOptions(), data="synthetic"))


def test_one_dropout_rate_holds_for_all_layers() -> None:
    assert ModelConfig(hidden_units=(8, 4), dropout=(0.5,)).dropout == (0.5, 0.5)
    with pytest.raises(InputError, match=r"3 rates for 2 hidden layers \(64 32\); give one rate"):
        ModelConfig(hidden_units=(64, 32), dropout=(0.1, 0.2, 0.3))


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3  # type: ignore[misc]


@given(percent=st.integers(0, 99))
def test_shares(percent: int) -> None:
    assert parse_share("--x", f"{percent}%") == parse_share("--x", f"0.{percent:02}")


@pytest.mark.parametrize("text", ["", "%", "5 %%", "-5%", "100%", "1", "nan", "5%5", "0.05.0"])
def test_texts_that_are_no_shares(text: str) -> None:
    with pytest.raises(InputError, match="--fail-if-slower is"):
        GateConfig(fail_if_slower=text)
