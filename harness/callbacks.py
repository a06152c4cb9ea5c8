"""Keras's callbacks, called where `keras.Model.fit` calls them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from harness.engine.state import State
from harness.model.saved import load_model, save_model
from harness.observe.jsonl import FILE_NAME as METRICS_FILE_NAME
from harness.observe.jsonl import validation_losses
from harness.observe.run_files import BEST_FILE_NAME
from harness.records import Epoch, Observer, RunStart, Window
from kernels.files import replacing

_BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")


def with_batch_hooks(callbacks: Sequence[keras.callbacks.Callback]) -> tuple[str, ...]:
    """The names of those that want to be called for every batch."""
    found = []
    for callback in callbacks:
        # Keras's checkpoints look at every batch, but do nothing unless they were asked to.
        if getattr(callback, "save_freq", None) == "epoch":
            continue
        kind = type(callback)
        base = keras.callbacks.Callback
        if any(getattr(kind, hook) is not getattr(base, hook) for hook in _BATCH_HOOKS):
            found.append(kind.__name__)
    return tuple(found)


class KerasCallbacks(Observer):
    """Calls a list of callbacks, and keeps Keras's history of the epochs.

    Before callbacks are called the model gets the trained weights, and afterwards its weights and
    the optimizer's learning rate are taken up, as a callback may have changed them.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        model: keras.Model,
        states: Sequence[State],
        run: RunStart,
    ) -> None:
        """Args:
        callbacks: in order.
        model: that they see.
        states: of the model.
        run: about to train.
        """
        self.history = keras.callbacks.History()
        self._is_watched = bool(callbacks)
        self._by_batch = bool(with_batch_hooks(callbacks))
        self._model = model
        self._states = states
        self._run = run
        self._list = keras.callbacks.CallbackList(
            [*callbacks, self.history],
            model=model,
            epochs=run.epochs,
            steps=run.steps_per_epoch,
            verbose=0,
            run_dir=run.run_dir,
            start_step=run.start_step,
        )
        self._optimizer = getattr(model, "optimizer", None)

    @property
    def wants_to_stop(self) -> bool:
        """Whether a callback has set `model.stop_training`."""
        return bool(self._model.stop_training)

    def on_start(self, run: RunStart) -> None:
        """`on_train_begin`."""
        self._model.stop_training = False
        self._model.optimizer = self._states[0].optimizer
        self._call("on_train_begin")

    def on_dispatch(self, step: int) -> None:
        """`on_epoch_begin`, where one begins."""
        if step % self._run.steps_per_epoch == 0 and step < self._run.total_steps:
            self._call("on_epoch_begin", step // self._run.steps_per_epoch)

    def on_batches(self, step: int) -> None:
        """`on_train_batch_begin`, where someone wants it."""
        if self._by_batch:
            self._call("on_train_batch_begin", step % self._run.steps_per_epoch)

    def on_window(self, window: Window) -> None:
        """`on_train_batch_end`, where someone wants it."""
        if self._by_batch:
            batch = (window.step - 1) % self._run.steps_per_epoch
            self._call("on_train_batch_end", batch, {"loss": window.loss, **window.metrics})

    def on_epoch(self, epoch: Epoch) -> None:
        """`on_test_begin` and `on_test_end` where there was an evaluation; `on_epoch_end` with what
        Keras calls the logs."""
        logs = {} if epoch.loss is None else {"loss": epoch.loss, **epoch.metrics}
        if epoch.evaluation is not None:
            found = {"loss": epoch.evaluation.loss, **epoch.evaluation.metrics}
            self._call("on_test_begin")
            self._call("on_test_end", found)
            logs |= {f"val_{name}": value for name, value in found.items()}
        if epoch.loss is not None:
            self._call("on_epoch_end", epoch.epoch, logs)

    def finish(self) -> None:
        """`on_train_end`, before the model is saved."""
        self._call("on_train_end")

    def close(self) -> None:
        """Gives the model its own optimizer back."""
        self._model.optimizer = self._optimizer

    def _call(self, hook: str, *arguments: Any) -> None:
        if not self._is_watched:
            getattr(self.history, hook)(*arguments)
            return
        self._states[0].write_to_model()
        getattr(self._list, hook)(*arguments)
        for state in self._states:
            state.read_from_model(self._states[0])


class BestModel(keras.callbacks.Callback):
    """Saves the model of the epoch with the lowest validation loss as best.keras in the run folder.

    Unlike `keras.callbacks.ModelCheckpoint` it replaces the file as a whole, finds the run folder
    by itself, and knows the epochs before a resume.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        """Looks up the best epoch so far."""
        self._folder = Path(self.params["run_dir"])
        self._writes = bool(self.params["run_dir"])  # of several workers the chief alone
        self._best = math.inf
        if self._writes:
            done = self.params["start_step"]
            before = validation_losses(self._folder / METRICS_FILE_NAME, up_to_step=done)
            self._best = min(before, default=math.inf)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Saves the model if this epoch is the best."""
        if self._writes and logs["val_loss"] < self._best:
            self._best = logs["val_loss"]
            with replacing(self._folder / BEST_FILE_NAME) as beside:
                save_model(self.model, beside)


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Stops after some epochs without a lower validation loss, and restores the weights of the best
    one. In a resumed run the epochs before count too; `BestModel`, which comes before it, has saved
    the best of them.
    """

    def __init__(self, *, patience: int) -> None:
        """Args:
        patience: how many epochs.
        """
        super().__init__(patience=patience, restore_best_weights=True)

    def on_train_begin(self, logs: Any = None) -> None:
        """Goes through the epochs so far."""
        super().on_train_begin(logs)
        if not self.params["run_dir"]:  # of several workers the chief alone; it says when to stop
            return
        folder, done = Path(self.params["run_dir"]), self.params["start_step"]
        losses = validation_losses(folder / METRICS_FILE_NAME, up_to_step=done)
        if losses:
            self.best = min(losses)
            self.best_epoch = losses.index(self.best)
            self.wait = len(losses) - 1 - self.best_epoch
            self.best_weights = load_model(folder / BEST_FILE_NAME).get_weights()
            self.model.stop_training = self.wait >= self.patience
