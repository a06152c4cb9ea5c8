"""Every check of a command's settings: the values, and the one message that says what to do."""

import dataclasses
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.checks import parse_share
from harness.base.errors import InputError
from harness.cli.bench import BenchConfig, GateConfig
from harness.cli.data import DataInfoConfig
from harness.cli.evaluate import EvaluateConfig
from harness.cli.settings import ModelConfig, OptimizerConfig, OutputConfig, TrainConfig
from harness.cli.smoke import SmokeConfig
from harness.data.options import DataConfig, SourceConfig, SyntheticOptions


def test_the_defaults_are_the_tutorials() -> None:
    config = TrainConfig()
    assert (config.epochs, config.execution.batch_size) == (2, 500)
    assert config.model == ModelConfig(hidden_units=(50, 50, 50), dropout=(0.3, 0.2, 0.0))
    assert (config.optimizer.optimizer, config.optimizer.learning_rate) == ("adam", None)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (ModelConfig, {"hidden_units": ()}, "--hidden-units is empty; name at least one layer"),
        (
            ModelConfig,
            {"hidden_units": (50, 0), "dropout": (0.0,)},
            "--hidden-units is 0; it must be at least 1",
        ),
        (
            ModelConfig,
            {"hidden_units": (64, 32), "dropout": (0.1, 0.2, 0.3)},
            "--dropout has 3 rates for 2 hidden layers (64 32); "
            "give one rate for each, or one for all",
        ),
        (ModelConfig, {"dropout": (1.0,)}, "--dropout holds 1.0; a rate is in [0, 1)"),
        (ModelConfig, {"dropout": (-0.1,)}, "--dropout holds -0.1; a rate is in [0, 1)"),
        (ModelConfig, {"dropout": (float("nan"),)}, "--dropout holds nan; a rate is in [0, 1)"),
        (OptimizerConfig, {"learning_rate": 0.0}, "--learning-rate is 0.0; it must be a number"),
        (OptimizerConfig, {"learning_rate": float("inf")}, "--learning-rate is inf; it must be a"),
        (OptimizerConfig, {"clip_norm": -1.0}, "--clip-norm is -1.0; it must be a number above 0"),
        (OptimizerConfig, {"weight_decay": -1.0}, "--weight-decay is -1.0; it must be 0 or above"),
        (OptimizerConfig, {"clip_norm": float("nan")}, "--clip-norm is nan; it must be a number"),
        (OptimizerConfig, {"warmup": -1}, "--warmup is -1; it must be at least 0"),
        (TrainConfig, {"epochs": 0}, "--epochs is 0; it must be at least 1"),
        (TrainConfig, {"class_weight": "even"}, "--class-weight is 'even'; choose none or"),
        (TrainConfig, {"test": "no"}, "--test is 'no'; choose on or off"),
        (TrainConfig, {"test": "off"}, "--test is off, so --validation-split must set rows apart"),
        (TrainConfig, {"early_stopping": 0}, "--early-stopping is 0; it must be at least 1"),
        (
            TrainConfig,
            {"early_stopping": 1},
            "--early-stopping needs rows to validate on that are not the test rows; set "
            "--validation-split, as in 0.1",
        ),
        (
            OutputConfig,
            {"run_dir": "r", "resume": True, "overwrite": True},
            "--resume and --overwrite exclude each other: one keeps what is there, one replaces it",
        ),
        (
            OutputConfig,
            {"resume": True},
            "--resume needs --run-dir: the folder to go on with",
        ),
        (OutputConfig, {"histograms": 1, "tensorboard": "off"}, "--histograms is 1, but"),
        (EvaluateConfig, {"model": "m", "batch_size": 0}, "--batch-size is 0; it must be at least"),
        (
            EvaluateConfig,
            {"model": "m", "data": SourceConfig(data="run", split_seed=1)},
            "the data of the run is used with the run's own settings; name other data with --data",
        ),
        (DataInfoConfig, {"num_bins": 0}, "--num-bins is 0; it must be at least 1"),
        (SmokeConfig, {"batch_size": 0}, "--batch-size is 0; it must be at least 1"),
        (
            SmokeConfig,
            {"batch_size": 3},
            "--batch-size is 3, which does not divide over 2 replicas; "
            "set --batch-size to 2 or 4, or --replicas to a divisor",
        ),
        (BenchConfig, {"repeats": 0}, "--repeats is 0"),
        (BenchConfig, {"seconds": 0.0}, "--seconds is 0.0"),
        (BenchConfig, {"seconds": float("nan")}, "--seconds is nan"),
        (BenchConfig, {"against": "a", "against_set": ("b=1",)}, "--against and --against-set ex"),
        (
            BenchConfig,
            {"against": "a", "repeats": 2},
            "--repeats is 2; a comparison needs",
        ),
        (
            BenchConfig,
            {"gate": GateConfig(fail_if_slower="5%")},
            "--fail-if-slower needs --again",
        ),
        (GateConfig, {"fail_if_inconclusive": True}, "--fail-if-inconclusive needs --fail-if-slow"),
    ],
)
def test_a_wrong_setting_is_one_message(kind: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        kind(**settings)


def test_the_limits_themselves_are_accepted() -> None:
    SmokeConfig(batch_size=2)
    ModelConfig(hidden_units=(1,), dropout=(0.0,))
    OptimizerConfig(learning_rate=1e-30, clip_norm=1e30)
    TrainConfig(output=OutputConfig(run_dir="r", resume=True), epochs=1)
    TrainConfig(data=DataConfig(validation_split=0.1), early_stopping=1)
    EvaluateConfig(model="m", data=SourceConfig(synthetic=SyntheticOptions(), data="synthetic"))


def test_one_dropout_rate_holds_for_all_layers() -> None:
    assert ModelConfig(hidden_units=(8, 4), dropout=(0.5,)).dropout == (0.5, 0.5)


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
