"""Keras's callbacks, called where `keras.Model.fit` calls them."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.trainers.compile_utils import MetricsList

from harness.base.checks import require_extra
from harness.base.errors import InputError, in_python
from harness.data.examples import Examples
from harness.feed.feed import Feed
from harness.feed.plan import Plan
from harness.model.saved import load_model
from harness.program.model_programs import Watch
from harness.run import records
from harness.run.observers import jsonl
from harness.run.observers.run_files import BEST_FILE_NAME
from harness.task.losses import ACCURACY
from harness.trainer.loop import Evaluated, Rows
from harness.trainer.setup import Setup
from kernels.files import replacing


def checked(callbacks: Any, *, run_dir: object = None) -> list[keras.callbacks.Callback]:
    """Returns callbacks as a list; like Keras, it takes one, or nested lists."""
    found = keras.tree.flatten(callbacks) if callbacks else []
    for callback in found:
        if not isinstance(callback, keras.callbacks.Callback):
            raise InputError(
                f"callbacks has {callback!r:.80} in it, which is no keras.callbacks.Callback; give "
                "an object of such a class, such as a LambdaCallback with a function"
            )
        if run_dir is not None and isinstance(callback, keras.callbacks.BackupAndRestore):
            raise InputError(
                f"callbacks has a BackupAndRestore, but the run_dir {run_dir} has checkpoints of "
                "its own; leave the callback out, and go on with resume='auto'"
            )
    return found


def _overriding(callbacks: Sequence[keras.callbacks.Callback], *hooks: str) -> tuple[str, ...]:
    # Keras's own hooks of a training batch call `on_batch_begin` and `on_batch_end`.
    names = {*hooks, *(hook.replace("train_batch", "batch") for hook in hooks)}
    own = {name: getattr(keras.callbacks.Callback, name) for name in names}
    return tuple(
        type(callback).__name__
        for callback in callbacks
        # A LambdaCallback's hooks are the object's, not its class's.
        if any(getattr(getattr(callback, n), "__func__", None) is not own[n] for n in names)
    )


def with_batch_hooks(
    callbacks: Sequence[keras.callbacks.Callback], stage: str = "train"
) -> tuple[str, ...]:
    """Returns the class names of the callbacks that want every batch of `stage`."""
    # Keras's checkpoints look at every batch, but do nothing unless they were asked to.
    asked = [c for c in callbacks if getattr(c, "save_freq", None) != "epoch"]
    return _overriding(asked, f"on_{stage}_batch_begin", f"on_{stage}_batch_end")


class History(keras.callbacks.History):
    """Keras's history: `history["loss"]`, `history["val_loss"]`, ... have a number per epoch."""

    history: dict[str, list[float]]

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        self._validated: list[int] = []  # epochs; `validation_freq` may leave some out

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_end(epoch, logs)
        if "val_loss" in logs:
            self._validated.append(epoch)

    def plot(self) -> Any:
        """Returns a matplotlib figure with the curves of the loss and each metric, over the epochs.
        A notebook shows it; `figure.savefig("curves.png")` writes it to a file.

        Raises:
            InputError: when matplotlib, of the extra `report`, is not installed.
        """
        with in_python():
            require_extra("report", "a plot", "matplotlib")
        from matplotlib import pyplot

        names = [name for name in self.history if not name.startswith("val_")]
        figure = pyplot.figure(figsize=(4.5 * max(1, len(names)), 3.5), layout="constrained")
        for place, name in enumerate(names, 1):
            axes = figure.add_subplot(1, len(names), place, xlabel="epoch", title=name)
            axes.plot(np.add(self.epoch, 1), self.history[name], marker=".", label="training")
            if values := self.history.get(f"val_{name}"):
                axes.plot(np.add(self._validated, 1), values, marker="o", label="validation")
            axes.legend()
        pyplot.close(figure)  # or a notebook would show it twice
        return figure


class _Metrics(MetricsList):
    """The metrics that callbacks find in a model, with the results that they were told last."""

    results: Mapping[str, float] | None = None

    def result(self) -> dict[str, float]:
        return dict(self.results or {})

    def reset_state(self) -> None:
        self.results = None  # which Keras's own `evaluate`, in a callback, would return


@contextlib.contextmanager
def as_compiled(setup: Setup) -> Iterator[None]:
    """Gives the model the optimizer and metrics that callbacks look for, until the end."""
    model, metrics = setup.model, list(setup.task.stateful)
    # Callbacks ask a metric by its name whether more is better.
    of_rows = [name for name in setup.task.row_metrics if name.endswith(ACCURACY)]
    metrics += [keras.metrics.BinaryAccuracy(name=name) for name in of_rows]
    added, optimizer = _Metrics(metrics), getattr(model, "optimizer", None)
    model._metrics.append(added)
    model.optimizer = setup.programs.state.optimizer
    try:
        yield
    finally:
        model._metrics.remove(added)
        model.optimizer = optimizer


@contextlib.contextmanager
def outside_fit(
    callbacks: Any, setup: Setup, examples: Examples, stage: str
) -> Iterator[tuple["KerasCallbacks", Rows]]:
    """Yields the callbacks of `test` or `predict`, ready to be called, and the rows."""
    callbacks = checked(callbacks)
    # On a CPU, a prediction gains nothing by more steps, and each number needs a program.
    one = stage == "predict" and setup.devices.device_type == "CPU"
    by_step = one or bool(with_batch_hooks(callbacks, stage))
    taken = setup.rows_to_predict if stage == "predict" else setup.rows_to_evaluate
    rows = taken(examples, by_step=by_step)
    with setup.devices.cluster.watched(), as_compiled(setup):
        yield KerasCallbacks(callbacks, setup, epochs=1, steps=rows.plan.steps_per_epoch), rows


class KerasCallbacks(records.Observer):
    """Calls callbacks where Keras does, and keeps Keras's history of the epochs. Before a call, the
    model gets the trained weights; afterwards the programs take up what the callback may have
    changed. `params` are those of Keras, and those of the run."""

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        setup: Setup,
        *,
        validation_freq: int | list[int] = 1,
        **params: Any,
    ) -> None:
        own = [c for c in callbacks if isinstance(c, keras.callbacks.History)]
        self.history = own[-1] if own else History()
        self._changing = [c for c in callbacks if type(c) not in (keras.callbacks.History, History)]
        self._by_batch = bool(with_batch_hooks(callbacks))
        self._model, self._programs = setup.model, setup.programs
        self._validation_freq = validation_freq
        self._run: records.RunStart  # from `RunStart` on
        self._epoch: int | None = None  # as callbacks count; None between epochs
        self._logs: Mapping[str, float] | None = None  # The logs of the last epoch
        every = callbacks if own else [*callbacks, self.history]
        self._list = keras.callbacks.CallbackList(every, model=setup.model, verbose=0, **params)
        # Keras's list looks at every number first, which takes a tenth of a millisecond.
        self._called = self._list if callbacks else self.history
        state = setup.programs.state
        # What lies beside the model and its optimizer, where BackupAndRestore does not look.
        beside = state.loss_scale is not None or any(table.slots for table in state.tables.all)
        if beside and any(isinstance(c, keras.callbacks.BackupAndRestore) for c in callbacks):
            raise InputError(
                "a BackupAndRestore saves the model and its optimizer, but no loss scale, and what "
                "tables keep that are updated by rows; give a run_dir and resume='auto' instead"
            )

    @property
    def wants_to_stop(self) -> bool:
        return bool(self._model.stop_training)

    def begin(self) -> Any:
        """Calls `on_train_begin`; returns the epoch to begin with, if a callback restored one."""
        self._model.stop_training = False
        self._call("on_train_begin")
        return self._model._initial_epoch  # which BackupAndRestore sets for Keras's own `fit`

    def tell(self, record: records.Record) -> None:
        match record:
            case records.RunStart():
                self._run = record
            case records.BatchesAwaited() if self._epoch is None:
                if record.step < self._run.total_steps:
                    # Callbacks count the epochs of this fit, to the same end.
                    before = self._run.epochs - self._list.params["epochs"]
                    self._epoch = record.step // self._run.steps_per_epoch - before
                    self._call("on_epoch_begin", self._epoch)
            case records.BatchesReady() if self._by_batch:
                self._call("on_train_batch_begin", record.step % self._run.steps_per_epoch)
            case records.Window() if self._by_batch:
                batch = (record.step - 1) % self._run.steps_per_epoch
                self._call("on_train_batch_end", batch, record.so_far)
            case records.Epoch(loss=float() as loss) if self._epoch is not None:
                logs = {"loss": loss, **record.metrics}
                if found := record.evaluation:
                    validated = {f"val_{name}": value for name, value in found.metrics.items()}
                    logs |= {"val_loss": found.loss, **validated}
                ended, self._epoch, self._logs = self._epoch, None, logs
                self._call("on_epoch_end", ended, logs)

    def validate(self, feed: Feed, plan: Plan, **how: Any) -> Evaluated:
        """Calls `evaluate` after the epochs for which `validation_freq` wants it."""
        if self._epoch is None:  # the run was resumed after its last step
            return self._programs.evaluate(feed, plan, **how)
        freq, number = self._validation_freq, self._epoch + 1
        due = number in freq if isinstance(freq, list) else number % freq == 0
        return self.evaluate(feed, plan, **how) if due else (None, ())

    def evaluate(
        self, feed: Feed, plan: Plan, **how: Any
    ) -> tuple[records.Evaluation, Sequence[records.Compilation]]:
        self._call("on_test_begin")
        watch = self._watch("test", "stop_evaluating")
        evaluation, compilations = self._programs.evaluate(feed, plan, watch=watch, **how)
        self._call("on_test_end", {"loss": evaluation.loss, **evaluation.metrics})
        return evaluation, compilations

    def predict(self, feed: Feed, plan: Plan, **how: Any) -> np.ndarray:
        self._call("on_predict_begin")
        watch = self._watch("predict", "stop_predicting")
        outputs = self._programs.predict(feed, plan, watch=watch, **how)
        self._call("on_predict_end")
        return outputs

    def finish(self) -> None:
        self._call("on_train_end", self._logs)

    def _watch(self, stage: str, stop: str) -> Watch | None:
        if not with_batch_hooks(self._changing, stage):
            return None
        # Keras resets the flag at the start of every pass.
        setattr(self._model, stop, False)

        def watch(batch: int, logs: Mapping[str, Any] | None) -> bool:
            self._call(f"on_{stage}_batch_{'begin' if logs is None else 'end'}", batch, logs)
            return bool(getattr(self._model, stop))

        return watch

    def _call(self, hook: str, *arguments: Any) -> None:
        # Values travel between programs and model only for callbacks that do something here.
        may_change = self._changing and _overriding(self._changing, hook)
        logs = arguments[-1] if arguments else None
        if isinstance(logs, Mapping) and "val_loss" not in logs:  # else those of the evaluation
            self._model._metrics[-1].results = logs
        if may_change:
            self._programs.state.catch_up_all()
        try:
            getattr(self._called, hook)(*arguments)
        finally:
            if may_change:
                self._programs.state.optimizers.agree()
                self._programs.state.read_model()


class BestModel(keras.callbacks.Callback):
    """Saves the model of the epoch with the lowest validation loss as best.keras. Unlike Keras's
    `ModelCheckpoint` it replaces the file as a whole, and knows the epochs before a resume."""

    def on_train_begin(self, logs: Any = None) -> None:
        self._best = min(_losses_before(self.params), default=math.inf)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        folder = self.params["run_dir"]  # of several workers only the chief has one
        if folder and logs.get("val_loss", math.inf) < self._best:
            self._best = logs["val_loss"]
            with replacing(Path(folder, BEST_FILE_NAME)) as beside:
                self.model.save(beside)


class EarlyStopping(keras.callbacks.EarlyStopping):
    """Stops after some epochs without a lower validation loss, and restores the weights of the best
    one, which `BestModel`, before it in the list, has saved for a resumed run."""

    def __init__(self, *, patience: int) -> None:
        super().__init__(patience=patience, restore_best_weights=True)

    def on_train_begin(self, logs: Any = None) -> None:
        super().on_train_begin(logs)
        if losses := _losses_before(self.params):
            self.best = min(losses)
            self.best_epoch = losses.index(self.best)
            self.wait = len(losses) - 1 - self.best_epoch
            best = load_model(Path(self.params["run_dir"], BEST_FILE_NAME))
            self.best_weights = best.get_weights()
            self.model.stop_training = self.wait >= self.patience


def _losses_before(params: Mapping[str, Any]) -> list[float]:
    """Returns the validation losses before a resume, in the run folder, which the chief has."""
    path = Path(params["run_dir"], jsonl.FILE_NAME)
    up_to_step = params["start_step"]
    return jsonl.validation_losses(path, up_to_step=up_to_step) if params["run_dir"] else []
