"""Every setting of `harness profile` and `harness tensorboard`, and what both it and `train` take
for a stretch of steps."""

import re
from dataclasses import dataclass, field

from harness.config.checks import require, require_count
from harness.config.data import DataConfig
from harness.config.execution import ExecutionConfig
from harness.config.model import ModelConfig, OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Train a stretch of steps under TensorFlow's profiler; say where a step's time goes, and which
    operations take it. TensorBoard shows the same profile."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)

    profile_dir: str = "runs/profile"
    """TensorBoard's log folder; each profile gets a folder of its own under plugins/profile/."""

    steps: int = 60
    """Optimizer steps to profile, in whole dispatches. With --steps-per-dispatch auto a dispatch
    holds at most 20 of them here."""

    warm_up: int = 60
    """Optimizer steps to train before."""

    def __post_init__(self) -> None:
        require(self.profile_dir != "", "--profile-dir is empty; name a folder")
        require_count("--steps", self.steps)
        require_count("--warm-up", self.warm_up, least=0)
        require(
            not self.execution.strict_xla,
            "--strict-xla judges whole epochs, which profile does not train; leave it out",
        )


@dataclass(frozen=True, kw_only=True)
class TensorBoardConfig:
    """Open TensorBoard on run folders, with the profiler's pages where they are installed. Ctrl-C
    ends it."""

    run_dirs: tuple[str, ...]
    """Folders of runs, sweeps or profiles, or a folder around them."""

    port: int = 6006
    """Of the server. 0: any free one."""

    host: str = "localhost"
    """Address to serve on. 0.0.0.0 lets other machines in."""

    def __post_init__(self) -> None:
        require(len(self.run_dirs) > 0, "name at least one run folder")
        require_count("--port", self.port, least=0, most=65_535)


def step_range(name: str, text: str) -> tuple[int, int]:
    """The steps that `A:B` names, counted from 0, B left out: as (A, B).

    Raises:
        InputError: naming the setting, unless both are whole numbers and A is below B.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text)
    require(
        found is not None,
        f"{name} is '{text}'; give two whole numbers, as in 100:120 for the 20 steps after 100",
    )
    assert found is not None
    first, last = int(found[1]), int(found[2])
    require(
        first < last, f"{name} is {text}, which holds no step; the first must be below the last"
    )
    return first, last
