"""Any Keras optimizer, by name."""

import inspect
from typing import Any

import keras

from harness.config import OptimizerConfig
from harness.errors import InputError


def _optimizers() -> dict[str, type[keras.optimizers.Optimizer]]:
    """Keras's optimizers by lower-case name; those that wrap others, and so need arguments, left
    out."""
    return {
        name.lower(): kind
        for name, kind in vars(keras.optimizers).items()
        if inspect.isclass(kind)
        and issubclass(kind, keras.optimizers.Optimizer)
        and kind is not keras.optimizers.Optimizer
        and all(
            _is_optional(parameter) for parameter in inspect.signature(kind).parameters.values()
        )
    }


def _is_optional(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return variadic or parameter.default is not inspect.Parameter.empty


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
