"""The network, and how its weights are updated."""

import math
from dataclasses import dataclass

from harness.config.checks import require, require_count


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network: a multi-hot layer, then fully connected ones. Defaults are the tutorial's."""

    hidden_units: tuple[int, ...] = (50, 50, 50)
    """Units of each hidden layer; the first is the multi-hot layer."""

    dropout: tuple[float, ...] = (0.3, 0.2, 0.0)
    """Dropout rate after each hidden layer; one number holds for all."""

    activation: str = "relu"
    """Activation of the hidden layers, by Keras's name."""

    def __post_init__(self) -> None:
        require(len(self.hidden_units) > 0, "--hidden-units is empty; name at least one layer")
        for units in self.hidden_units:
            require_count("--hidden-units", units)
        if len(self.dropout) == 1:
            object.__setattr__(self, "dropout", self.dropout * len(self.hidden_units))
        require(
            len(self.dropout) == len(self.hidden_units),
            f"--dropout has {len(self.dropout)} rates for {len(self.hidden_units)} hidden layers "
            f"({' '.join(map(str, self.hidden_units))}); give one rate for each, or one for all",
        )
        for rate in self.dropout:
            require(0 <= rate < 1, f"--dropout holds {rate}; a rate is in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights are updated."""

    optimizer: str = "adam"
    """Any Keras optimizer, by name."""

    learning_rate: float | None = None
    """Left out: the optimizer's own default."""

    clip_norm: float | None = None
    """Scale all gradients down together when their global norm exceeds this."""

    def __post_init__(self) -> None:
        for name, value in (
            ("--learning-rate", self.learning_rate),
            ("--clip-norm", self.clip_norm),
        ):
            if value is not None:
                ok = math.isfinite(value) and value > 0
                require(ok, f"{name} is {value}; it must be a number above 0")
