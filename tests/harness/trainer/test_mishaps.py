"""Whatever a user does between and around fits, nothing is lost, mixed up, or silently wrong."""

import contextlib
import json
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import harness
from harness.base.errors import LostFolderError
from tests.harness.trainer import test_callbacks
from tests.harness.trainer.test_callbacks import TOKENS, rows

trainer = partial(test_callbacks.trainer, optimizer="adam")


def test_a_run_is_replaced_only_by_one_that_compiles(tmp_path: Path) -> None:
    def leaves(inputs: Any) -> Any:
        x = harness.MultiHotDense(4, TOKENS)(inputs)
        out = keras.layers.Lambda(
            lambda x: tf.reshape(tf.numpy_function(np.sin, [x], tf.float32), tf.shape(x)),
            output_shape=(4,),
        )(x)
        return keras.layers.Dense(1)(out)

    train = rows()
    trainer().fit(train, run_dir=tmp_path / "run", verbose=False)
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(ValueError, match="cannot be compiled"):
        trainer(leaves).fit(train, run_dir=tmp_path / "run", overwrite=True, verbose=False)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_a_run_folder_that_is_moved_is_noticed_at_the_next_checkpoint(tmp_path: Path) -> None:
    class Mover(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                while not (tmp_path / "run" / "checkpoints" / "ckpt-5.npz").exists():
                    time.sleep(0.01)  # it is written in the background
                (tmp_path / "run").rename(tmp_path / "moved")

    own = trainer()
    with pytest.raises(LostFolderError, match="run was moved or removed while a run was using it"):
        own.fit(rows(), epochs=5, run_dir=tmp_path / "run", callbacks=[Mover()], verbose=False)
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]
    left = {path.name.partition(".tfevents")[0] for path in (tmp_path / "moved").iterdir()}
    assert left == {"config.json", "metrics.jsonl", "checkpoints", "events.out"}
    assert [path.name for path in (tmp_path / "moved" / "checkpoints").iterdir()] == ["ckpt-5.npz"]


def test_ctrl_c_leaves_a_trainer_that_goes_on(tmp_path: Path) -> None:
    """The first ends the training and its profile, the second all of `fit`."""

    class Presser(keras.callbacks.Callback):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.times = times

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            for _ in range(self.times if epoch == 1 else 0):
                signal.raise_signal(signal.SIGINT)

    own, train = trainer(), rows()
    for times in (1, 2, 1):  # a profiler that still runs could not start again
        run: Any = {"run_dir": tmp_path, "overwrite": True, "profile_steps": (0, 9_999)}
        expected = pytest.raises(KeyboardInterrupt) if times == 2 else contextlib.nullcontext()
        with expected:
            own.fit(train, epochs=5, callbacks=[Presser(times)], verbose=False, **run)
        assert len(list(tmp_path.glob("plugins/profile/*"))) == (times == 1)
        before = own.evaluate(train)["loss"]
        assert len(own.fit(train, epochs=3, verbose=False).history["loss"]) >= 2
        assert own.evaluate(train)["loss"] < before


def test_weights_that_no_gradient_reaches_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    unused = keras.layers.Dense(2, name="unused")

    def model(inputs: Any) -> Any:
        x = harness.MultiHotDense(4, TOKENS)(inputs)
        return keras.layers.Dense(1)(x) + 0 * keras.ops.stop_gradient(unused(x))[:, :1]

    trainer(model).fit(rows(), epochs=2)
    assert capsys.readouterr().out.count("unused/kernel, unused/bias") == 1


def test_a_refused_fit_changes_nothing() -> None:
    own = trainer()
    wide = harness.Examples(inputs={"x": np.ones([200, 4])}, labels=np.arange(200) % 2)
    with pytest.raises(ValueError, match="inputs"):
        own.fit(rows(), validation=wide, verbose=False)
    train = rows()
    own.fit(train, verbose=False)
    with pytest.raises(ValueError, match="batch"):
        own.fit(rows(5), verbose=False)
    own.fit(train, verbose=False)
    assert own.step == 10


def test_a_fit_that_a_callback_breaks_off_keeps_its_state() -> None:
    counts: list[int] = []
    broken = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: 1 / 0)
    counting = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: counts.append(int(own.model.optimizer.iterations))
    )
    train, own = rows(), trainer()
    for callback in (broken, counting):
        with contextlib.suppress(ZeroDivisionError):
            own.fit(train, callbacks=[callback], verbose=False)
    assert counts == [5]


def test_a_divergence_is_raised() -> None:
    own = trainer(optimizer=keras.optimizers.SGD(1e30))
    with pytest.raises(harness.DivergenceError, match="learning rate"):
        own.fit(rows(), epochs=5, verbose=False)


def test_a_softmax_does_not_go_with_many_labels_a_row() -> None:
    def classes(inputs: Any) -> Any:
        x = harness.MultiHotDense(4, TOKENS)(inputs)
        return keras.layers.Dense(3, activation="softmax")(x)

    one_hot = np.eye(3)[np.arange(200) % 3]
    with pytest.raises(ValueError, match=r"ends in Softmax.*class numbers"):
        trainer(classes).fit(harness.Examples(inputs={"": rows()}, labels=one_hot), verbose=False)


def test_another_loss_is_not_resumed_with(tmp_path: Path) -> None:
    train = rows()
    trainer().fit(train, run_dir=tmp_path / "run", verbose=False)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["epochs"] == 1
    other = trainer(task=harness.Task(loss="mse"))
    with pytest.raises(ValueError, match="loss was None and is now mse"):
        other.fit(train, epochs=2, run_dir=tmp_path / "run", resume=True, verbose=False)
    with pytest.raises(ValueError, match="run_dir"):
        trainer().fit(train, resume=True, verbose=False)


def test_swapped_layers_of_one_shape_are_not_resumed_with(tmp_path: Path) -> None:
    def swapped(inputs: Any, *, names: str) -> Any:
        x = harness.MultiHotDense(4, TOKENS)(inputs)
        for name in names:
            x = keras.layers.Dense(4, name=name)(x)
        return keras.layers.Dense(1)(x)

    train = rows()
    trainer(partial(swapped, names="ab")).fit(train, run_dir=tmp_path / "run", verbose=False)
    for names, epochs in [("ab", 2), ("ba", 3)]:
        other = trainer(partial(swapped, names=names))
        told = pytest.raises(ValueError, match="layers of the same names stand in another order")
        with told if names == "ba" else contextlib.nullcontext():
            other.fit(train, epochs=epochs, run_dir=tmp_path / "run", resume=True, verbose=False)


def test_a_complete_run_needs_no_class_of_a_layer(tmp_path: Path) -> None:
    class Scaled(keras.layers.Layer):
        """A layer that Keras does not know by name."""

        def build(self, shape: Any) -> None:
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

        def call(self, x: Any) -> Any:
            return x * self.scale

    def scaled(inputs: Any) -> Any:
        return keras.layers.Dense(1)(Scaled()(harness.MultiHotDense(4, TOKENS)(inputs)))

    train = rows()
    first = trainer(scaled)
    first.fit(train, run_dir=tmp_path / "run", verbose=False)
    resumed = trainer(scaled)
    resumed.fit(train, epochs=1, run_dir=tmp_path / "run", resume=True, verbose=False)
    np.testing.assert_allclose(resumed.predict(train), first.predict(train), rtol=1e-6)
