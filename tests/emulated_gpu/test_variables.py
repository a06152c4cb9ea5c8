"""The devices on which a model's variables lie."""

import subprocess
import sys
from pathlib import Path

from tests.emulated_gpu import device

# One process tries all places, since TensorFlow starts slowly.
PROGRAM = """
import keras, numpy as np, tensorflow as tf, harness

class Keeping(keras.layers.Layer):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def build(self, input_shape):
        self.kept = self.add_weight(name="kept", shape=(), dtype=self.kind, trainable=False)

    def call(self, inputs):
        return inputs

def model(kind):
    inputs = {n: keras.Input((), dtype="int32", name=n) for n in ("values", "row_splits")}
    x = Keeping(kind)(harness.MultiHotDense(4, num_tokens=9)(inputs))
    return keras.Model(inputs, keras.layers.Dense(1)(x))

rows = harness.RaggedSets(
    values=np.arange(16) % 9, row_splits=np.arange(17), labels=np.arange(16) % 2, num_tokens=9
)
for place, kind in (("/GPU:0", "float32"), ("/CPU:0", "float32"), ("/GPU:0", "int32")):
    with tf.device(place):
        made = model(kind)
    try:
        harness.Trainer(made, batch_size=8, replicas=1).fit(rows, epochs=1, verbose=False)
        print("trained")
    except harness.InputError as error:
        print(error)
"""


def test_what_a_gpus_program_cannot_reach_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=device.environment(tmp_path), cwd=device.ROOT,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    trained, elsewhere, whole = done.stdout.splitlines()
    assert trained == "trained"
    assert "lies on /job:localhost/replica:0/task:0/device:CPU:0" in elsewhere
    assert "are int32, which TensorFlow keeps in host memory" in whole
