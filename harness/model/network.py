"""Builds a Keras model from a user's function or model, and the network of `harness train`."""

import contextlib
import itertools
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.random import seed_generator

from harness.base.checks import require
from harness.base.errors import InputError, own_words
from harness.base.memory import OutOfMemoryError
from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.model.budget import REMEDY, Budget, without_values
from harness.model.layers import HashDropout, MultiHotDense
from harness.model.options import ModelConfig

_BUILDING = threading.RLock()  # Held by the thread that builds a model
ModelFunction = Callable[[Any], Any]  # From a model's inputs, as Keras tensors, to its outputs


def build_model(
    model: ModelFunction | keras.Model,
    examples: Examples,
    *,
    dtype: str,
    device: str,
    seed: int,
    budget: Budget | None = None,
    scope: contextlib.AbstractContextManager[Any] | None = None,
) -> keras.Model:
    """Returns a Keras model for rows of the form of `examples`, to be called with the inputs of
    `model_inputs`: a function's layers are made here, in the policy `dtype` and with seeds from
    `seed` unless they have their own; a model is taken as it is. The default network is refused
    before its variables take memory that `budget` lacks; `Budget.require_rest` checks a user's
    model. `scope` is that of the strategy whose variables they are."""
    inputs = model_inputs(examples)
    # Keras knows the graph of a Sequential model only if its input is a single tensor.
    chain: Any = model if isinstance(model, keras.Sequential) and not model._functional else None
    if isinstance(model, keras.Model) and model.built and chain is None:
        check_takes_weights(model, examples)
        return model
    with tf.device(device), scope or contextlib.nullcontext(), _begun_anew(seed, dtype):
        # Its variables get no values before all of them are known to fit into memory.
        if isinstance(model, DefaultNetwork):
            with without_values() as variables:
                outputs = called(model, inputs, examples)
            (budget or Budget()).require_all(variables)
            for variable in variables:
                variable._deferred_initialize()
        else:
            # A user's function may read or assign values, so it gets them at once.
            outputs = inputs
            for part in [model] if chain is None else chain.layers:
                outputs = called(part, outputs, examples)
    if isinstance(model, keras.Model) and chain is None:
        return model
    usual = "multi_hot_network" if isinstance(model, DefaultNetwork) else "model"
    usual = getattr(model, "name", usual)
    made = keras.Model(inputs, outputs, name=getattr(model, "__name__", usual).strip("<>"))
    check_takes_weights(made, examples)
    return made


def called(model: Callable[[Any], Any], inputs: Any, examples: Examples) -> Any:
    try:
        with own_words():
            return model(inputs)
    except InputError:
        raise
    except tf.errors.ResourceExhaustedError as error:
        reason = str(error).partition(" [Op:")[0].rpartition("}} ")[2]
        raise OutOfMemoryError(f"the model does not fit into memory: {reason}; {REMEDY}") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        shown = keras.tree.map_structure(lambda part: f"{part.dtype} {list(part.shape)}", inputs)
        raise InputError(
            f"the model cannot be called with the inputs of {examples.name}, {shown}: {error}"
        ) from error


@contextlib.contextmanager
def _begun_anew(seed: int, dtype: str) -> Iterator[None]:
    """Makes Keras name layers, by which a run is resumed, and draw seeds as in a fresh process, and
    compute in the policy `dtype`."""
    names = ("object_name_uids", seed_generator.GLOBAL_SEED_GENERATOR, "dtype_policy")
    before = {name: global_state.get_global_attribute(name) for name in names}
    # Keras draws the seeds of layers that were given none from Python's generator, which all
    # threads share; the names above belong to the thread.
    with _BUILDING:
        chance = random.getstate()
        random.seed(seed)
        for name in names:
            global_state.set_global_attribute(name, None)
        try:
            keras.config.set_dtype_policy(dtype)
            yield
        finally:
            random.setstate(chance)
            for name in names:
                global_state.set_global_attribute(name, before[name])


def model_inputs(examples: Examples) -> dict[str, Any]:
    """Returns a model's inputs as Keras tensors, by name if there are several."""

    def of(name: str, part: Any) -> Any:
        if not isinstance(part, RaggedSets):
            return keras.Input(shape=part.shape[1:], dtype="float32", name=name)
        start = f"{name}_" if name else ""
        dtypes = {"values": "int32", "row_splits": "int32"}
        if part.weights is not None:
            dtypes["weights"] = "float32"
        # The first axis of these tensors is not that of rows, but Keras needs a batch shape.
        return {
            field: keras.Input(batch_shape=(None,), dtype=dtype, name=f"{start}{field}")
            for field, dtype in dtypes.items()
        }

    inputs = {name: of(name, part) for name, part in examples.inputs.items()}
    return inputs[""] if list(inputs) == [""] else inputs


def arrays_of(sets: RaggedSets) -> dict[str, Any]:
    """Returns rows as arrays for a model whose only input they are."""
    arrays = {"values": sets.values, "row_splits": sets.row_splits.astype(np.int32)}
    return arrays if sets.weights is None else {**arrays, "weights": sets.weights}


def require_weights(examples: Examples, name: str, *, wanted: bool, by: str) -> None:
    """Raises InputError unless an input's ids have weights exactly if `by`, a model, takes them."""
    has = examples.ragged[name].weights is not None
    where = f"the input {name!r} of {examples.name}" if name else examples.name
    have, takes, remedy = "weights", "ids without", "without weights"
    if wanted:
        have, takes = "no weights", "ids with weights"
        remedy = "with weights, as RaggedSets.from_scipy(X).with_weights() has them"
    require(
        has == wanted,
        f"the ids of {where} have {have}, but {by} takes {takes}; give rows {remedy}, or a model "
        "that is built for these",
    )


def check_takes_weights(model: keras.Model, examples: Examples) -> None:
    """Refuses weights that a functional model does not read: Keras would ignore them."""
    for name in examples.ragged:
        wanted = takes_weights(model, name)
        if wanted is not None:
            require_weights(examples, name, wanted=wanted, by=f"the model {model.name!r}")


def takes_weights(model: keras.Model, name: str = "") -> bool | None:
    """Returns whether a built model reads the weights of an input; None if Keras does not know."""
    graph = getattr(model, "_functional", None) or model  # a Sequential model's own
    taken = graph.input if is_functional(graph) else None
    own = taken.get(name) if name and isinstance(taken, Mapping) else taken
    if not isinstance(own, Mapping):
        return None
    return "weights" in own and bool(own["weights"]._keras_history.operation._outbound_nodes)


def is_functional(model: keras.Model) -> bool:
    return hasattr(model, "operations")


def named_outputs(outputs: Any, names: Sequence[str]) -> dict[str, Any]:
    """Returns a model's outputs: a mapping in the order of its names, or a sequence by `names`."""
    if isinstance(outputs, Mapping):
        return dict(sorted(outputs.items()))
    return dict(zip(names, outputs, strict=True))


def multi_hot_layers(model: keras.Model) -> list[MultiHotDense]:
    return [layer for layer in model._flatten_layers() if isinstance(layer, MultiHotDense)]


def computes_in_16_bits(model: keras.Model) -> bool:
    return any(layer.compute_dtype in ("bfloat16", "float16") for layer in model._flatten_layers())


def input_names(layer: MultiHotDense) -> set[str]:
    """Returns the names of the model's inputs that a layer reads; none in a subclassed model."""
    names = (str(t.name) for node in layer._inbound_nodes for t in node.input_tensors)
    found = (name.removesuffix("values") for name in names if name.endswith("values"))
    return {name.removesuffix("_") for name in found}


@dataclass(frozen=True, kw_only=True)
class DefaultNetwork(ModelConfig):
    """A network that starts with a multi-hot layer and ends with a sigmoid, with a softmax over
    more than two classes, one for each row, or for a regression with a linear layer. Its defaults
    make the tutorial's network, with 505,201 parameters for 10,000 ids and two classes."""

    num_tokens: int
    num_classes: int  # Number of classes; for a regression the number of targets of a row
    multi_label: bool = False  # Whether a row may have several classes, or none
    regression: bool = False
    seed: int = 0  # Seed of the initial weights and dropout, from which each layer's follows

    def __post_init__(self) -> None:
        super().__post_init__()
        name, units = self.activation, keras.KerasTensor((None, 2))
        message = (
            f"--activation is '{name}', which by that name alone is no activation of Keras that "
            "keeps the number of units; choose one of keras.activations, such as relu or gelu"
        )
        try:
            require(keras.activations.get(name)(units).shape == units.shape, message)
        except (ValueError, TypeError) as error:  # an unknown name, or one with other arguments
            raise InputError(message) from error

    def __call__(self, inputs: Any) -> Any:
        is_binary = self.num_classes == 2 and not (self.multi_label or self.regression)
        head = "sigmoid" if is_binary or self.multi_label else "softmax"
        num_outputs = 1 if is_binary else self.num_classes
        # The head stays float32: 16-bit logits would round the loss.
        own: dict[str, Any] = {"dtype": "float32", "name": "logits"}
        hidden: dict[str, Any] = {"activation": self.activation, "name": "multi_hot_dense"}
        x = MultiHotDense(
            num_outputs if self.is_linear else self.hidden_units[0],
            self.num_tokens,
            kernel_initializer=self._initializer(0),
            table_dtype=self.table_dtype,
            **(own if self.is_linear else hidden),
        )(inputs)
        for layer, rate in enumerate(self.dropout):
            if layer > 0:
                x = keras.layers.Dense(
                    self.hidden_units[layer],
                    activation=self.activation,
                    kernel_initializer=self._initializer(layer),
                    name=f"dense_{layer}",
                )(x)
            if rate > 0:
                dropout_seed = 1000 * self.seed + 500 + layer
                x = HashDropout(rate, seed=dropout_seed, name=f"dropout_{layer}")(x)
        if not self.is_linear:
            initializer = self._initializer(len(self.hidden_units))
            x = keras.layers.Dense(num_outputs, kernel_initializer=initializer, **own)(x)
        if self.regression:
            return x
        return keras.layers.Activation(head, dtype="float32", name=head)(x)

    def _initializer(self, layer: int) -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(seed=1000 * self.seed + layer)


def graph_of(model: keras.Model) -> bytes:
    """Returns a GraphDef for TensorBoard: a functional model's layers as nodes, with edges from the
    layers whose outputs they take; the layers of other models in order. TensorBoard's own
    conversion of a Keras model loses inputs by name and knows no mixed precision."""
    connections: dict[str, list[str]] = defaultdict(list)
    # Keras keeps the graph by depth; a subclassed model has none.
    for found in itertools.chain(*getattr(model, "_nodes_by_depth", {}).values()):
        connections[found.operation.name] += [
            tensor._keras_history.operation.name for tensor in found.input_tensors
        ]
    graph = tf.compat.v1.GraphDef()
    for layer in model.layers:
        before = [graph.node[-1].name] if graph.node else []
        inputs = connections[layer.name] if connections else before
        node = graph.node.add(name=layer.name, op=type(layer).__name__, input=inputs)
        output = getattr(layer, "output", None)  # a layer that is called twice has two
        tensor = output if isinstance(output, keras.KerasTensor) else None
        dtype = layer.compute_dtype if tensor is None else tensor.dtype
        node.attr["dtype"].type = tf.as_dtype(dtype).as_datatype_enum
        node.attr["parameters"].i = layer.count_params() if layer.built else 0
        shape = tf.TensorShape(() if tensor is None else tensor.shape).as_proto()
        node.attr["_output_shapes"].list.shape.append(shape)  # shown on the edges
    return bytes(graph.SerializeToString())
