"""Checks the memory that a model's variables take.

A variable alone says little: training also keeps its gradient, the optimizer's state, and for a
while a copy. The sums here are the least that any program takes, so that nothing is refused that
might fit.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf
from keras.src.backend.common import global_state

from harness.base.memory import free_bytes, require_memory

_UNINITIALIZED = "uninitialized_variables"  # Keras's list of variables without values
_HOST = "the host's memory"
REMEDY = (
    "Use fewer ids (--num-words) or units (--hidden-units), an optimizer that keeps less, as "
    "--optimizer=sgd does, or a machine with more memory"
)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The memory for variables and what goes with them; by default host memory, and nothing."""

    device: str = ""  # The GPU that variables lie on, such as `/GPU:0`; empty: host memory
    device_free: Callable[[], int] = free_bytes  # Bytes left of the device's memory
    optimizer: int = 0  # Bytes that the optimizer keeps for each byte of a trained variable
    gradients: bool = False  # Whether there will be gradients
    copies: int = 0  # Devices whose variables are copied while a program is compiled
    data_bytes: int = 0  # Bytes of the rows that will lie on the device

    def require_all(self, variables: Sequence[keras.Variable]) -> int:
        """Checks the memory for variables that have no values yet; returns the bytes left."""
        largest = max(variables, key=num_bytes)
        rest = sum(map(num_bytes, variables)) - num_bytes(largest)
        return self._require(
            {f"the variable {shown_variable(largest)}": num_bytes(largest), "the others": rest},
            variables,
        )

    def require_rest(self, model: keras.Model, *, devices: int = 1) -> int:
        """Checks the memory that a run needs besides a model on the first of several devices."""
        # Each further device gets copies of the variables.
        held = sum(map(num_bytes, model.variables))
        return self._require({"the variables": held if devices > 1 else 0}, model.variables)

    def _require(self, new: Mapping[str, int], variables: Sequence[keras.Variable]) -> int:
        held = sum(map(num_bytes, variables))
        trained = sum(num_bytes(variable) for variable in variables if variable.trainable)
        kept = self.optimizer * trained
        needs = {
            **new,
            "gradients": trained if self.gradients else 0,
            "the optimizer": kept,
            "the data set": self.data_bytes,
        }
        # While a program is compiled, the values lie in host memory too.
        copy = {"a copy while programs are compiled": self.copies * (held + kept)}
        if not self.device:
            return require_memory(needs | copy, free=self.device_free, place=_HOST, remedy=REMEDY)
        place = f"the memory of {self.device}"
        left = require_memory(needs, free=self.device_free, place=place, remedy=REMEDY)
        require_memory(copy, free=free_bytes, place=_HOST, remedy=REMEDY)
        return left


def num_bytes(variable: keras.Variable) -> int:
    return math.prod(variable.shape) * int(tf.as_dtype(variable.dtype).size)


def shown_variable(variable: keras.Variable) -> str:
    return f"{variable.path}, {variable.dtype} {list(variable.shape)}"


@contextlib.contextmanager
def without_values() -> Iterator[list[keras.Variable]]:
    """Makes Keras's variables without values, so that they take no memory; yields their list."""
    variables: list[keras.Variable] = []
    global_state.set_global_attribute(_UNINITIALIZED, variables)
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield variables
    finally:
        # Otherwise Keras would give them values after the next layer that it builds.
        global_state.set_global_attribute(_UNINITIALIZED, [])
