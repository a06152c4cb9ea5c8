"""Reloads what was exported, in a process that has not trained: a SavedModel without Keras and
without this package, an ONNX file, a .keras file. Writes what each says of the rows that it is
given."""

import json
import sys
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    given = np.load(folder / "rows.npz")
    inputs = {name: given[name] for name in ("values", "row_splits")}
    said = {}

    sys.modules["keras"] = sys.modules["harness"] = None  # type: ignore[assignment]
    import tensorflow as tf

    served = tf.saved_model.load(str(folder / "served"))
    given_ids = {n: tf.constant(part) for n, part in inputs.items()}
    said["saved_model"] = served.signatures["serve"](**given_ids)["outputs"]
    texts = tf.constant((folder / "texts.txt").read_text(encoding="utf-8").splitlines())
    judged = served.signatures["serve_text"](texts=texts)
    said |= {f"text_{name}": tensor.numpy().astype(str) for name, tensor in judged.items()}
    said["text_probabilities"] = judged["probabilities"]

    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (said["onnx"],) = session.run(["outputs"], inputs)
    said["onnx_classes"] = json.loads(session.get_modelmeta().custom_metadata_map["classes"])

    del sys.modules["keras"], sys.modules["harness"]
    # The layers alone, which the package imports when Keras asks for them.
    import keras

    import harness  # noqa: F401

    said["keras"] = keras.saving.load_model(folder / "model.keras")(inputs)
    assert "harness.program" not in sys.modules
    np.savez(folder / "said.npz", **{name: np.asarray(part) for name, part in said.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
