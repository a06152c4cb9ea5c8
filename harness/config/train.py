"""Every setting of `harness train`."""

from dataclasses import dataclass, field
from typing import Literal

from harness.config.checks import require, require_count
from harness.config.data import DataConfig
from harness.config.execution import ExecutionConfig
from harness.config.model import ModelConfig, OptimizerConfig
from harness.config.output import OutputConfig
from harness.config.telemetry import TelemetryConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a network on sets of token ids, evaluate it after each epoch, and save it."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)

    compilation_cache: Literal["auto", "on", "off"] = "auto"
    """Of XLA programs. `on`: those that an earlier run with the same settings compiled are loaded,
    and new ones kept. `auto`: on where that works, which is on the CPU, and not where steps are
    profiled, for loaded programs have lost the names of their parts."""

    epochs: int = 2
    """Passes over the training rows."""

    on_nan: Literal["stop", "continue"] = "stop"
    """When the loss is no finite number any more. `stop`: end the run with the likely cause;
    `continue`: warn. Either way, a state with such a loss is not saved, and a run that ends in one
    leaves no model.keras and exit code 1."""

    def __post_init__(self) -> None:
        require_count("--epochs", self.epochs)
        require(
            not (self.output.resume and self.output.overwrite),
            "--resume and --overwrite exclude each other: one keeps the run, one replaces it",
        )
        require(
            not self.output.resume or self.output.run_dir is not None,
            "--resume needs --run-dir: the folder of the run to go on with",
        )
