"""Settings read from TOML and JSON: every type is checked, nothing is dropped unseen."""

import re
import tomllib
from typing import Any

import pytest

from harness.base.decoding import from_mapping
from harness.base.errors import InputError
from harness.cli.evaluate import EvaluateConfig
from harness.data.options import DataConfig, ImdbOptions
from harness.model.options import ModelConfig
from harness.tools.experiment import OptimizerConfig, TrainConfig
from harness.trainer.settings import Settings


def read(toml: str, kind: type = TrainConfig) -> Any:
    return from_mapping(kind, tomllib.loads(toml), where="run.toml")


def test_dashes_underscores_groups_and_the_top_level() -> None:
    config = read(
        """
        epochs = 3
        batch-size = 250        # of a group, at the top level as on the command line
        data = "imdb"           # the name of a group and of a setting in it
        [model]
        hidden-units = [64, 32]
        dropout = [0.1, 0]
        [execution]
        steps_per_dispatch = 20
        deterministic = true
        [optimizer]
        learning-rate = 1
        num-words = 5           # of yet another group
        """
    )
    assert config == TrainConfig(
        epochs=3,
        data=DataConfig(data="imdb", imdb=ImdbOptions(num_words=5)),
        model=ModelConfig(hidden_units=(64, 32), dropout=(0.1, 0.0)),
        execution=Settings(batch_size=250, steps_per_dispatch=20, deterministic=True),
        optimizer=OptimizerConfig(learning_rate=1.0),
    )
    assert isinstance(config.optimizer.learning_rate, float)
    assert isinstance(config.model.dropout[1], float)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('batch-size = "big"', "--batch-size is 'big'; it must be a whole number"),
        ("batch-size = [500]", "--batch-size is [500]; it must be a whole number"),
        ("hidden-units = [50, 0.5]", "--hidden-units[1] is 0.5; it must be a whole number"),
        ("hidden-units = 50", "--hidden-units is 50; it must be a list, each item a whole number"),
        ("batchsize = 5", "unknown setting 'batchsize'; `--help-all` lists them all"),
        (
            "num-words = 5\n[data.imdb]\nnum-words = 6",
            "'num_words' is set twice; leave one of them out",
        ),
        ("batch-size = 0", "--batch-size is 0; it must be a whole number from 1"),
    ],
)
def test_a_wrong_setting_names_the_file_the_setting_and_the_value(toml: str, message: str) -> None:
    with pytest.raises(InputError, match=f"^run.toml: {re.escape(message)}") as caught:
        read(toml)
    assert "\n" not in str(caught.value)


def test_a_setting_without_a_default_must_be_there() -> None:
    with pytest.raises(InputError, match=r"^run.toml: model is missing; it has no default"):
        read("batch-size = 5", EvaluateConfig)
    assert read('model = "m.keras"', EvaluateConfig) == EvaluateConfig(model="m.keras")
