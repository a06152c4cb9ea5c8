"""The network: its size, its configuration, its seed, and the copy that is saved."""

import itertools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from harness.config import ModelConfig
from harness.data.ragged import RaggedSets
from harness.model.network import Network, build_network, layer_infos, portable_copy
from tests.harness.random_sets import random_sets


def network(config: ModelConfig | None = None, **changes: Any) -> Network:
    arguments: dict[str, Any] = {
        "num_tokens": 60,
        "num_classes": 2,
        "implementation": "gather",
        "unique": False,
        "dtype": "float32",
        "seed": 0,
    }
    return build_network(
        config or ModelConfig(hidden_units=(5, 4), dropout=(0.0,)), **(arguments | changes)
    )


def inputs_of(sets: RaggedSets) -> dict[str, np.ndarray]:
    return {"values": sets.values, "row_splits": sets.row_splits.astype(np.int32)}


def test_default_is_the_tutorials() -> None:
    built = network(ModelConfig(), num_tokens=10_000)
    assert built.probabilities.count_params() == 505_201
    rates = [x.rate for x in built.logits.layers if isinstance(x, keras.layers.Dropout)]
    assert rates == [0.3, 0.2]
    assert built.probabilities.layers[-1].activation is keras.activations.sigmoid


def test_sizes_rates_and_activation_are_configurable() -> None:
    config = ModelConfig(hidden_units=(7, 3), dropout=(0.0, 0.25), activation="tanh")
    built = network(config, num_classes=4)
    kernels = [w.shape for w in built.logits.get_weights() if w.ndim == 2]
    assert kernels == [(60, 7), (7, 3), (3, 4)]
    (dropout,) = (x for x in built.logits.layers if isinstance(x, keras.layers.Dropout))
    assert (dropout.name, dropout.rate) == ("dropout_1", 0.25)
    activations = [built.logits.get_layer(n).activation for n in ("multi_hot_dense", "dense_1")]
    assert activations == [keras.activations.tanh] * 2


@pytest.mark.parametrize(("num_classes", "width"), [(2, 1), (3, 3), (7, 7)])
def test_head_follows_the_classes(num_classes: int, width: int) -> None:
    built = network(num_classes=num_classes)
    inputs = inputs_of(random_sets(np.random.default_rng(), rows=9, num_tokens=60))
    logits = np.array(built.logits(inputs), np.float64)
    probabilities = np.array(built.probabilities(inputs))
    assert probabilities.shape == (9, width)
    if num_classes == 2:
        truth = 1 / (1 + np.exp(-logits))
    else:
        truth = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, truth, rtol=1e-5)


def test_same_seed_same_weights() -> None:
    first, again, other = (network(seed=seed).logits.get_weights() for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    kernels = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim == 2]
    assert not any(np.array_equal(a, b) for a, b in kernels)


def test_layers_and_dropout_have_seeds_of_their_own() -> None:
    built = network(
        ModelConfig(hidden_units=(6, 6, 6), dropout=(0.5,)), num_tokens=6, seed=2**31 - 1
    )
    kernels = [w for w in built.logits.get_weights() if w.shape == (6, 6)]
    assert len(kernels) == 3
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(kernels, 2))
    seeds = [tuple(v.numpy()) for v in built.logits.non_trainable_variables]
    assert len(seeds) == len(set(seeds)) == 3


def test_both_views_share_the_weights() -> None:
    built = network()
    pairs = zip(built.logits.variables, built.probabilities.variables, strict=True)
    assert all(a is b for a, b in pairs)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_variables_and_logits_stay_float32(dtype: str) -> None:
    built = network(ModelConfig(hidden_units=(5, 4), dropout=(0.2,)), dtype=dtype)
    assert {v.dtype for v in built.logits.trainable_variables} == {"float32"}
    assert built.logits.output.dtype == "float32"
    assert built.logits.get_layer("multi_hot_dense").dtype_policy.name == dtype


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_portable_copy_runs_anywhere_on_any_rows(
    tmp_path: Path, num_classes: int, dtype: str
) -> None:
    config = ModelConfig(hidden_units=(5, 4), dropout=(0.3, 0.1))
    arguments: dict[str, Any] = {"num_classes": num_classes, "seed": 5}
    built = network(config, implementation="dense", unique=True, dtype=dtype, **arguments)
    copy = portable_copy(built)
    layer = copy.get_layer("multi_hot_dense")
    assert (layer.implementation, layer.unique) == ("gather", False)
    assert {x.dtype_policy.name for x in copy.layers if x.weights} == {"float32"}
    # The seeds of dropout are no part of what is compared: weights alone.
    for a, b in zip(copy.get_weights(), built.probabilities.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    repeated = random_sets(np.random.default_rng(), rows=20, num_tokens=60, longest=90)
    assert repeated.unique().nnz < repeated.nnz
    truth = network(config, unique=True, **arguments)
    truth.probabilities.set_weights(built.probabilities.get_weights())
    expected = np.array(truth.probabilities(inputs_of(repeated.unique())))
    copy.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for model in (copy, loaded):
        outputs = np.array(model(inputs_of(repeated)))
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


def test_portable_copy_shares_nothing() -> None:
    built = network()
    copy = portable_copy(built)
    before = [w.copy() for w in built.probabilities.get_weights()]
    copy.set_weights([w + 1 for w in copy.get_weights()])
    for a, b in zip(before, built.probabilities.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_layer_infos_say_how_the_layers_are_connected() -> None:
    config = ModelConfig(hidden_units=(5, 4), dropout=(0.3, 0.0))
    infos = layer_infos(network(config, num_classes=3, dtype="mixed_bfloat16").probabilities)
    assert [(i.name, i.inputs, i.output_shape, i.dtype, i.num_parameters) for i in infos[2:]] == [
        ("multi_hot_dense", ("values", "row_splits"), (None, 5), "bfloat16", 60 * 5 + 5),
        ("dropout_0", ("multi_hot_dense",), (None, 5), "bfloat16", 0),
        ("dense_1", ("dropout_0",), (None, 4), "bfloat16", 5 * 4 + 4),
        ("logits", ("dense_1",), (None, 3), "float32", 4 * 3 + 3),
        ("softmax", ("logits",), (None, 3), "float32", 0),
    ]
    assert {(i.name, i.kind, i.inputs, i.dtype) for i in infos[:2]} == {
        (name, "InputLayer", (), "int32") for name in ("values", "row_splits")
    }
    assert [i.kind for i in infos[2:4]] == ["MultiHotDense", "HashDropout"]
