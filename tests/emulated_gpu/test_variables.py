"""The devices on which a model's variables lie."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulated_gpu import device

PROGRAM = """
import keras, numpy as np, tensorflow as tf, harness

class Keeping(keras.layers.Layer):
    def build(self, input_shape):
        self.kept = self.add_weight(name="kept", shape=(), dtype={dtype!r}, trainable=False)

    def call(self, inputs):
        return inputs

def model():
    inputs = {{n: keras.Input((), dtype="int32", name=n) for n in ("values", "row_splits")}}
    x = Keeping()(harness.MultiHotDense(4, num_tokens=9)(inputs))
    return keras.Model(inputs, keras.layers.Dense(1)(x))

rows = harness.RaggedSets(
    values=np.arange(16) % 9, row_splits=np.arange(17), labels=np.arange(16) % 2, num_tokens=9
)
with tf.device({place!r}):
    made = model()
try:
    harness.Trainer(made, batch_size=8, replicas=1).fit(rows, epochs=1, verbose=False)
except harness.InputError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("place", "dtype", "said"),
    [
        ("/GPU:0", "float32", ""),
        ("/CPU:0", "float32", "lies on /job:localhost/replica:0/task:0/device:CPU:0"),
        ("/GPU:0", "int32", "are int32, which TensorFlow keeps in host memory"),
    ],
)
def test_what_a_gpus_program_cannot_reach_is_refused(
    place: str, dtype: str, said: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(place=place, dtype=dtype)],
        env=device.environment(tmp_path), cwd=device.ROOT,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert said in done.stdout
    assert bool(said) == bool(done.stdout)
