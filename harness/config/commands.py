"""Every setting of the commands around training."""

from dataclasses import dataclass, field
from typing import Literal

from harness.config.checks import require, require_count
from harness.config.data import DataConfig, ImdbOptions
from harness.config.execution import (
    IMPLEMENTATIONS,
    PRECISIONS,
    Implementation,
    Precision,
    require_even_shares,
)

Part = Literal["gpu", "native", "tensorboard", "profile", "data"]
"""What `harness doctor` can be asked for."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a saved model on a data set's held-out rows."""

    model: str
    """Path to a .keras file, or to a run folder that holds one."""

    data: DataConfig = field(default_factory=DataConfig)

    batch_size: int = 500
    """Rows per step."""

    json: bool = False
    """Print one JSON object instead of a table."""

    def __post_init__(self) -> None:
        require_count("--batch-size", self.batch_size)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Judge texts with a saved model that was trained on word ids."""

    model: str
    """Path to a .keras file, or to a run folder that holds one."""

    texts: tuple[str, ...] = ()
    """The texts. Left out: one a line from standard input."""

    word_index: str | None = None
    """JSON file of words and their ranks. None: the one in Keras's cache."""

    imdb: ImdbOptions = field(default_factory=ImdbOptions)


@dataclass(frozen=True, kw_only=True)
class DataInfoConfig:
    """Show what a data set holds: classes, ids, lengths, and its first row in words."""

    data: DataConfig = field(default_factory=DataConfig)

    num_bins: int = 20
    """Of the histogram of lengths."""

    def __post_init__(self) -> None:
        require_count("--num-bins", self.num_bins)


@dataclass(frozen=True, kw_only=True)
class DataConvertConfig:
    """Write a data set in the harness's own format, which loads at once and needs no pickle."""

    out: str
    """Folder to make."""

    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Say what this machine can do for a run, line by line, each with OK or the remedy. Exit code 1
    when something is broken."""

    need: tuple[Part, ...] = ()
    """What has to be there: exit code 1 when one of these is not all well."""

    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True, kw_only=True)
class SmokeConfig:
    """Try every implementation, precision and number of replicas for a few steps each on the CPU:
    the loss falls, nothing is compiled again, event files can be read, a saved model gives the same
    answers. Exit code 0 when all of it holds, else 1."""

    batch_size: int = 64
    """Rows per step."""

    implementations: tuple[Implementation, ...] = IMPLEMENTATIONS
    """Those to try."""

    precisions: tuple[Precision, ...] = PRECISIONS
    """Those to try."""

    replicas: tuple[int, ...] = (1, 2)
    """Numbers of replicas to try."""

    def __post_init__(self) -> None:
        require_count("--batch-size", self.batch_size)
        for name in ("implementations", "precisions", "replicas"):
            require(len(getattr(self, name)) > 0, f"--{name} is empty; name at least one")
        for replicas in self.replicas:
            require_count("--replicas", replicas)
            require_even_shares(self.batch_size, replicas)
