"""The rate of telemetry: what is allowed, and what is said of the rest."""

import math

import pytest

from harness.config import TelemetryConfig, TrainConfig, from_mapping
from harness.errors import InputError


@pytest.mark.parametrize("hz", [0.0, 0.01, 5.0, 100.0])
def test_rates(hz: float) -> None:
    assert TelemetryConfig(telemetry_hz=hz).telemetry_hz == hz


@pytest.mark.parametrize("hz", [-1.0, 0.009, 100.5, math.nan, math.inf, -math.inf])
def test_rates_that_are_none(hz: float) -> None:
    with pytest.raises(InputError, match=r"--telemetry-hz is .*; choose 0 for none, or from 0.01"):
        TelemetryConfig(telemetry_hz=hz)


def test_a_file_of_a_run_before_there_was_telemetry() -> None:
    settings = from_mapping(TrainConfig, {"epochs": 3, "telemetry-hz": 10}, where="FILE.toml")
    assert settings.telemetry.telemetry_hz == 10.0
    assert from_mapping(TrainConfig, {"epochs": 3}, where="FILE.toml") == TrainConfig(epochs=3)
