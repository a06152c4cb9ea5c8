"""MultiHotDense with a weight for each id: as a layer, in files, and exported."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

import harness
from harness.data.vocabulary import Vocabulary
from harness.model.export import export_model
from harness.model.judge import Judge
from harness.model.layers import MultiHotDense
from tests.harness.model.test_layers import inputs_of, symbolic_inputs
from tests.harness.random_sets import random_sets
from tests.kernels.multi_hot import reference

VOCABULARY = Vocabulary(ids={"good": 3}, num_tokens=40)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_weights_stay_float32(policy: str) -> None:
    """A layer's inputs are cast to the compute type unless it says otherwise; 16 bits would round
    tf-idf."""
    sets = random_sets(np.random.default_rng(), rows=30, num_tokens=70, weighted=True)
    layer = MultiHotDense(9, 70, use_bias=False, dtype=policy)
    outputs = layer(inputs_of(sets))
    kernel = tf.cast(layer.kernel.value, layer.compute_dtype)
    truth = reference.multi_hot_dense(
        tf.cast(kernel, tf.float64).numpy(), sets.values, sets.row_splits, sets.weights
    )
    tolerance = 1e-5 if policy == "float32" else 2**-8
    np.testing.assert_allclose(tf.cast(outputs, tf.float64), truth, tolerance, 1e-5)


def test_a_model_of_weighted_ids_in_every_format(tmp_path: Path) -> None:
    inputs = symbolic_inputs(weights="float32")
    outputs = keras.layers.Dense(2)(MultiHotDense(5, 40, activation="tanh")(inputs))
    model = keras.Model(inputs, outputs)
    with pytest.raises(harness.InputError, match="gives ids no weights, but the model takes some"):
        Judge(model, VOCABULARY, "softmax")
    for padded in range(2):
        sets = random_sets(np.random.default_rng(), rows=8, num_tokens=40, weighted=True)
        arrays: dict[str, Any] = inputs_of(sets)
        if padded:  # garbage behind the last row
            arrays["values"] = np.append(arrays["values"], -7).astype(np.int32)
            arrays["weights"] = np.append(arrays["weights"], np.nan).astype(np.float32)
        expected = model(arrays).numpy()
        assert np.isfinite(expected).all()
        if not padded:
            export_model(model, tmp_path / "model.keras", format="keras")
            export_model(model, tmp_path / "served", format="saved_model", vocabulary=VOCABULARY)
            export_model(model, tmp_path / "model.onnx", format="onnx")
            again = harness.load_model(tmp_path / "model.keras")
            served = tf.saved_model.load(str(tmp_path / "served"))
            assert "serve_text" not in served.signatures  # a text has no weights
            session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        found = [
            again(arrays),
            served.serve({n: tf.constant(array) for n, array in arrays.items()})["outputs"],
            session.run(None, arrays)[0],
        ]
        for outputs in found:
            np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)
