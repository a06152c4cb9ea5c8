"""Every setting of a run, with its default and its check.

The command line, its help texts and `--config FILE.toml` are generated from these classes. Nothing
is imported here beyond the standard library, so that `--help` costs no more than parsing does.
"""

from harness.config.commands import (
    DataConvertConfig as DataConvertConfig,
)
from harness.config.commands import (
    DataInfoConfig as DataInfoConfig,
)
from harness.config.commands import (
    DoctorConfig as DoctorConfig,
)
from harness.config.commands import (
    EvaluateConfig as EvaluateConfig,
)
from harness.config.commands import (
    PredictConfig as PredictConfig,
)
from harness.config.commands import (
    SmokeConfig as SmokeConfig,
)
from harness.config.data import (
    DataConfig as DataConfig,
)
from harness.config.data import (
    ImdbOptions as ImdbOptions,
)
from harness.config.data import (
    SyntheticOptions as SyntheticOptions,
)
from harness.config.execution import (
    IMPLEMENTATIONS as IMPLEMENTATIONS,
)
from harness.config.execution import (
    PRECISIONS as PRECISIONS,
)
from harness.config.execution import (
    ExecutionConfig as ExecutionConfig,
)
from harness.config.execution import (
    Implementation as Implementation,
)
from harness.config.execution import (
    Precision as Precision,
)
from harness.config.execution import (
    check_batch as check_batch,
)
from harness.config.mapping import (
    from_mapping as from_mapping,
)
from harness.config.mapping import (
    to_mapping as to_mapping,
)
from harness.config.model import (
    ModelConfig as ModelConfig,
)
from harness.config.model import (
    OptimizerConfig as OptimizerConfig,
)
from harness.config.output import (
    OutputConfig as OutputConfig,
)
from harness.config.output import (
    precision_watch_every as precision_watch_every,
)
from harness.config.telemetry import (
    TelemetryConfig as TelemetryConfig,
)
from harness.config.train import (
    TrainConfig as TrainConfig,
)
