"""Any Keras optimizer, by name."""

import inspect
from typing import Any

import keras

from harness.config import OptimizerConfig
from harness.errors import InputError


def _optimizers() -> dict[str, type[keras.optimizers.Optimizer]]:
    """Keras's optimizers by lower-case name; wrappers, which need another optimizer, left out."""
    return {
        name.lower(): kind
        for name, kind in vars(keras.optimizers).items()
        if inspect.isclass(kind)
        and issubclass(kind, keras.optimizers.Optimizer)
        and kind is not keras.optimizers.Optimizer
        and "inner_optimizer" not in inspect.signature(kind).parameters
    }


def build_optimizer(config: OptimizerConfig) -> keras.optimizers.Optimizer:
    """The optimizer that `config` names, with Keras's defaults for what it leaves out.

    Raises:
        InputError: when Keras has no optimizer of that name.
    """
    known = _optimizers()
    kind = known.get(config.optimizer.lower())
    if kind is None:
        raise InputError(
            f"--optimizer is '{config.optimizer}', which Keras does not have; "
            f"choose one of {', '.join(sorted(known))}"
        )
    settings: dict[str, Any] = {}
    if config.learning_rate is not None:
        settings["learning_rate"] = config.learning_rate
    if config.clip_norm is not None:
        settings["global_clipnorm"] = config.clip_norm
    return kind(**settings)
