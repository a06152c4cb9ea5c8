"""The network: a multi-hot layer, fully connected layers, and a head for the classes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from harness.config import ModelConfig
from harness.errors import InputError
from harness.model.dropout import HashDropout
from harness.model.halves import HalvesDense
from harness.model.layers import MultiHotDense
from harness.records import LayerInfo


@dataclass(frozen=True, kw_only=True)
class Network:
    """One set of weights, seen twice."""

    logits: keras.Model
    """Ends before the head's activation: training computes a stable loss from it."""
    probabilities: keras.Model
    """The whole network; [B, 1] (two classes) or [B, num_classes]. This one is saved."""


def build_network(
    config: ModelConfig,
    *,
    num_tokens: int,
    num_classes: int,
    implementation: str,
    unique: bool,
    dtype: str,
    seed: int,
    halves: bool = False,
) -> Network:
    """Builds the network; with the defaults, two classes and 10,000 ids it is the tutorial's:
    505,201 parameters.

    Args:
        config: sizes, rates and activation of the hidden layers.
        num_tokens: ids are below it.
        num_classes: two give one sigmoid output, more a softmax over them.
        implementation: of the multi-hot product.
        unique: whether every row that will be seen holds each id once.
        dtype: name of a Keras dtype policy, for every layer but the head.
        seed: of the initial weights and of dropout; each layer's own seed follows from it.
        halves: whether gradients are summed over both halves of a batch (`harness.model.halves`).

    Raises:
        InputError: when Keras has no activation of that name.
    """
    _check_activation(config.activation)
    inputs = {
        # Neither has rows as its first axis, but Keras wants a name for that axis.
        "values": keras.Input(batch_shape=(None,), dtype="int32", name="values"),
        "row_splits": keras.Input(batch_shape=(None,), dtype="int32", name="row_splits"),
    }

    def initializer(layer: int) -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(seed=1000 * seed + layer)

    x = MultiHotDense(
        config.hidden_units[0],
        num_tokens,
        implementation=implementation,
        unique=unique,
        halves=halves,
        activation=config.activation,
        kernel_initializer=initializer(0),
        dtype=dtype,
        name="multi_hot_dense",
    )(inputs)
    for layer, rate in enumerate(config.dropout):
        if layer > 0:
            x = HalvesDense(
                config.hidden_units[layer],
                halves=halves,
                activation=config.activation,
                kernel_initializer=initializer(layer),
                dtype=dtype,
                name=f"dense_{layer}",
            )(x)
        if rate > 0:
            x = HashDropout(
                rate, seed=1000 * seed + 500 + layer, dtype=dtype, name=f"dropout_{layer}"
            )(x)
    # The head stays float32: 16-bit logits would round the loss.
    logits = HalvesDense(
        1 if num_classes == 2 else num_classes,
        halves=halves,
        kernel_initializer=initializer(len(config.hidden_units)),
        dtype="float32",
        name="logits",
    )(x)
    head = "sigmoid" if num_classes == 2 else "softmax"
    probabilities = keras.layers.Activation(head, dtype="float32", name=head)(logits)
    return Network(
        logits=keras.Model(inputs, logits, name="multi_hot_logits"),
        probabilities=keras.Model(inputs, probabilities, name="multi_hot_network"),
    )


def _check_activation(name: str) -> None:
    try:
        keras.activations.get(name)(keras.KerasTensor((None, 2)))
    except (ValueError, TypeError) as error:  # no such name; one that takes arguments besides
        raise InputError(
            f"--activation is '{name}', which Keras does not have by that name alone; choose one "
            "of keras.activations, such as relu, gelu or tanh"
        ) from error


def layer_infos(model: keras.Model) -> tuple[LayerInfo, ...]:
    """The layers of a functional model and how they are connected, from the inputs on."""
    connections = {layer["name"]: layer["inbound_nodes"] for layer in model.get_config()["layers"]}
    return tuple(
        LayerInfo(
            name=layer.name,
            kind="Dense" if isinstance(layer, HalvesDense) else type(layer).__name__,
            inputs=tuple(_origins(connections[layer.name])),
            output_shape=tuple(layer.output.shape),
            dtype=layer.output.dtype,
            num_parameters=layer.count_params(),
        )
        for layer in model.layers
    )


def _origins(node: Any) -> Iterator[str]:
    """The layers that the tensors in a part of Keras's serialized form come from."""
    if isinstance(node, Mapping):
        if "keras_history" in node:
            yield node["keras_history"][0]
        else:
            for part in node.values():
                yield from _origins(part)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for part in node:
            yield from _origins(part)


def float32_twin(model: keras.Model) -> keras.Model:
    """The same layers computing in float32, without weights of its own: for `stateless_call` with
    those of `model`."""

    def twin(layer: keras.layers.Layer) -> keras.layers.Layer:
        dtype = layer.dtype if isinstance(layer, keras.layers.InputLayer) else "float32"
        return type(layer).from_config({**layer.get_config(), "dtype": dtype})

    # Variables made in this scope hold no values, and so take no memory.
    with keras.StatelessScope(initialize_variables=False):
        return keras.models.clone_model(model, clone_function=twin)


_KERAS: dict[Any, Any] = {HashDropout: keras.layers.Dropout, HalvesDense: keras.layers.Dense}
"""What a saved network holds in the place of layers that matter in training alone."""


def portable_copy(network: Network) -> keras.Model:
    """The same weights in a float32 network that any machine can load and any rows be given to:
    implementation `gather`, repeated ids handled. This is what `model.keras` holds."""

    def portable(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = {**layer.get_config()}
        if isinstance(layer, MultiHotDense):
            config |= {"implementation": "gather", "unique": False, "halves": False}
        if not isinstance(layer, keras.layers.InputLayer):
            config["dtype"] = "float32"
        if isinstance(layer, HalvesDense):
            del config["halves"]
        kind = next((kind for own, kind in _KERAS.items() if isinstance(layer, own)), type(layer))
        return kind.from_config(config)

    copy = keras.models.clone_model(network.probabilities, clone_function=portable)
    copy.set_weights(network.probabilities.get_weights())
    return copy
