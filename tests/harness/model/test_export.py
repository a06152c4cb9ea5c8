"""Exported models agree with the trainer, wherever they are loaded."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

import harness
from harness.data.vocabulary import Vocabulary
from harness.model.export import export_model
from harness.model.heads import head_of
from harness.model.network import DefaultNetwork
from harness.model.text import TextEncoder
from tests.harness.cli.test_disk_full import small_disk
from tests.harness.model.test_layers import symbolic_inputs

ROOT = Path(__file__).resolve().parents[3]
WORDS = ["the", "film", "was", "good", "bad", "été", "don't", "ας", "i̇"]
VOCABULARY = Vocabulary(
    ids={word: token for token, word in enumerate(WORDS, 3)},
    num_tokens=40,
    start_id=1,
    unknown_id=2,
    class_names=("no", "perhaps", "yes"),
)
TEXTS = ["The film was GOOD!", "", "  ÉTÉ, ΑΣ été; don't İ", "unknown words good good", "bad\tbad"]


def sets_of(texts: list[str], vocabulary: Vocabulary = VOCABULARY) -> harness.RaggedSets:
    rows, labels = vocabulary.encode_all(texts), np.arange(len(texts)) % 3
    return harness.RaggedSets.from_lists(
        rows, labels=labels, num_tokens=vocabulary.num_tokens, num_classes=3
    )


@pytest.fixture(scope="module")
def trainer() -> harness.Trainer:
    network = DefaultNetwork(num_tokens=40, num_classes=3, hidden_units=(8, 4), dropout=(0.3, 0))
    made = harness.Trainer(
        network,
        batch_size=5,
        implementation="gather",
        precision="float32",
        replicas=1,
        input="stream",
    )
    rows = sets_of(TEXTS)
    made.fit(rows, epochs=3, verbose=False, vocabulary=VOCABULARY)
    return made


def test_every_format_in_another_process(trainer: harness.Trainer, tmp_path: Path) -> None:
    trainer.export(tmp_path / "served")
    trainer.export(tmp_path / "model.onnx", format="onnx")
    trainer.export(tmp_path / "model.keras", format="keras")
    # TensorFlow Serving refuses functions that XLA is to compile.
    assert b"XlaSort" not in (tmp_path / "served" / "saved_model.pb").read_bytes()
    rows = sets_of(TEXTS)
    splits = rows.row_splits.astype(np.int32)
    np.savez(tmp_path / "rows.npz", values=rows.values, row_splits=splits)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    process = Path(__file__).with_name("exported_process.py")
    done = subprocess.run(
        [sys.executable, process, tmp_path],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = np.load(tmp_path / "said.npz")
    expected = trainer.predict(rows)
    for name in ("saved_model", "text_probabilities", "onnx", "keras"):
        np.testing.assert_allclose(said[name], expected, atol=1e-5, err_msg=name)
    assert said["text_label"].tolist() == [
        VOCABULARY.class_names[number] for number in expected.argmax(axis=1)
    ]
    assert said["text_classes"].tolist() == [list(VOCABULARY.class_names)] * len(TEXTS)
    assert said["onnx_classes"].tolist() == list(VOCABULARY.class_names)
    kept = tmp_path / "served" / "assets.extra" / "vocabulary.json"
    assert Vocabulary.load(kept).ids == VOCABULARY.ids


IDS = {"a": 0, "été": 1, "ab": 2, "a été": 3, "A": 4, "İ": 5, "b\x0bc": 6, "a b c": 7}
VOCABULARIES = [
    VOCABULARY,
    Vocabulary(ids=IDS, num_tokens=9, start_id=8, ngrams=3),
    Vocabulary(ids=IDS, num_tokens=9, unknown_id=8, tokenizer="whitespace", ngrams=2),
    Vocabulary(ids={**IDS, "!": 8}, num_tokens=10, unknown_id=9, tokenizer="punctuation"),
    Vocabulary(ids=IDS, num_tokens=9, unknown_id=8, tokenizer="scikit-learn", ngrams=2),
    Vocabulary(ids={}, num_tokens=1 << 20, hash_bits=20, tokenizer="whitespace", ngrams=2),
    Vocabulary(ids={}, num_tokens=1 << 20, hash_bits=20, tokenizer="characters", ngrams=3),
    Vocabulary(ids=IDS, num_tokens=9, unknown_id=8, weighting="count"),
    Vocabulary(ids=IDS, num_tokens=9, unknown_id=8, normalize="l2"),
    Vocabulary(
        ids=IDS, num_tokens=9, weighting="tf_idf", normalize="l2", idf=[0.1 * n for n in range(9)]
    ),
]
ENCODERS: list[tf.types.experimental.GenericFunction] = []


@hypothesis.settings(max_examples=20)
@hypothesis.given(
    st.text(st.characters(exclude_categories=["Cs", "Lu"]) | st.sampled_from("ΣİÉ! aΑ"))  # noqa: RUF001
)
@hypothesis.example("\0")
@hypothesis.example("A\0B c\0 \0D")
@hypothesis.example("A\u2019B \u00a0c\r\x0bd ΑΣ! ΑΣ'Α")  # noqa: RUF001
@hypothesis.example("a été AB ab A B C a b c b\x0bc\x1cd İ a\u3000été a_b 1 22")
def test_any_text_has_the_ids_of_the_vocabulary(text: str) -> None:
    texts = tf.TensorSpec([None], tf.string)
    ENCODERS[:] = ENCODERS or [
        tf.function(TextEncoder(vocabulary).__call__, input_signature=[texts])
        for vocabulary in VOCABULARIES
    ]
    for vocabulary, encoder in zip(VOCABULARIES, ENCODERS, strict=True):
        found = encoder(tf.constant(np.array([text.encode(), b"a b a"], object)))
        rows = [vocabulary.encode(text), vocabulary.encode("a b a")]
        np.testing.assert_array_equal(found["values"], np.concatenate(rows), str(vocabulary))
        if vocabulary.is_weighted:
            sets = harness.RaggedSets.from_lists(rows, num_tokens=vocabulary.num_tokens)
            given = sets.derived(weights=found["weights"].numpy()).unique()
            expected = vocabulary.weighted(sets)
            np.testing.assert_array_equal(given.values, expected.values)
            assert given.weights is not None
            np.testing.assert_allclose(given.weights, expected.weights, rtol=1e-6)


def test_a_regression_serves_its_outputs(trainer: harness.Trainer, tmp_path: Path) -> None:
    assert head_of(trainer.model, "regression") == "linear"
    served = tmp_path / "served"
    export_model(trainer.model, served, format="saved_model", vocabulary=VOCABULARY, head="linear")
    found = tf.saved_model.load(served).signatures["serve_text"](tf.constant(TEXTS))
    assert list(found) == ["outputs"]
    expected = trainer.predict(sets_of(TEXTS))
    np.testing.assert_allclose(found["outputs"], expected, rtol=1e-5)
    shutil.rmtree(served)
    with small_disk(tmp_path, 8 * resource.getpagesize()):
        with pytest.raises(OSError, match=f"No space left on device: '{served}'"):
            export_model(trainer.model, served, format="saved_model", vocabulary=None)
        assert not list(tmp_path.iterdir())


def test_several_outputs_keep_their_names(tmp_path: Path) -> None:
    inputs = symbolic_inputs()
    x = harness.MultiHotDense(3, 40)(inputs)
    model = keras.Model(inputs, {"a": keras.layers.Dense(1)(x), "b": keras.layers.Dense(2)(x)})
    export_model(model, tmp_path / "served", format="saved_model")
    serve = tf.saved_model.load(tmp_path / "served").signatures["serve"]
    found = serve(values=tf.constant([1, 2]), row_splits=tf.constant([0, 1, 2, 2]))
    assert {name: [*output.shape] for name, output in found.items()} == {"a": [3, 1], "b": [3, 2]}


@pytest.mark.parametrize(
    ("units", "activation", "kind", "head"),
    [
        *((units, None, None, head) for units, head in ((1, "sigmoid"), (3, "softmax"))),
        *((units, None, "auto", head) for units, head in ((1, "sigmoid"), (3, "softmax"))),
        *((3, None, kind, "softmax") for kind in ("multi_class", "multinomial")),
        *((3, None, "multi_label", "sigmoid"), (1, None, "binary", "sigmoid")),
        *((3, "sigmoid", None, "sigmoid"), (1, "softmax", None, "softmax")),
        (3, "softmax", "regression", "linear"),
    ],
)
def test_the_head_of_a_model(units: int, activation: Any, kind: str | None, head: str) -> None:
    inputs = keras.Input([2])
    model = keras.Model(inputs, keras.layers.Dense(units, activation=activation)(inputs))
    assert head_of(model, kind) == head


def test_activations_that_onnx_lacks(tmp_path: Path) -> None:
    def network(inputs: Any) -> Any:
        return keras.layers.Dense(3, "celu")(
            harness.MultiHotDense(4, 40, activation="gelu")(inputs)
        )

    made, rows, path = harness.Trainer(network, batch_size=5), sets_of(TEXTS), tmp_path / "m.onnx"
    expected = made.predict(rows)
    made.export(path, format="onnx")
    splits = rows.row_splits.astype(np.int32)
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {"values": rows.values, "row_splits": splits})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_model_that_onnx_cannot_express(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def network(inputs: Any) -> Any:
        return keras.ops.erfinv(keras.ops.tanh(harness.MultiHotDense(3, 40)(inputs)))

    made = harness.Trainer(network, batch_size=5)
    made.predict(sets_of(TEXTS))
    with pytest.raises(harness.InputError, match="computes by Erfinv, which ONNX files lack"):
        made.export(tmp_path / "m.onnx", format="onnx")
    monkeypatch.setattr(keras.Model, "count_params", lambda _: 2**29 - 2**18 + 1)
    with pytest.raises(
        harness.InputError, match=r"2,146,435,076 bytes .* 2,146,435,072 and 16,777,216:"
    ):
        made.export(tmp_path / "m.onnx", format="onnx")
    assert not list(tmp_path.iterdir())
