"""Keras's callbacks are called where `fit` calls them, and their changes take effect."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import harness
from harness.base.errors import InputError

TOKENS = 40


def rows(count: int = 200, name: str = "rows") -> harness.RaggedSets:
    rng = np.random.default_rng()
    values = rng.integers(0, TOKENS, 5 * count)
    labels = (values.reshape(count, 5).mean(axis=1) > TOKENS / 2).astype(int)
    return harness.RaggedSets(
        values=values,
        row_splits=np.arange(0, 5 * count + 1, 5),
        labels=labels,
        num_tokens=TOKENS,
        name=name,
    ).unique()


def small(inputs: Any) -> Any:
    x = harness.MultiHotDense(8, TOKENS, activation="gelu", name="a")(inputs)
    return keras.layers.Dense(1, name="b")(x)


def trainer(model: Any = small, **settings: Any) -> harness.Trainer:
    given = {"batch_size": 40, "implementation": "gather", "optimizer": "sgd", **settings}
    return harness.Trainer(model, **given)


def test_callbacks_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no keras"):
        trainer().fit(rows(), callbacks=[keras.callbacks.EarlyStopping])
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(InputError, match="go on with resume='auto'"):
        trainer().fit(rows(), callbacks=[backup], run_dir=tmp_path / "run")
    with pytest.raises(InputError, match="no loss scale"):
        trainer(precision="mixed_float16").fit(rows(), callbacks=[backup], verbose=False)
    of_zero = {"validation_freq": 0}, {"validation_freq": [1, 0]}
    for wrong in ({"initial_epoch": 2, "epochs": 2}, *of_zero, {"initial_epoch": -1}):
        with pytest.raises(InputError, match=r"is -?\d"):
            trainer().fit(rows(), **wrong)


def test_evaluate_and_predict_call_the_hooks_of_their_batches() -> None:
    calls: list[tuple[str, int | None]] = []

    def hook(name: str) -> Any:
        def called(self: Any, batch: Any = None, logs: Any = None) -> None:
            calls.append((name, batch if isinstance(batch, int) else None))

        return called

    own, both = trainer(), rows(80)
    for stage in ("test", "predict"):
        names = [f"on_{stage}_{at}" for at in ("begin", "batch_begin", "batch_end", "end")]
        callback = type("Recorder", (keras.callbacks.Callback,), {n: hook(n) for n in names})()
        (own.evaluate if stage == "test" else own.predict)(both, callbacks=[callback])
        begin, batch_begin, batch_end, end = names
        batches = [(name, batch) for batch in (0, 1) for name in (batch_begin, batch_end)]
        assert calls == [(begin, None), *batches, (end, None)]
        calls.clear()


@pytest.mark.parametrize("every", [2, [2, 4]])
def test_how_epochs_are_run_is_kept_across_a_resume(every: Any, tmp_path: Path) -> None:
    train, test = rows(), rows(80)
    how: dict[str, Any] = {"validation_freq": every, "shuffle": False, "tensorboard": "off"}
    whole, begun, resumed = (trainer(seed=1) for _ in range(3))
    wanted = whole.fit(train, validation=test, epochs=4, **how, verbose=False)
    how |= {"run_dir": tmp_path, "verbose": False}
    begun.fit(train, validation=test, epochs=3, **how)
    with pytest.raises(InputError, match="shuffle was False and is now True"):
        resumed.fit(train, validation=test, epochs=4, resume=True, **{**how, "shuffle": True})
    rest = resumed.fit(train, validation=test, epochs=4, resume=True, **how)
    assert rest.epoch == [3]
    assert rest.history["loss"] == wanted.history["loss"][3:]
    assert rest.history["val_loss"] == wanted.history["val_loss"][1:]


def test_epoch_hooks_leave_the_dispatches_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    own = trainer()
    own.fit(rows(), callbacks=[keras.callbacks.EarlyStopping("loss")])
    assert "every batch" not in capsys.readouterr().out
    assert own.last is not None
    assert own.last.summary is not None
    assert own.last.summary.choices["steps_per_dispatch"] == 5
    own.model.compile("adam", "mse")
    own.fit(rows())
    assert "what the model was compiled with is not used" in capsys.readouterr().out
    begun: list[int] = []
    ended: list[int] = []
    with_batches = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: begun.append(batch),
        on_train_batch_end=lambda batch, logs: ended.append(batch),
    )
    trainer().fit(rows(), epochs=2, callbacks=[with_batches])
    assert "LambdaCallback wants every batch" in capsys.readouterr().out
    assert begun == ended == [*range(5), *range(5)]


def test_a_run_stopped_before_an_epoch_trains_one_batch_of_it() -> None:
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = epoch == 1

        def on_epoch_end(self, epoch: int, logs: Any) -> None:
            assert self.model.get_metrics_result() == logs
            self.model.reset_metrics()  # as Keras's own `evaluate` does
            assert self.model.get_metrics_result() == {}

    own = trainer()
    history = own.fit(rows(), epochs=3, callbacks=[Stop()], verbose=False)
    assert (own.step, history.epoch) == (6, [0, 1])


def test_what_a_callback_changes_is_saved(tmp_path: Path) -> None:
    class Zero(keras.callbacks.History):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.set_weights([np.zeros_like(w) for w in self.model.get_weights()])
            assert not own.predict(train).any()
            assert not any(weights.any() for weights in own.model.get_weights())

    train = rows()
    own = trainer()
    own.fit(train, callbacks=[Zero()], run_dir=tmp_path / "run", verbose=False)
    assert not own.predict(train).any()
    saved = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert not any(weights.any() for weights in saved.get_weights())
    resumed = trainer()
    resumed.fit(train, epochs=1, run_dir=tmp_path / "run", resume=True, verbose=False)
    assert resumed.step == 5


def test_what_a_user_changes_in_the_model_is_kept(tmp_path: Path) -> None:
    first = harness.MultiHotDense(8, TOKENS, activation="gelu")
    network = keras.Sequential([first, keras.layers.Dense(1)])
    train, own = rows(), trainer(network)
    own.fit(train, verbose=False)
    for value in (2, 3):
        network.set_weights([np.full_like(w, value) for w in network.get_weights()])
        own.save(tmp_path / "own.keras")
        saved = keras.saving.load_model(tmp_path / "own.keras")
        assert all((weights == value).all() for weights in saved.get_weights())
        lengths = train.lengths[:, None]
        expected = value + 8 * value * keras.ops.gelu(np.float32(value + value * lengths))
        np.testing.assert_allclose(own.predict(train), expected, rtol=1e-5)


class Always(keras.layers.Layer):
    """Counts its calls and drops units, outside of training too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dropout = harness.HashDropout(0.5)

    def build(self, input_shape: Any) -> None:
        self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", trainable=False)

    def call(self, inputs: Any) -> Any:
        self.calls.assign_add(1.0)
        return self.dropout(inputs, training=True)


def test_layers_may_change_outside_of_training() -> None:
    def dropping(inputs: Any) -> Any:
        x = harness.MultiHotDense(8, TOKENS, activation="gelu")(inputs)
        return keras.layers.Dense(1)(Always(name="always")(x))

    train, own = rows(), trainer(dropping)
    own.fit(train, validation=rows(80), verbose=False)
    assert own.model.get_layer("always").calls == 5 + 2
    assert not np.allclose(own.predict(train), own.predict(train))
    assert own.evaluate(train)["loss"] != own.evaluate(train)["loss"]
    assert own.model.get_layer("always").calls == 5 + 2 + 4 * 5
    normalized = keras.Sequential(
        [
            harness.MultiHotDense(8, TOKENS),
            keras.layers.SpectralNormalization(keras.layers.Dense(1), name="divided"),
        ]
    )
    with pytest.raises(InputError, match=r"assigns divided/.*kernel when it is called.*trainable="):
        trainer(normalized).fit(train, verbose=False)
