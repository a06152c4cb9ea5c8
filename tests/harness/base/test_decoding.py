"""Settings read from TOML and JSON: every type is checked, nothing is dropped unseen."""

import json
import re
import tomllib
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.decoding import from_mapping
from harness.base.errors import InputError
from harness.cli.evaluate import EvaluateConfig
from harness.cli.settings import OptimizerConfig, OutputConfig, TrainConfig
from harness.data.options import DataConfig, ImdbOptions
from harness.model.options import ModelConfig
from harness.trainer.settings import Settings


def read(toml: str, kind: type = TrainConfig) -> Any:
    return from_mapping(kind, tomllib.loads(toml), where="run.toml")


def test_nothing_written_means_the_defaults() -> None:
    assert read("") == TrainConfig()


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
        """
    )
    assert config == TrainConfig(
        epochs=3,
        data=DataConfig(data="imdb"),
        model=ModelConfig(hidden_units=(64, 32), dropout=(0.1, 0.0)),
        execution=Settings(batch_size=250, steps_per_dispatch=20, deterministic=True),
        optimizer=OptimizerConfig(learning_rate=1.0),
    )
    assert isinstance(config.optimizer.learning_rate, float)
    assert isinstance(config.model.dropout[1], float)


@pytest.mark.parametrize(
    "toml",
    [
        "num-words = 5",
        "[data]\nnum_words = 5",
        "[data.imdb]\nnum-words = 5",
        "[imdb]\nnum-words = 5",
        "[execution]\nnum-words = 5",
    ],
)
def test_a_setting_may_stand_in_any_group(toml: str) -> None:
    assert read(toml) == TrainConfig(data=DataConfig(imdb=ImdbOptions(num_words=5)))


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('batch-size = "big"', "execution.batch_size is 'big'; it must be a whole number"),
        ("epochs = true", "epochs is True; it must be a whole number"),
        ('learning-rate = "fast"', "optimizer.learning_rate is 'fast'; it must be a number or"),
        ("hidden-units = 50", "model.hidden_units is 50; it must be a list, each item a whole"),
        ("hidden-units = [50, 0.5]", "model.hidden_units[1] is 0.5; it must be a whole number"),
        (
            'precision = "float64"',
            'execution.precision is \'float64\'; it must be "auto" or "float32" or '
            '"mixed_bfloat16" or "mixed_float16"',
        ),
        ("run_dir = 2020-01-01", "output.run_dir is datetime.date(2020, 1, 1); it must be a text"),
        ("batchsize = 5", "unknown setting 'batchsize'; `--help-all` lists them all"),
        (
            "num-words = 5\n[data.imdb]\nnum-words = 6",
            "'num_words' is set twice; leave one of them out",
        ),
        ("batch-size = 0", "--batch-size is 0; it must be at least 1"),
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


# TOML has no null, so that "None" stands for none.
FOLDERS = st.text().filter(lambda text: text != "None")
configs = st.builds(
    TrainConfig,
    epochs=st.integers(1, 1000),
    data=st.builds(
        DataConfig,
        word_index=st.none() | st.text(),
        unique=st.booleans(),
        data_cache=st.sampled_from(["on", "off"]),
        imdb=st.builds(
            ImdbOptions,
            split=st.sampled_from(["tutorial", "standard"]),
            maxlen=st.none() | st.integers(1, 1000),
            start_char=st.none() | st.integers(0, 1000),
        ),
    ),
    model=st.lists(st.integers(1, 1000), min_size=1, max_size=4).flatmap(
        lambda units: st.builds(
            ModelConfig,
            hidden_units=st.just(tuple(units)),
            dropout=st.tuples(*[st.floats(0, 1, exclude_max=True)] * len(units)),
        )
    ),
    optimizer=st.builds(
        OptimizerConfig,
        learning_rate=st.none() | st.floats(1e-30, 1e30),
    ),
    execution=st.builds(
        Settings,
        precision=st.sampled_from(["auto", "float32", "mixed_float16"]),
        replicas=st.just("auto") | st.integers(1, 8),
    ),
    output=st.builds(OutputConfig, run_dir=FOLDERS, resume=st.booleans()),
)


@given(configs)
def test_settings_come_back_from_json_as_they_went(config: TrainConfig) -> None:
    content = json.loads(json.dumps(asdict(config)))
    assert from_mapping(TrainConfig, content, where="config.json") == config
