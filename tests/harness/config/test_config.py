"""Every check of a setting: its values, and the one message that says what to do."""

import dataclasses
import re
import subprocess
import sys
from typing import Any

import pytest

from harness.config import (
    IMPLEMENTATIONS,
    PRECISIONS,
    DataInfoConfig,
    EvaluateConfig,
    ExecutionConfig,
    ImdbOptions,
    ModelConfig,
    OptimizerConfig,
    OutputConfig,
    SmokeConfig,
    SyntheticOptions,
    TrainConfig,
    check_batch,
)
from harness.errors import InputError


def test_the_defaults_are_the_tutorials() -> None:
    config = TrainConfig()
    assert (config.epochs, config.execution.batch_size) == (2, 500)
    assert config.model == ModelConfig(hidden_units=(50, 50, 50), dropout=(0.3, 0.2, 0.0))
    assert (config.optimizer.optimizer, config.optimizer.learning_rate) == ("adam", None)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (
            ImdbOptions,
            {"held_out_rows": 0},
            "--held-out-rows is 0; choose from 1 to 2147483647",
        ),
        (ImdbOptions, {"num_words": 0}, "--num-words is 0; choose from 1 to 2147483647"),
        (ImdbOptions, {"skip_top": -1}, "--skip-top is -1; choose from 0 to 2147483647"),
        (ImdbOptions, {"maxlen": 0}, "--maxlen is 0; choose from 1 to 2147483647"),
        (ImdbOptions, {"start_char": -1}, "--start-char is -1; choose from 0 to 2147483647"),
        (ImdbOptions, {"oov_char": -2}, "--oov-char is -2; choose from 0 to 2147483647"),
        (
            ImdbOptions,
            {"index_from": 2**31},
            "--index-from is 2147483648; choose from 0 to 2147483647",
        ),
        (ImdbOptions, {"shuffle_seed": -1}, "--shuffle-seed is -1; choose from 0 to 2147483647"),
        (
            SyntheticOptions,
            {"synthetic_rows": 0},
            "--synthetic-rows is 0; choose from 1 to 2147483647",
        ),
        (
            SyntheticOptions,
            {"synthetic_tokens": 99},
            "--synthetic-tokens is 99; choose from 100 to 1048576",
        ),
        (
            SyntheticOptions,
            {"synthetic_seed": 2**32},
            "--synthetic-seed is 4294967296; choose from 0 to 4294967295",
        ),
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
        (
            OptimizerConfig,
            {"learning_rate": 0.0},
            "--learning-rate is 0.0; it must be a number above 0",
        ),
        (
            OptimizerConfig,
            {"learning_rate": float("inf")},
            "--learning-rate is inf; it must be a number above 0",
        ),
        (OptimizerConfig, {"clip_norm": -1.0}, "--clip-norm is -1.0; it must be a number above 0"),
        (
            OptimizerConfig,
            {"clip_norm": float("nan")},
            "--clip-norm is nan; it must be a number above 0",
        ),
        (ExecutionConfig, {"batch_size": 0}, "--batch-size is 0; it must be at least 1"),
        (
            ExecutionConfig,
            {"steps_per_dispatch": 0},
            "--steps-per-dispatch is 0; it must be at least 1",
        ),
        (ExecutionConfig, {"replicas": -1}, "--replicas is -1; it must be at least 1"),
        (ExecutionConfig, {"seed": -1}, "--seed is -1; it must be in [0, 2**31)"),
        (ExecutionConfig, {"seed": 2**31}, "--seed is 2147483648; it must be in [0, 2**31)"),
        (TrainConfig, {"epochs": 0}, "--epochs is 0; it must be at least 1"),
        (
            TrainConfig,
            {"output": OutputConfig(run_dir="r", resume=True, overwrite=True)},
            "--resume and --overwrite exclude each other: one keeps the run, one replaces it",
        ),
        (
            TrainConfig,
            {"output": OutputConfig(resume=True)},
            "--resume needs --run-dir: the folder of the run to go on with",
        ),
        (
            EvaluateConfig,
            {"model": "m.keras", "batch_size": 0},
            "--batch-size is 0; it must be at least 1",
        ),
        (DataInfoConfig, {"num_bins": 0}, "--num-bins is 0; it must be at least 1"),
        (SmokeConfig, {"batch_size": 0}, "--batch-size is 0; it must be at least 1"),
        (
            SmokeConfig,
            {"batch_size": 3},
            "--batch-size is 3, which does not divide over 2 replicas; "
            "set --batch-size to 2 or 4, or --replicas to a divisor",
        ),
    ],
)
def test_a_wrong_setting_is_one_clear_message(
    kind: type, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        kind(**settings)


def test_what_lies_on_the_edge_is_right() -> None:
    ImdbOptions(num_words=None, skip_top=0, maxlen=1, start_char=None, oov_char=0, held_out_rows=1)
    SyntheticOptions(synthetic_rows=1, synthetic_tokens=100, synthetic_seed=2**32 - 1)
    SmokeConfig(batch_size=2)
    ModelConfig(hidden_units=(1,), dropout=(0.0,))
    ExecutionConfig(batch_size=1, steps_per_dispatch=1, replicas=1, seed=2**31 - 1)
    ExecutionConfig(steps_per_dispatch="auto", replicas="auto")
    OptimizerConfig(learning_rate=1e-30, clip_norm=1e30)
    TrainConfig(output=OutputConfig(run_dir="r", resume=True), epochs=1)


def test_one_dropout_rate_holds_for_all_layers() -> None:
    assert ModelConfig(hidden_units=(8, 4), dropout=(0.5,)).dropout == (0.5, 0.5)


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().epochs = 3  # type: ignore[misc]


def test_names_that_are_listed_are_names_that_are_admitted() -> None:
    admitted = {f.name: f.type for f in dataclasses.fields(ExecutionConfig)}
    for name in PRECISIONS:
        assert name in str(admitted["precision"])
    for name in IMPLEMENTATIONS:
        assert name in str(admitted["implementation"])


class TestCheckBatch:
    def test_admits_what_divides(self) -> None:
        check_batch(batch_size=500, rows=500, replicas=1)
        check_batch(batch_size=500, rows=40_000, replicas=4)

    @pytest.mark.parametrize(
        ("batch_size", "rows", "replicas", "message"),
        [
            (
                501,
                500,
                1,
                "--batch-size is 501 but the data set has 500 rows to train on; "
                "set --batch-size to 500 or less",
            ),
            (
                500,
                40_000,
                3,
                "--batch-size is 500, which does not divide over 3 replicas; "
                "set --batch-size to 498 or 501, or --replicas to a divisor",
            ),
            (
                2,
                40_000,
                4,
                "--batch-size is 2, which does not divide over 4 replicas; "
                "set --batch-size to 4, or --replicas to a divisor",
            ),
        ],
    )
    def test_names_the_sizes_that_would_do(
        self, batch_size: int, rows: int, replicas: int, message: str
    ) -> None:
        with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
            check_batch(batch_size=batch_size, rows=rows, replicas=replicas)


def test_settings_load_nothing_beyond_the_standard_library() -> None:
    loaded = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; before = set(sys.modules); import harness.config; "
            "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert set(loaded) <= set(sys.stdlib_module_names) | {"harness"}
