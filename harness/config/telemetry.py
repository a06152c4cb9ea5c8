"""What is sampled of the machine while it trains."""

import math
from dataclasses import dataclass

from harness.config.checks import require

LEAST_HZ, MOST_HZ = 0.01, 100.0


@dataclass(frozen=True, kw_only=True)
class TelemetryConfig:
    """What is sampled of the machine while it trains."""

    telemetry_hz: float = 5.0
    """How often a second the GPUs (through NVML) and the host are sampled, in the background. 0
    samples nothing."""

    def __post_init__(self) -> None:
        hz = self.telemetry_hz
        require(
            hz == 0 or (math.isfinite(hz) and LEAST_HZ <= hz <= MOST_HZ),
            f"--telemetry-hz is {hz:g}; choose 0 for none, or from {LEAST_HZ:g} to {MOST_HZ:g}",
        )
