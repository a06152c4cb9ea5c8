"""MultiHotDense against the NumPy reference, and as a Keras layer: types, configuration, files."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from harness.data.ragged import RaggedSets
from harness.feed.batch import RaggedInput
from harness.model.layers import CallContext, MultiHotDense, calling
from tests.harness.random_sets import random_sets
from tests.kernels.multi_hot import reference

IMPLEMENTATIONS = ["dense", "gather"]


def inputs_of(sets: RaggedSets, *, padding: int = 0) -> dict[str, np.ndarray]:
    values = np.concatenate([sets.values, np.full(padding, 1, np.int32)])
    weights = {} if sets.weights is None else {"weights": sets.weights}
    return {"values": values, "row_splits": sets.row_splits.astype(np.int32), **weights}


def symbolic_inputs(**dtypes: str) -> dict[str, keras.KerasTensor]:
    dtypes = {"values": "int32", "row_splits": "int32"} | dtypes
    return {
        name: keras.Input(batch_shape=(None,), dtype=dtypes[name], name=name) for name in dtypes
    }


def randomize(layer: keras.layers.Layer) -> None:
    rng = np.random.default_rng()
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])


def rowids_of(sets: RaggedSets, padding: int) -> np.ndarray:
    return np.repeat(np.arange(sets.num_rows + 1), [*sets.lengths, padding])


def within(
    model: Any,
    implementation: str,
    arrays: dict[str, np.ndarray],
    rowids: np.ndarray | None = None,
    *,
    unique: bool = False,
    export: bool = False,
) -> tf.Tensor:
    """Calls a layer or model, compiled, in the context of a trainer."""

    @tf.function(jit_compile=True, autograph=False)
    def call(inputs: dict[str, tf.Tensor], rowids: tf.Tensor | None) -> tf.Tensor:
        ragged = RaggedInput(**inputs, value_rowids=rowids, unique=unique)
        context = CallContext(
            implementation=implementation, inputs=[(inputs, ragged)], export=export
        )
        with calling(context):
            return model(inputs)

    inputs = {name: tf.constant(array) for name, array in arrays.items()}
    return call(inputs, None if rowids is None else tf.constant(rowids, tf.uint16))


class Subclassed(keras.Model):
    """A model of the user's own, with a layer inside of another."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__()
        self.inner = keras.Sequential([layer])

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs)


@pytest.mark.parametrize("kind", ["layer", "functional", "subclassed"])
def test_what_a_trainer_knows_reaches_the_layer_in_any_model(kind: str) -> None:
    """A row whose ids are claimed to be unique counts two equal ids twice; a wrong row is
    believed."""
    layer = MultiHotDense(1, 10, use_bias=False)
    arrays = {"values": np.array([3, 3], np.int32), "row_splits": np.array([0, 2, 2], np.int32)}
    if kind == "functional":
        inputs = symbolic_inputs()
        model = keras.Model(inputs, layer(inputs))
    else:
        model = layer if kind == "layer" else Subclassed(layer)
        model(arrays)
    layer.set_weights([np.full([10, 1], 2.0)])
    for expected, given in [
        ([2, 0], {}),
        ([4, 0], {"unique": True}),
        ([0, 2], {"rowids": np.array([1, 1])}),
    ]:
        outputs = within(model, "gather", arrays, **given)
        np.testing.assert_array_equal(outputs[:, 0], expected, err_msg=str(given))


def test_what_a_trainer_knows_of_ids_does_not_hold_for_others_in_their_place() -> None:
    inputs = symbolic_inputs()
    halved = {"values": inputs["values"] // 2, "row_splits": inputs["row_splits"]}
    model = keras.Model(inputs, MultiHotDense(3, 4)(halved))
    arrays = {"values": np.array([0, 1, 6], "i4"), "row_splits": np.array([0, 3], "i4")}
    kernel, bias = model.get_weights()
    outputs = within(model, "gather", arrays, unique=True)
    np.testing.assert_allclose(outputs, (kernel[0] + kernel[3] + bias)[None], rtol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("policy", "compute"), [("mixed_float16", tf.float16), ("mixed_bfloat16", tf.bfloat16)]
)
def test_16_bit_policies_spare_the_ids(implementation: str, policy: str, compute: tf.DType) -> None:
    # float16 has no 2,049 and bfloat16 no 257: rounded ids would pick a neighbour's row.
    num_tokens = 9_000
    layer = MultiHotDense(1, num_tokens, implementation=implementation, dtype=policy)
    layer.build(None)
    kernel = (np.arange(num_tokens) % 128)[:, None]  # neighbours differ; exact in both types
    layer.set_weights([kernel, np.zeros(1)])
    ids = np.array([257, 2_049, 2_051, 4_097, 8_999], np.int32)
    inputs = symbolic_inputs()
    model = keras.Model(inputs, layer(inputs))
    arrays = {"values": ids, "row_splits": np.arange(len(ids) + 1, dtype=np.int32)}
    for outputs in (layer(arrays), model(arrays)):
        assert outputs.dtype == compute
        np.testing.assert_array_equal(tf.cast(outputs, tf.float32)[:, 0], ids % 128)
    assert [weight.dtype for weight in layer.weights] == ["float32", "float32"]


@pytest.mark.parametrize("name", ["values", "row_splits"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_refuses_floats(name: str, dtype: str) -> None:
    lists = {"values": [1, 2], "row_splits": [0, 2]}
    arrays = {given: np.array(numbers, np.int32) for given, numbers in lists.items()}
    with pytest.raises(ValueError, match=f"{name} of type {dtype}"):
        MultiHotDense(3, 10)(arrays | {name: arrays[name].astype(dtype)})
    with pytest.raises(ValueError, match=f"{name} of type {dtype}"):
        MultiHotDense(3, 10)(symbolic_inputs(**{name: dtype}))


@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_it_is_dense_over_the_multi_hot_matrix(implementation: str, dtype: str) -> None:
    """Outputs, added losses, gradients and constraints, for every option that both have."""
    sets = random_sets(np.random.default_rng(), rows=12, num_tokens=20)
    matrix = reference.multi_hot(sets.values, sets.row_splits, num_tokens=20)
    options: dict[str, Any] = {
        "activation": "tanh",
        "kernel_regularizer": "l2",
        "bias_regularizer": keras.regularizers.L1(0.3),
        "activity_regularizer": keras.regularizers.L2(0.2),
        "kernel_constraint": keras.constraints.UnitNorm(),
        "bias_constraint": "non_neg",
        "dtype": dtype,
    }
    ours = MultiHotDense(3, 20, implementation=implementation, **options)
    ours = MultiHotDense.from_config(ours.get_config())
    theirs = keras.layers.Dense(3, **options)
    ours.build(None)
    theirs.build((None, 20))
    randomize(ours)
    theirs.set_weights(ours.get_weights())

    def stepped(layer: Any, inputs: Any) -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            outputs = layer(inputs)
            loss = tf.reduce_sum(tf.cast(outputs, layer.variable_dtype) ** 2)
            loss += tf.add_n([tf.cast(added, loss.dtype) for added in layer.losses])
        variables = layer.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        keras.optimizers.SGD(0.1).apply_gradients(zip(gradients, variables, strict=True))
        assert outputs.dtype == layer.compute_dtype
        return [np.float64(part) for part in (outputs, loss, *gradients, *layer.get_weights())]

    tolerance = {"float32": 1e-5, "float64": 1e-13}.get(dtype, 0.03)
    ours_found, expected = stepped(ours, inputs_of(sets)), stepped(theirs, matrix)
    for found, wanted in zip(ours_found, expected, strict=True):
        np.testing.assert_allclose(found, wanted, tolerance, tolerance * np.abs(wanted).max())
    assert [w.dtype for w in ours.weights] == [w.dtype for w in theirs.weights]


@pytest.mark.parametrize("options", [{"implementation": "native"}, {"table_dtype": "float32"}])
def test_refuses_float64_where_it_cannot_be_had(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"in float64.*choose gather or dense, .*out"):
        MultiHotDense(3, 10, dtype="float64", **options)


@pytest.mark.parametrize(
    "activation", [keras.layers.LeakyReLU, lambda: keras.layers.LeakyReLU(dtype="float16"), str]
)
def test_the_type_of_the_output_is_known_before(activation: Any) -> None:
    layer = MultiHotDense(3, 10, activation=activation() or None, dtype="mixed_float16")
    inputs = symbolic_inputs()
    model = keras.Model(inputs, layer(inputs))
    arrays = {"values": np.array([4], "i4"), "row_splits": np.array([0, 1], "i4")}
    assert model.output.dtype == model(arrays).dtype


def test_calls_are_recorded_only_where_that_pays() -> None:
    layer, none = MultiHotDense(3, 10), {"values": np.zeros(0), "row_splits": np.zeros(1)}
    layer.build(None)
    context = CallContext(implementation="gather", inputs=[], watch=lambda _: None)
    assert not context.records(layer, none)
    context.pays = lambda own, inputs: own is layer and inputs is none
    assert context.records(layer, none)


def test_inputs_with_an_axis_of_rows_are_refused() -> None:
    inputs = {
        name: keras.Input(shape=(None,), dtype="int32", name=name)
        for name in ("values", "row_splits")
    }
    with pytest.raises(
        ValueError, match=r"\(None, None\); it takes one axis.*Input\(shape=\(\), d"
    ):
        MultiHotDense(3, 10)(inputs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_float16"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (keras.initializers.GlorotUniform, {"seed": 5}),
        (keras.initializers.HeNormal, {"seed": -1}),
        (
            keras.initializers.VarianceScaling,
            {"mode": "fan_out", "distribution": "untruncated_normal", "seed": 1},
        ),
        (keras.initializers.RandomUniform, {"seed": 2**32}),
        (keras.initializers.Constant, {"value": 0.5}),
    ],
)
def test_a_large_table_has_the_numbers_of_keras(
    kind: type, options: dict[str, Any], dtype: str
) -> None:
    ours = MultiHotDense(210, 20_001, kernel_initializer=kind(**options), dtype=dtype)
    theirs = keras.layers.Dense(210, kernel_initializer=kind(**options), dtype=dtype)
    for layer in (ours, theirs):
        layer.build((None, 20_001))
    np.testing.assert_array_equal(ours.kernel.numpy(), theirs.kernel.numpy())
    again = MultiHotDense.from_config(ours.get_config()).kernel_initializer
    assert again.get_config() == kind(**options).get_config()


def test_a_seed_that_the_user_holds_moves_on_as_in_keras() -> None:
    seed = keras.random.SeedGenerator(7)
    layer = MultiHotDense(
        210, 20_001, kernel_initializer=keras.initializers.RandomNormal(seed=seed)
    )
    layer.build(None)
    expected = keras.initializers.RandomNormal(seed=keras.random.SeedGenerator(7))((20_001, 210))
    np.testing.assert_array_equal(layer.kernel.numpy(), expected)
    assert seed.state.numpy().tolist() == [7, 1]
