"""Checks the memory that a model's variables may take, before each of them is made.

A variable alone says little: training also keeps its gradient, the optimizer's state, and for a
while a copy. The sums here are the least that any program takes, so that nothing is refused that
might fit.
"""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state

from harness.base.errors import InputError
from harness.base.memory import free_bytes, require_memory

_SMALL = 2**16
"""Bytes of variables to make before the next check, which takes a millisecond."""
_RANDOM = (
    keras.initializers.VarianceScaling,
    keras.initializers.RandomNormal,
    keras.initializers.RandomUniform,
    keras.initializers.TruncatedNormal,
)
"""Initializers that scale and shift random numbers into new arrays."""
_HOST = "the host's memory"
_REMEDY = (
    "Use fewer ids (--num-words) or units (--hidden-units), an optimizer that keeps less, as "
    "--optimizer sgd does, or a machine with more memory"
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The memory for variables and for what goes with them. With the defaults, variables lie in
    host memory, and nothing goes with them."""

    device: str = ""
    """Name of the GPU that variables lie on, such as `/GPU:0`; empty for host memory."""
    device_free: Callable[[], int] = free_bytes
    """Function that returns the bytes that are left of the device's memory."""
    optimizer: int = 0
    """Bytes that the optimizer keeps for each byte of a trained variable."""
    gradients: bool = False
    """Whether there will be gradients."""
    copies: int = 0
    """Number of devices whose variables are copied to host memory while a program is compiled."""
    data_bytes: int = 0
    """Bytes of the rows that will lie on the device."""

    def require(self, new: Mapping[str, int], *, held: int, trained: int) -> int:
        """Checks the memory that a run still needs.

        Args:
            new: bytes of what is about to be made, by its name in messages.
            held: bytes of all variables, including the new ones.
            trained: bytes of the trained variables.

        Returns:
            The bytes that are left in the memory of the variables.

        Raises:
            OutOfMemoryError: if there is less memory.
        """
        kept = self.optimizer * trained
        needs = {
            **new,
            "gradients": trained if self.gradients else 0,
            "the optimizer": kept,
            "the data set": self.data_bytes,
        }
        copy = {"a copy while programs are compiled": self.copies * (held + kept)}
        if not self.device:
            return self.require_on_device(needs | copy)
        left = self.require_on_device(needs)
        require_memory(copy, free=free_bytes, place=_HOST, remedy=_REMEDY)
        return left

    def require_on_device(self, needs: Mapping[str, int]) -> int:
        """Checks needs against the memory that the variables lie in; returns the bytes left."""
        place = f"the memory of {self.device}" if self.device else _HOST
        return require_memory(needs, free=self.device_free, place=place, remedy=_REMEDY)

    def require_rest(self, model: keras.Model, *, devices: int = 1) -> int:
        """Checks the memory that a run needs besides a built model, as `require` does.

        Args:
            model: the model on the first device.
            devices: number of devices; all but the first will have copies of the variables.
        """
        held = sum(map(num_bytes, model.variables))
        trained = sum(map(num_bytes, model.trainable_variables))
        return self.require(
            {"the variables": held if devices > 1 else 0}, held=held, trained=trained
        )


def num_bytes(variable: keras.Variable) -> int:
    """Returns the size of a variable's value."""
    return math.prod(variable.shape) * int(tf.as_dtype(variable.dtype).size)


@contextlib.contextmanager
def within_memory(budget: Budget | None = None, *, trained: bool = False) -> Iterator[None]:
    """Refuses each of Keras's variables that would not fit, before it is made.

    Args:
        budget: what there is; None: host memory.
        trained: whether all trainable variables will be trained. Otherwise a layer may still be
            frozen, so the memory for its training is not certain.

    Raises:
        InputError: the budget's own error, in place of Keras's version of it.
    """
    budget = budget or Budget()
    held = may_be_trained = unchecked = 0
    refused: list[InputError] = []

    def checked(make: Callable[..., Any], **settings: Any) -> Any:
        nonlocal held, may_be_trained, unchecked
        variable, initializer = _announced(settings["initial_value"])
        size = 0 if variable is None else num_bytes(variable)
        held += size
        may_be_trained += size if settings["trainable"] else 0
        unchecked += size
        if variable is not None and unchecked >= _SMALL:
            unchecked = 0
            new = {f"the variable {variable.path}, {variable.dtype} {list(variable.shape)}": size}
            try:
                budget.require(new, held=held, trained=may_be_trained if trained else 0)
                drawn = 2 * size if isinstance(initializer, _RANDOM) else 0
                budget.require_on_device(new | {"random numbers while it is made": drawn})
            except InputError as error:
                refused.append(error)
                raise
        return make(**settings)

    try:
        with tf.variable_creator_scope(checked):
            yield
    finally:
        if refused:
            # Otherwise Keras would go on with these in the next model.
            global_state.set_global_attribute("uninitialized_variables", [])
            raise refused[0] from None


def _announced(initial_value: Any) -> tuple[keras.Variable | None, Any]:
    """Returns the variable that is about to be made and its initializer; None unless Keras passes a
    function of its own that makes the value."""
    if not inspect.isfunction(initial_value):
        return None, None
    names = inspect.getclosurevars(initial_value).nonlocals
    variable = names.get("self")
    return variable if isinstance(variable, keras.Variable) else None, names.get("initializer")
