"""Models from what a user gives, and the default network: its size, its seed, its twin."""

import itertools
import zlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.base.errors import InputError
from harness.data.examples import Examples
from harness.data.ragged import RaggedSets
from harness.model.layers import MultiHotDense
from harness.model.network import (
    DefaultNetwork,
    build_model,
    computes_in_16_bits,
    graph_of,
    input_names,
    is_functional,
    multi_hot_layers,
)
from harness.model.options import ModelConfig
from harness.model.variables import checksum_of, variables_by_name
from tests.harness.feed.rows import random_examples
from tests.harness.random_sets import random_sets


def network(*, dtype: str = "float32", seed: int = 0, **changes: Any) -> keras.Model:
    """Builds the default network in a small size."""
    small = {"hidden_units": (5, 4), "dropout": (0.0, 0.0), "num_tokens": 60, "num_classes": 2}
    arguments: dict[str, Any] = small | changes
    function = DefaultNetwork(**arguments, seed=seed)
    sets = random_sets(np.random.default_rng(), rows=3, num_tokens=arguments["num_tokens"])
    return built(function, Examples.of(sets), seed=seed, dtype=dtype)


def built(given: Any, examples: Examples, *, seed: int = 0, dtype: str = "float32") -> keras.Model:
    return build_model(given, examples, dtype=dtype, device="/CPU:0", seed=seed)


TINY = RaggedSets.from_lists([[1], [2, 3]], num_tokens=60)


def graph_nodes(model: keras.Model) -> Any:
    return tf.compat.v1.GraphDef.FromString(graph_of(model)).node


def inputs_of(sets: RaggedSets) -> dict[str, np.ndarray]:
    return {"values": sets.values, "row_splits": sets.row_splits.astype(np.int32)}


def test_a_linear_model_has_no_hidden_layer() -> None:
    model = network(hidden_units=(0,), dropout=(0.0,), num_classes=3, dtype="mixed_bfloat16")
    assert [w.shape for w in model.get_weights()] == [(60, 3), (3,)]
    assert model.get_layer("logits").dtype_policy.name == "float32"
    with pytest.raises(InputError, match="no hidden layer to drop units of"):
        network(hidden_units=(0,), dropout=(0.5,))
    heads = [network(num_classes=3, **{kind: True}) for kind in ("multi_label", "regression")]
    assert [model.layers[-1].name for model in heads] == ["sigmoid", "logits"]
    usual = built(DefaultNetwork(num_tokens=10_000, num_classes=2), Examples.of(TINY))
    assert usual.count_params() == 505_201, "the tutorial's"


def test_one_dropout_rate_holds_for_all_layers() -> None:
    assert ModelConfig(hidden_units=(8, 4), dropout=(0.5,)).dropout == (0.5, 0.5)
    assert ModelConfig(hidden_units=(8,)).dropout == (0.3,)
    assert ModelConfig(hidden_units=(8,) * 4).dropout == (0.3, 0.2, 0.0, 0.0)
    with pytest.raises(InputError, match=r"3 rates for 2 hidden layers \(64 32\); give one rate"):
        ModelConfig(hidden_units=(64, 32), dropout=(0.1, 0.2, 0.3))
    assert len(ModelConfig(hidden_units=(1,) * 1000).dropout) == 1000
    with pytest.raises(InputError, match=r"number of --hidden-units is 1,?001"):
        ModelConfig(hidden_units=(1,) * 1001)


def test_layers_and_dropout_have_seeds_of_their_own() -> None:
    model = network(hidden_units=(6, 6, 6), dropout=(0.5,) * 3, num_tokens=6, seed=9)
    kernels = [w for w in model.get_weights() if w.shape == (6, 6)]
    assert len(kernels) == 3
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(kernels, 2))
    seeds = [tuple(v.numpy()) for v in model.non_trainable_variables]
    assert len(seeds) == len(set(seeds)) == 3
    layers, parts = ("multi_hot_dense", "dense_1", "dense_2", "logits"), ("kernel", "bias")
    weights = [f"{layer}/{part}" for layer in layers for part in parts]
    dropouts = [f"dropout_{layer}/seed_generator_state/0" for layer in range(3)]
    assert [*variables_by_name(model)] == [*weights, *dropouts]
    bits = b"".join(w.value.numpy().tobytes() for w in model.trainable_variables)
    assert checksum_of(model) == zlib.crc32(bits)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_variables_and_outputs_stay_float32(dtype: str) -> None:
    model = network(dropout=(0.2, 0.2), dtype=dtype)
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    assert model.output.dtype == "float32"
    assert model.get_layer("multi_hot_dense").dtype_policy.name == dtype
    assert keras.config.dtype_policy().name == "float32", "as it was"
    assert computes_in_16_bits(model) == (dtype != "float32")


def of_three(inputs: Any) -> Any:
    """Computes a user's model of several inputs, which names its layers."""
    shared = MultiHotDense(4, 50, name="both")
    parts = [
        shared(inputs["words"]),
        MultiHotDense(3, 7, name="tagged")(inputs["tags"]),
        keras.layers.Dense(2)(inputs["numbers"]),
        shared(inputs["words"]),
    ]
    x = keras.layers.Dropout(0.5)(keras.layers.Concatenate()(parts))
    return keras.layers.Dense(1)(x)


class Subclassed(keras.Model):
    """A model of the user's own class."""

    def __init__(self) -> None:
        super().__init__()
        self.words = MultiHotDense(4, 50)
        self.head = keras.layers.Dense(1)

    def call(self, inputs: Any) -> Any:
        return self.head(self.words(inputs["words"]))


@pytest.fixture(scope="module")
def examples() -> Examples:
    return random_examples(np.random.default_rng(), rows=6)


def test_a_function_gets_each_input_by_its_name(examples: Examples) -> None:
    model = built(of_three, examples)
    assert model.name == "of_three"
    assert is_functional(model)
    assert model.count_params() == 50 * 4 + 4 + 7 * 3 + 3 + 3 * 2 + 2 + 13 + 1
    reads = {layer.name: input_names(layer) for layer in multi_hot_layers(model)}
    assert reads == {"both": {"words"}, "tagged": {"tags"}}
    assert [input_names(layer) for layer in multi_hot_layers(network())] == [{""}]
    nodes = graph_nodes(model)
    (both,) = [node for node in nodes if node.name == "both"]
    assert (both.op, {*both.input}) == ("MultiHotDense", {"words_values", "words_row_splits"})
    assert (both.attr["parameters"].i, both.attr["dtype"].type) == (50 * 4 + 4, tf.float32)
    assert both.attr["_output_shapes"].list.shape[0].dim[1].size == 4
    assert {node.name for node in nodes if not node.input} == {
        *("words_values", "words_row_splits", "tags_values", "tags_row_splits", "numbers")
    }


def test_a_functions_layers_without_seeds_get_those_of_the_run(examples: Examples) -> None:
    first, again, other = (built(of_three, examples, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(*(model.variables for model in (first, again, other)), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
        if a.name == "kernel" or "seed" in a.name:
            assert not np.array_equal(a.numpy(), c.numpy())


def test_a_model_is_taken_as_it_is(examples: Examples) -> None:
    subclassed = Subclassed()
    assert built(subclassed, examples) is subclassed
    assert subclassed.built
    before = subclassed.get_weights()
    assert built(subclassed, examples, seed=9) is subclassed
    for a, b in zip(before, subclassed.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not is_functional(subclassed)
    assert [input_names(layer) for layer in multi_hot_layers(subclassed)] == [set()]
    assert [node.op for node in graph_nodes(subclassed)] == ["MultiHotDense", "Dense"]


def test_a_sequential_model_of_ragged_sets_becomes_a_functional_one() -> None:
    sets = random_sets(np.random.default_rng(), rows=6)
    chain = keras.Sequential([MultiHotDense(4, 50), keras.layers.Dense(1)])
    model = built(chain, Examples.of(sets))
    assert is_functional(model)
    assert [input_names(layer) for layer in multi_hot_layers(model)] == [{""}]
    first, second = chain.layers
    np.testing.assert_array_equal(model(inputs_of(sets)), second(first(inputs_of(sets))))


def test_what_cannot_be_called_with_the_rows_is_told_with_their_inputs(examples: Examples) -> None:
    with pytest.raises(
        InputError, match=r"inputs of random, .*'words': .*'numbers': 'float32"
    ) as e:
        built(lambda inputs: inputs["items"], examples)
    assert "'items'" in str(e.value)
    with pytest.raises(InputError, match="takes a mapping of 'values' and 'row_splits'"):
        built(lambda inputs: MultiHotDense(3, 9)(inputs["numbers"]), examples)
