"""From what a user gives as a model to a Keras model; and the network of `harness train`."""

import contextlib
import itertools
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random import seed_generator

from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.model.budget import Budget, within_memory
from harness.model.dropout import HashDropout
from harness.model.layers import MultiHotDense, TableDtype
from harness.run.records import LayerInfo

ModelFunction = Callable[[Any], Any]
"""From a model's inputs, as Keras tensors, to its outputs."""


def build_model(
    model: ModelFunction | keras.Model,
    examples: Examples,
    *,
    dtype: str,
    device: str,
    seed: int,
    budget: Budget | None = None,
) -> keras.Model:
    """A Keras model for rows of this form, which is called with what `model_inputs` names.

    Args:
        model: a function, whose layers are made here; or a model, which is taken as it is, built
            or not.
        examples: whose inputs it takes.
        dtype: name of the Keras dtype policy of a function's layers.
        device: where its variables go.
        seed: of the layers that are made here without one of their own.
        budget: of the memory for its variables; None: host memory.

    Raises:
        InputError: when it cannot be called with those inputs, or its variables do not fit into
            memory.
    """
    inputs = model_inputs(examples)
    if isinstance(model, keras.Model) and model.built:
        check_takes_weights(model, examples)
        return model
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        with (
            tf.device(device),
            _begun_anew(seed),
            within_memory(budget, trained=getattr(model, "trains_all", False)),
        ):
            outputs = called(model, inputs, examples)
    finally:
        keras.config.set_dtype_policy(policy)
    if isinstance(model, keras.Model):
        return model
    _check_uses_weights(inputs, examples)
    name = getattr(model, "__name__", "model").strip("<>")
    return keras.Model(inputs, outputs, name=name)


def called(model: Callable[[Any], Any], inputs: Any, examples: Examples) -> Any:
    """What a model, or a method of it, makes of what `model_inputs` names.

    Raises:
        InputError: when it cannot be called with them.
    """
    try:
        return model(inputs)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(
            f"the model cannot be called with the inputs of {examples.name}, "
            f"{described_inputs(inputs)}: {error}"
        ) from error


_chance: ContextVar[Any] = ContextVar("chance", default=random)


class _Chance:
    """Where Keras draws a seed for what is made without one: the module `random`, but inside of
    `_begun_anew` a generator of this thread's own, which no other can disturb."""

    def randint(self, low: int, high: int) -> int:
        return int(_chance.get().randint(low, high))


assert seed_generator.python_random is random, "Keras draws its seeds in another way"
seed_generator.python_random = _Chance()


@contextlib.contextmanager
def _begun_anew(seed: int) -> Iterator[None]:
    """Layers without names of their own are numbered as in a fresh process, since a run is resumed
    by the names of its variables; and Keras draws as in one that was seeded."""
    names = ("object_name_uids", seed_generator.GLOBAL_SEED_GENERATOR)
    before = {name: global_state.get_global_attribute(name) for name in names}
    for name in names:
        global_state.set_global_attribute(name, None)
    token = _chance.set(random.Random(seed))
    try:
        yield
    finally:
        _chance.reset(token)
        for name in names:
            global_state.set_global_attribute(name, before[name])


def model_inputs(examples: Examples) -> dict[str, Any]:
    """What a model is called with, as Keras tensors: of ragged sets `values` and `row_splits`, and
    `weights` where their ids have some; of numbers float32 [rows, features]; by name where there
    are several inputs."""

    def of(name: str, part: Any) -> Any:
        if not isinstance(part, RaggedSets):
            return keras.Input(shape=part.shape[1:], dtype="float32", name=name)
        start = f"{name}_" if name else ""
        dtypes = {"values": "int32", "row_splits": "int32"}
        if part.weights is not None:
            dtypes["weights"] = "float32"
        # None has rows as its first axis, but Keras wants a name for that axis.
        return {
            field: keras.Input(batch_shape=(None,), dtype=dtype, name=f"{start}{field}")
            for field, dtype in dtypes.items()
        }

    inputs = {name: of(name, part) for name, part in examples.inputs.items()}
    return inputs[""] if list(inputs) == [""] else inputs


def weighted_inputs(examples: Examples) -> frozenset[str]:
    """The names of the ragged inputs whose ids have weights."""
    return frozenset(n for n, sets in examples.ragged.items() if sets.weights is not None)


def require_weights(examples: Examples, name: str, *, wanted: bool, by: str) -> None:
    """Raises InputError unless the ids of an input have weights exactly where they are wanted.

    Args:
        examples: of any inputs.
        name: of the input.
        wanted: whether its ids should have weights.
        by: what the rows are for, as in "the model m".
    """
    has = examples.ragged[name].weights is not None
    if has == wanted:
        return
    where = f"the input {name!r} of {examples.name}" if name else examples.name
    have, takes = ("weights", "ids without") if has else ("no weights", "ids with weights")
    remedy = (
        "give rows without weights" if has else "give rows with weights, as with_weights() has them"
    )
    raise InputError(
        f"the ids of {where} have {have}, but {by} takes {takes}; {remedy}, or a model that is "
        "built for these"
    )


def check_takes_weights(model: keras.Model, examples: Examples) -> None:
    """Raises InputError when a functional model has an input for weights and the rows have none, or
    the other way round: Keras would leave out what it does not know."""
    for name in examples.ragged:
        wanted = takes_weights(model, name)
        if wanted is not None:
            require_weights(examples, name, wanted=wanted, by=f"the model {model.name!r}")


def takes_weights(model: keras.Model, name: str = "") -> bool | None:
    """Whether a model that is built has an input for the weights of the ragged input `name`; None
    where Keras does not know, as in a subclassed model."""
    graph = getattr(model, "_functional", None) or model  # a Sequential model's own
    taken = graph.input if is_functional(graph) else None
    own = taken.get(name) if name and isinstance(taken, Mapping) else taken
    return "weights" in own if isinstance(own, Mapping) else None


def _check_uses_weights(inputs: Mapping[str, Any], examples: Examples) -> None:
    """Raises InputError when no layer reads the weights of an input."""
    for name in weighted_inputs(examples):
        tensor = (inputs[name] if name else inputs)["weights"]
        if not tensor._keras_history.operation._outbound_nodes:
            require_weights(examples, name, wanted=False, by="the function that builds the model")


def described_inputs(inputs: Any) -> str:
    """Their names, for messages."""
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{n!r}: {described_inputs(i)}" for n, i in inputs.items()) + "}"
    return f"{inputs.dtype} {list(inputs.shape)}"


def is_functional(model: keras.Model) -> bool:
    """Whether a model is a graph of layers that Keras knows."""
    return hasattr(model, "operations")


def multi_hot_layers(model: keras.Model) -> list[MultiHotDense]:
    """Those at any depth."""
    return [layer for layer in model._flatten_layers() if isinstance(layer, MultiHotDense)]


def computes_in_16_bits(model: keras.Model) -> bool:
    """Whether any of its layers does, at any depth."""
    return any(layer.compute_dtype in ("bfloat16", "float16") for layer in model._flatten_layers())


def input_names(layer: MultiHotDense) -> set[str]:
    """The names of the model's inputs that a layer reads; none where Keras does not know, as in a
    subclassed model."""
    names = (str(t.name) for node in layer._inbound_nodes for t in node.input_tensors)
    found = (name.removesuffix("values") for name in names if name.endswith("values"))
    return {name.removesuffix("_") for name in found}


def default_network(
    *,
    hidden_units: Sequence[int] = (50, 50, 50),
    dropout: Sequence[float] = (0.3, 0.2, 0.0),
    activation: str = "relu",
    table_dtype: TableDtype = "float32",
    num_tokens: int,
    num_classes: int,
    multi_label: bool = False,
    seed: int = 0,
) -> ModelFunction:
    """A multi-hot layer, fully connected layers, and a sigmoid for two classes or a softmax for
    more; with the defaults, 10,000 ids and two classes it is the tutorial's: 505,201 parameters.

    Args:
        hidden_units: of each hidden layer; the first is the multi-hot layer.
        dropout: a rate after each hidden layer.
        activation: of the hidden layers, by Keras's name.
        table_dtype: of `MultiHotDense`.
        num_tokens: ids are below it.
        num_classes: of the labels.
        multi_label: whether a row may have several classes, or none.
        seed: of the initial weights and of dropout; each layer's own seed follows from it.

    Raises:
        InputError: when Keras has no activation of that name.
    """
    _check_activation(activation)
    is_binary = num_classes == 2 and not multi_label
    head = "sigmoid" if is_binary or multi_label else "softmax"

    def initializer(layer: int) -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(seed=1000 * seed + layer)

    def multi_hot_network(inputs: Any) -> Any:
        x = MultiHotDense(
            hidden_units[0],
            num_tokens,
            activation=activation,
            kernel_initializer=initializer(0),
            table_dtype=table_dtype,
            name="multi_hot_dense",
        )(inputs)
        for layer, rate in enumerate(dropout):
            if layer > 0:
                x = keras.layers.Dense(
                    hidden_units[layer],
                    activation=activation,
                    kernel_initializer=initializer(layer),
                    name=f"dense_{layer}",
                )(x)
            if rate > 0:
                dropout_seed = 1000 * seed + 500 + layer
                x = HashDropout(rate, seed=dropout_seed, name=f"dropout_{layer}")(x)
        # The head stays float32: 16-bit logits would round the loss.
        logits = keras.layers.Dense(
            1 if is_binary else num_classes,
            kernel_initializer=initializer(len(hidden_units)),
            dtype="float32",
            name="logits",
        )(x)
        return keras.layers.Activation(head, dtype="float32", name=head)(logits)

    multi_hot_network.__dict__["trains_all"] = True  # no layer is frozen: see `build_model`
    return multi_hot_network


def _check_activation(name: str) -> None:
    try:
        keras.activations.get(name)(keras.KerasTensor((None, 2)))
    except (ValueError, TypeError) as error:  # no such name; one that takes arguments besides
        raise InputError(
            f"--activation is '{name}', which Keras does not have by that name alone; choose one "
            "of keras.activations, such as relu, gelu or tanh"
        ) from error


def layer_infos(model: keras.Model) -> tuple[LayerInfo, ...]:
    """The layers of a functional model and how they are connected, from the inputs on; the layers
    of any other one after another."""
    connections: dict[str, list[str]] = defaultdict(list)
    for node in itertools.chain(*getattr(model, "_nodes_by_depth", {}).values()):
        connections[node.operation.name] += [
            tensor._keras_history.operation.name for tensor in node.input_tensors
        ]
    infos: list[LayerInfo] = []
    for layer in model.layers:
        before = (infos[-1].name,) if infos else ()
        output = None
        with contextlib.suppress(AttributeError):  # a layer that is called twice has two
            output = layer.output
        tensor = output if isinstance(output, keras.KerasTensor) else None
        infos.append(
            LayerInfo(
                name=layer.name,
                kind=type(layer).__name__,
                inputs=tuple(connections[layer.name]) if connections else before,
                output_shape=() if tensor is None else tuple(tensor.shape),
                dtype=layer.compute_dtype if tensor is None else tensor.dtype,
                num_parameters=layer.count_params() if layer.built else 0,
            )
        )
    return tuple(infos)


def float32_twin(model: keras.Model) -> keras.Model:
    """The same layers of a functional model computing in float32, without weights of their own:
    for `State.call` with those of `model`."""

    def twin(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):  # an operator such as `*`, without a dtype
            return layer
        dtype = layer.dtype if isinstance(layer, keras.layers.InputLayer) else "float32"
        return type(layer).from_config({**layer.get_config(), "dtype": dtype})

    # Variables made in this scope hold no values, and so take no memory.
    with keras.StatelessScope(initialize_variables=False):
        return keras.models.clone_model(model, clone_function=twin)
