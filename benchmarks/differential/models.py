"""A network as a function, a functional model, or a subclass of `keras.Model`, and what scripts do
to a model before they train it."""

import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import keras
import tensorflow as tf

from benchmarks.differential import layers
from benchmarks.differential.draw import Draw
from benchmarks.differential.networks import Layer, Network, Parts
from benchmarks.differential.rows import Part, keras_inputs

Form = Literal["function", "functional", "built subclass", "subclass", "subclass in inference mode"]
"""The form of a model. In the last one, `call` has no argument `training`, so that Keras trains it
as if it were called outside of training: BatchNormalization uses its moving averages."""


class Changes(NamedTuple):
    """What is done to a model before it is trained."""

    rank: int = 0  # of the low-rank weights that Dense and Embedding layers get; 0 for none
    is_loaded: bool = False  # Whether it comes from a .keras file, if a file can hold it

    def adapt(self, made: Iterable[keras.layers.Layer]) -> None:
        """Enables LoRA in the layers that have it."""
        own = [part for layer in made for part in layer._flatten_layers()] if self.rank else []
        kinds = keras.layers.Dense | keras.layers.Embedding
        for layer in own:
            seed = zlib.crc32(layer.name.encode())  # the order depends on the model's form
            is_constrained = getattr(layer, "kernel_constraint", None)
            if isinstance(layer, kinds) and not is_constrained and not layer.lora_enabled:
                a, b = (keras.initializers.RandomNormal(0.0, 0.3, seed + n) for n in (0, 50))
                layer.enable_lora(self.rank, a_initializer=a, b_initializer=b)

    def loaded(self, model: keras.Model, words: list[str]) -> keras.Model:
        """Returns the model as a file gives it back, unless layers share weights."""
        if not self.is_loaded or shares_weights(words):
            return model
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / "model.keras")
            known = {name: kind for name, kind in vars(layers).items() if isinstance(kind, type)}
            return keras.models.load_model(Path(folder) / "model.keras", custom_objects=known)


UNCHANGED = Changes()


def shares_weights(words: list[str]) -> bool:
    """Whether a layer computes with another one's weights, by the words of the network."""
    return any(word.startswith(("KernelPenalty", "tied", "another layer")) for word in words)


def draw_changes(draw: Draw) -> Changes:
    """Draws what is done to a model before it is trained."""
    return Changes(draw.integer(1, 3) if draw.chance(0.15) else 0, draw.chance(0.15))


def new_layers(made: Parts) -> Layer:
    """Returns a function that makes each layer at its first use, for one functional model."""

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
        symbolic = new_layers({})

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


def build(form: Form, network: Network, parts: tuple[Part, ...], changes: Changes) -> keras.Model:
    """Makes the model that Keras trains, whatever the trainer is given."""
    made: Parts = {}
    if form in ("function", "functional"):
        inputs = keras_inputs(parts)
        model = keras.Model(inputs, network.outputs(inputs, new_layers(made)), name="model")
        model = changes.loaded(model, network.words)
        changes.adapt(model.layers)
        return model
    kind = InferenceMode if form == "subclass in inference mode" else Subclass
    model = kind(network, parts)
    if form == "built subclass":
        model(tf.nest.map_structure(_example, keras_inputs(parts)))
        changes.adapt(model.layers)
    return model


def _example(tensor: Any) -> tf.Tensor:
    """Returns a row without ids, or with zeros for its features."""
    rows = 2 if tensor.name.endswith("row_splits") else 0 if tensor.ndim == 1 else 1
    return tf.zeros([rows, *tensor.shape[1:]], tensor.dtype)


def given(form: Form, network: Network, parts: tuple[Part, ...], changes: Changes) -> Any:
    """Returns the model, or the function for one, that the trainer is given."""
    if form != "function" or changes.is_loaded:
        return build(form, network, parts, changes)

    def function(inputs: Any) -> Any:
        made: Parts = {}
        outputs = network.outputs(inputs, new_layers(made))
        changes.adapt(made.values())
        return outputs

    return function
