"""A run under a tf.distribute strategy on two emulated GPUs, as its users write one, has a CPU's
losses. tests/harness/trainer/test_strategy.py tries more on two logical CPU devices."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import harness
from tests.emulated_gpu import device, trainings
from tests.harness.trainer.test_strategy import Asking, Centred

HOW: dict[str, Any] = {
    "batch_size": trainings.BATCH_SIZE,
    "implementation": "gather",
    "precision": "float32",
}


def network(inputs: Any) -> Any:
    """Computes a network that asks tf.distribute in a layer, and normalizes over all replicas."""
    x = harness.MultiHotDense(8, num_tokens=trainings.NUM_TOKENS, activation="gelu")(inputs)
    x = keras.layers.BatchNormalization(synchronized=True)(Centred()(x))
    return keras.layers.Dense(1)(x)


def optimizer() -> keras.optimizers.Optimizer:
    return Asking(0.1, use_ema=True, ema_overwrite_frequency=3)


def train(**how: Any) -> tuple[harness.Trainer, list[float]]:
    rows = trainings.rows_of(weighted=False)
    trainer = harness.Trainer(network, optimizer=partial(optimizer), **HOW, **how)
    history = trainer.fit(rows, epochs=2, validation=rows, verbose=False).history
    return trainer, [*history["loss"], *history["val_loss"], float(trainer.predict(rows).mean())]


# One process, since TensorFlow starts slowly: a strategy that the trainer makes, one that is made
# before it, and a model that was made in its scope.
_PROGRAM = """
import json
import keras, numpy as np, tensorflow as tf
import harness
from tests.emulated_gpu import test_strategy as own
from tests.emulated_gpu import trainings
own.Centred.seen.clear()
two = tf.distribute.MirroredStrategy(["GPU:0", "GPU:1"])
trainer, losses = own.train(strategy=two)
print(json.dumps([losses, [list(seen) for seen in own.Centred.seen], trainer.strategy is two]))
trainer, losses = own.train(replicas=2)
print(json.dumps([losses, type(trainer.strategy).__name__]))
again = harness.Trainer(trainer.model, replicas=2, **own.HOW)  # whose strategy no user has given
again.fit(trainings.rows_of(weighted=False), verbose=False)
names = ("values", "row_splits")
inputs = {name: keras.Input((), dtype="int32", name=name) for name in names}
with two.scope():
    model = keras.Model(inputs, trainings.network(inputs))
    trainer = harness.Trainer(model, **own.HOW)
    trainer.fit(trainings.rows_of(weighted=False), verbose=False)
copies = [v.value.values for v in model.trainable_variables]
print(json.dumps([[v.device[-5:] for v in copies[0]], trainer.strategy is two]))
print(json.dumps(all(np.array_equal(*(v.numpy() for v in own)) for own in copies)))
"""


@pytest.mark.usefixtures("logical_devices")
def test_two_gpus_under_a_strategy(tmp_path: Path) -> None:
    done = device.run(device.environment(tmp_path, devices=2), "-c", _PROGRAM)
    assert done.code == 0, done.err[-4000:]
    given, chosen, in_scope, alike = map(json.loads, done.out.splitlines())
    _, expected = train()
    for losses, *_ in (given, chosen):
        np.testing.assert_allclose(losses, expected, rtol=2e-6, atol=1e-8)
    kinds = {(kind, number) for kind, _, number in given[1]}
    assert kinds == {("MirroredStrategy", 2)}
    assert {number for _, number, _ in given[1]} == {0, 1}
    assert given[2] is True
    assert chosen[1] == "MirroredStrategy"
    assert in_scope == [["GPU:0", "GPU:1"], True]
    assert alike is True
    assert "TensorFlow began with the GPUs before this trainer" in done.err
