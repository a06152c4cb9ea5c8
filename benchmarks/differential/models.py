"""A network as a function, a functional model, or a subclass of `keras.Model`."""

from collections.abc import Callable
from typing import Any, Literal

import keras
import tensorflow as tf

from benchmarks.differential.networks import Layer, Network, Parts
from benchmarks.differential.rows import Part, keras_inputs

Form = Literal["function", "functional", "built subclass", "subclass", "subclass in inference mode"]
"""The form of a model. In the last one, `call` has no argument `training`, so that Keras trains it
as if it were called outside of training: BatchNormalization uses its moving averages."""


def new_layers() -> Layer:
    """Returns a function that makes each layer at its first use, for one functional model."""
    made: Parts = {}

    def layer(name: str, make: Callable[[str, Parts], keras.layers.Layer]) -> keras.layers.Layer:
        if name not in made:
            made[name] = make(name, made)
        return made[name]

    return layer


class Subclass(keras.Model):
    """A subclass of `keras.Model` with the layers of a network."""

    def __init__(self, network: Network, parts: tuple[Part, ...]) -> None:
        super().__init__(name="subclass")
        makers: dict[str, Callable[[str, Parts], keras.layers.Layer]] = {}
        symbolic = new_layers()

        def recorded(name: str, make: Callable[[str, Parts], Any]) -> keras.layers.Layer:
            makers.setdefault(name, make)
            return symbolic(name, make)

        network.outputs(keras_inputs(parts), recorded)
        self.parts: Parts = {}
        for name, make in makers.items():
            self.parts[name] = make(name, self.parts)
        self._network = network

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The network's outputs."""
        return self._network.outputs(inputs, lambda name, _: self.parts[name])


class InferenceMode(Subclass):
    """A subclass whose `call` has no argument `training`."""

    def call(self, inputs: Any) -> Any:  # type: ignore[override]  # the case to test
        """The network's outputs."""
        return super().call(inputs)


def build(form: Form, network: Network, parts: tuple[Part, ...]) -> keras.Model:
    """Makes the model that Keras trains, whatever the trainer is given."""
    if form in ("function", "functional"):
        inputs = keras_inputs(parts)
        return keras.Model(inputs, network.outputs(inputs, new_layers()), name="model")
    kind = InferenceMode if form == "subclass in inference mode" else Subclass
    model = kind(network, parts)
    if form == "built subclass":
        model(tf.nest.map_structure(_example, keras_inputs(parts)))
    return model


def _example(tensor: Any) -> tf.Tensor:
    """Returns a row without ids, or with zeros for its features."""
    rows = 2 if tensor.name.endswith("row_splits") else 0 if tensor.ndim == 1 else 1
    return tf.zeros([rows, *tensor.shape[1:]], tensor.dtype)


def given(form: Form, network: Network, parts: tuple[Part, ...]) -> Any:
    """Returns the model, or the function for one, that the trainer is given."""
    if form == "function":
        return lambda inputs: network.outputs(inputs, new_layers())
    return build(form, network, parts)
