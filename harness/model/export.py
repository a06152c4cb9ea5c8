"""Exports models for other programs: as a SavedModel, an ONNX file, or in Keras's own format."""

import errno
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import tensorflow as tf
from keras.src.export.export_utils import get_input_signature

from harness.base.checks import require, require_choice, require_extra
from harness.base.files import json_text
from harness.data.vocabulary import FILE_NAME as VOCABULARY_FILE_NAME
from harness.data.vocabulary import Vocabulary
from harness.model.heads import Head, logits_of
from harness.model.layers import anywhere, calling
from harness.model.network import multi_hot_layers, named_outputs
from harness.model.text import TextEncoder
from kernels.files import replacing

Format = Literal["saved_model", "onnx", "keras"]

_EXTRA = "assets.extra"  # The folder of a SavedModel for files of a user's own
_OUTPUTS = "outputs"  # The name of what a model gives
_OPSET = 18
_MOST_ONNX_TOKENS = 2**24  # ONNX Runtime sorts ids as float32, exact up to this
_MOST_ONNX_BYTES = 2**31 - 2**20  # of weights: a file is one message of protocol buffers


def export_model(
    model: keras.Model,
    path: str | Path,
    *,
    format: Format,
    vocabulary: Vocabulary | None = None,
    head: Head = "sigmoid",
    from_logits: bool | None = None,
) -> None:
    """Writes a model for other programs, whole or not at all. A SavedModel has the signature
    `serve` from ids to the model's `outputs`, and with a vocabulary `serve_text` from texts to
    probabilities (of a regression, `outputs`), beside `assets.extra/vocabulary.json`; an ONNX file
    holds its classes and thresholds. `head` is the activation that makes probabilities of
    logits; for `from_logits` see `logits_of`."""
    path = Path(path)
    require_choice("format", format, get_args(Format))
    # Another program may be serving what is there.
    is_free = not path.exists() and not path.is_symlink()
    require(is_free, f"{path} exists already; name another path, or remove it first")
    fits = format != "keras" or path.suffix == ".keras"
    require(fits, f"{path} does not end in .keras, by which Keras knows its files; name one")
    if format == "onnx":
        _check_onnx(model)
    if vocabulary is not None:
        check_vocabulary(vocabulary, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        if format == "keras":
            model.save(beside)
        elif format == "onnx":
            _write_onnx(model, beside)
            _finish_onnx(beside, vocabulary)
        else:
            try:
                _write_saved_model(model, beside, vocabulary, head, from_logits)
            except tf.errors.ResourceExhaustedError as error:  # its error for a full disk
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def check_vocabulary(vocabulary: Vocabulary, model: keras.Model) -> None:
    known = max((layer.num_tokens for layer in multi_hot_layers(model)), default=0)
    require(
        vocabulary.num_tokens <= known,
        f"the vocabulary has ids below {vocabulary.num_tokens}, but the model knows those below "
        f"{known}; name the model's own vocabulary",
    )


def names_of(class_names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    numbers = range(len(class_names), num_classes)
    return (*class_names[:num_classes], *map(str, numbers))


def _write_saved_model(
    model: keras.Model,
    path: Path,
    vocabulary: Vocabulary | None,
    head: Head,
    from_logits: bool | None,
) -> None:
    archive = keras.export.ExportArchive()
    signature = get_input_signature(model)
    with calling(anywhere()):  # the program that loads it needs no kernels of ours
        archive.track(model)

        def serve(*inputs: Any) -> dict[str, tf.Tensor]:
            outputs = model(*inputs, training=False)
            if not isinstance(outputs, tf.Tensor):
                return named_outputs(outputs, model.output_names)
            return {_OUTPUTS: outputs}

        archive.add_endpoint("serve", serve, signature)
        if vocabulary is not None and _takes_texts(signature, vocabulary):
            encoder, words = TextEncoder(vocabulary), vocabulary
            archive.track(encoder)

            def serve_text(texts: tf.Tensor) -> dict[str, tf.Tensor]:
                logits = logits_of(model, encoder(texts), head, from_logits=from_logits)
                return _judged(logits, words, head)

            texts = tf.TensorSpec([None], tf.string, name="texts")
            archive.add_endpoint("serve_text", serve_text, [texts])
        archive.write_out(path, verbose=False)
    if vocabulary is not None:
        (path / _EXTRA).mkdir()
        vocabulary.save(path / _EXTRA / VOCABULARY_FILE_NAME)


def _takes_texts(signature: Any, vocabulary: Vocabulary) -> bool:
    (inputs, *others) = signature
    if vocabulary.tokenizer == "list" or not vocabulary.takes_texts:
        return False
    names = {"values", "row_splits", *(["weights"] if vocabulary.is_weighted else [])}
    return not others and isinstance(inputs, dict) and inputs.keys() == names


def _judged(logits: tf.Tensor, vocabulary: Vocabulary, head: Head) -> dict[str, tf.Tensor]:
    """Returns the `outputs` of a regression; else each text's `probabilities` of all `classes` [B,
    K] and the likeliest as `label` [B], or if a text may have several, their `thresholds` [B, K].
    All have a row for each text, as TensorFlow Serving wants."""
    if head == "linear":
        return {_OUTPUTS: logits}
    is_binary = logits.shape[1] == 1
    if is_binary:
        logits = tf.concat([-logits, logits], axis=1)
    found = keras.activations.get(head)(logits)
    num_rows, num_classes = tf.shape(found)[0], found.shape[1]
    known = tf.constant(names_of(vocabulary.class_names, num_classes), tf.string)
    judged = {"classes": tf.tile(known[None, :], [num_rows, 1]), "probabilities": found}
    if head == "softmax" or is_binary:
        judged["label"] = tf.gather(known, tf.argmax(found, axis=1))
    else:
        thresholds = tf.constant(vocabulary.thresholds or [0.5] * num_classes, tf.float32)
        judged["thresholds"] = tf.tile(thresholds[None, :], [num_rows, 1])
    return judged


def _check_onnx(model: keras.Model) -> None:
    require_extra("onnx", "an ONNX file", "onnx", "tf2onnx")
    num_bytes = 4 * model.count_params()
    tokens = max((layer.num_tokens for layer in multi_hot_layers(model)), default=0)
    require(
        num_bytes <= _MOST_ONNX_BYTES and tokens <= _MOST_ONNX_TOKENS,
        f"the model has {num_bytes:,} bytes of weights and {tokens:,} ids; an ONNX file holds "
        f"{_MOST_ONNX_BYTES:,} and {_MOST_ONNX_TOKENS:,}: export a SavedModel",
    )
    others = {layer.compute_dtype for layer in model.layers} - {"float32"}
    require(
        not others,
        f"the model computes in {', '.join(sorted(others))}, which ONNX Runtime does not on a CPU; "
        "train it with --precision=float32, or export a SavedModel",
    )


def _write_onnx(model: keras.Model, path: Path) -> None:
    log = logging.getLogger("tf2onnx")
    level = log.level
    log.setLevel(logging.CRITICAL)  # `_complete_onnx` reports what it does not know
    try:
        with calling(anywhere(padded=True)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)  # Keras asks for np.object
            model.export(
                path,
                format="onnx",
                verbose=False,
                input_signature=get_input_signature(model),
                opset_version=_OPSET,
            )
    finally:
        log.setLevel(level)


def _complete_onnx(model: Any) -> None:
    """Replaces the operations of Keras's gelu and celu that tf2onnx leaves as they are, and raises
    an InputError if there are others, which no program could run."""
    import onnx

    graph, make = model.graph, onnx.helper.make_node
    one = "harness/one"
    nodes: list[Any] = []
    for node in graph.node:
        found = f"{node.name}/of_input"
        if node.op_type == "Erfc":
            nodes += [make("Erf", node.input, [found]), make("Sub", [one, found], node.output)]
        elif node.op_type == "Expm1":
            nodes += [make("Exp", node.input, [found]), make("Sub", [found, one], node.output)]
        else:
            nodes.append(node)
    if len(nodes) > len(graph.node):
        graph.initializer.append(onnx.helper.make_tensor(one, onnx.TensorProto.FLOAT, [], [1.0]))
        del graph.node[:]
        graph.node.extend(nodes)
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    unknown = sorted({n.op_type for n in nodes if n.domain in ("", "ai.onnx")} - known)
    require(
        not unknown,
        f"the model computes by {', '.join(unknown)}, which ONNX files lack; export a SavedModel, "
        "or train with other layers and activations",
    )


def _finish_onnx(path: Path, vocabulary: Vocabulary | None) -> None:
    """Completes an ONNX file, names its output and sizes, and adds the classes to its metadata, as
    JSON."""
    import onnx

    model = onnx.load(path)
    _complete_onnx(model)
    graph, (output, *others) = model.graph, model.graph.output
    require(
        not others, "the model has several outputs, and ONNX files are for one; export a SavedModel"
    )
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [_OUTPUTS if name == output.name else name for name in names]
    output.name = _OUTPUTS
    sizes = {"values": "ids", "weights": "ids", "row_splits": "rows + 1", _OUTPUTS: "rows"}
    for one in (*graph.input, output):
        first = one.type.tensor_type.shape.dim[0]
        first.dim_param = next((s for name, s in sizes.items() if one.name.endswith(name)), "rows")
    if vocabulary is not None:
        facts = {"classes": vocabulary.class_names, "thresholds": vocabulary.thresholds}
        onnx.helper.set_model_props(model, {n: json_text(v) for n, v in facts.items() if v})
    onnx.save(model, path)
