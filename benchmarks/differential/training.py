"""Trains a case by `harness.Trainer`, here or by two workers, and by `keras.Model.fit`."""

import io
import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.utils.tracking import DotNotTrackScope

import harness
from benchmarks.differential.callbacks import Recorder
from benchmarks.differential.case import Case, draw_case
from benchmarks.differential.histories import take_turn
from benchmarks.differential.models import shares_weights
from benchmarks.differential.rows import Labelled
from benchmarks.differential.tasks import DrawnTask
from harness.feed.plan import block_order, epoch_order
from harness.workers.cluster import cluster_of
from harness.workers.launcher import run_job


@dataclass(kw_only=True)
class Trained:
    """The results of a side's training."""

    history: dict[str, list[float]]
    epochs: list[int]
    weights: list[np.ndarray]
    names: list[str]  # The names of the weights
    predictions: np.ndarray
    evaluation: dict[str, float]
    files: list[str]  # The files that callbacks wrote
    turns: list[dict[str, Any]] = field(default_factory=list)  # What turns and their fits show
    quantized: float = 0.0
    """The median distance, in int8, of the side's predictions from those of `keras.Model.predict`;
    0 for a model that is not quantized."""
    hooks: list[tuple[str, int | None]] = field(default_factory=list)
    logs: list[tuple[str, dict[str, float]]] = field(default_factory=list)
    seen: list[tuple[int, float, float]] = field(default_factory=list)  # What `Recorder.seen` holds


def orders_of(case: Case) -> list[np.ndarray]:
    """Returns the trainer's orders of the rows, epoch by epoch."""
    rows, seed = case.train.num_rows, case.settings["seed"]
    epochs = range(case.fit.get("initial_epoch", 0), case.epochs)
    if case.fit.get("shuffle") is False:
        return [np.arange(rows) for _ in epochs]
    drawn = block_order if case.settings.get("input") == "mapped" else epoch_order
    return [drawn(rows, seed=seed, epoch=epoch) for epoch in epochs]


class _RowMean(keras.metrics.Mean):
    """The mean of the batches' losses over rows. `keras.Model.fit` weighs a batch by the length of
    its first array: for ragged rows that is `row_splits`, which has one element more."""

    def __init__(self, excess: int) -> None:
        super().__init__(name="loss")
        self._excess = excess

    def update_state(self, values: Any, sample_weight: Any = None) -> Any:
        return super().update_state(values, sample_weight=sample_weight - self._excess)


def _on_cpu(run: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function, placed on the CPU even when traced: else a graph's operations would go
    to a GPU if there is one."""

    def own(*given: Any, **options: Any) -> Any:
        with tf.device("/CPU:0"):
            return run(*given, **options)

    return own


class _Keras:
    """A case's model, compiled for `keras.Model.fit`."""

    def __init__(self, case: Case, model: keras.Model, *, by_xla: bool) -> None:
        self.case, self.model = case, model
        self._how = {"run_eagerly": case.eager and not by_xla, "jit_compile": by_xla}
        for name in ("train_step", "test_step", "predict_step"):
            setattr(model, name, _on_cpu(getattr(model, name)))
        self.compile(case.task)

    def compile(self, task: DrawnTask) -> None:
        has_model = self.case.form in ("functional", "built subclass")
        optimizer = self.case.optimizer.make(self.model if has_model else None)
        # `fit` would build it while it traces the first step, where ScheduleFreeAdamW's copies of
        # the weights are lost: Keras 3.15 then trains from zeros.
        optimizer.build(self.model.trainable_variables)
        self.task = task
        self._compile(optimizer)

    def _compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        self.model.compile(optimizer=optimizer, **self._how, **self.task.compiled())
        first = min(self.case.parts, key=lambda part: part.name)
        with DotNotTrackScope():
            self.model._loss_tracker = _RowMean(excess=int(first.is_ragged))

    def refrozen(self) -> None:
        self._compile(self.model.optimizer)

    def optimizer(self, *, own: bool) -> keras.optimizers.Optimizer:
        return self.model.optimizer

    def fit(
        self,
        epochs: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        orders: list[np.ndarray] | None = None,
        **how: Any,
    ) -> keras.callbacks.History:
        case, rows = self.case, self.case.train.num_rows
        self.model.make_train_function(force=True)  # it takes up attributes when it is traced
        batches = case.train.dataset(case.batch_size, orders or [np.arange(rows)] * epochs)
        validation = case.validation
        return self.model.fit(
            batches,
            validation_data=validation.dataset(case.batch_size) if validation else None,
            epochs=epochs,
            steps_per_epoch=-(-rows // case.batch_size),
            callbacks=list(callbacks),
            verbose=0,
            **{"shuffle": False, **how},
        )

    def evaluate(self, rows: Labelled) -> dict[str, float]:
        batches = rows.evaluated().dataset(self.case.batch_size)
        return dict(self.model.evaluate(batches, verbose=0, return_dict=True))

    def predict(self, rows: Labelled) -> np.ndarray:
        return np.asarray(self.model.predict(rows.dataset(self.case.batch_size), verbose=0))


@_on_cpu
def in_keras(
    case: Case, change: Callable[[keras.Model], None] = lambda _: None, *, by_xla: bool = False
) -> Trained:
    """Trains a case by `keras.Model.fit`, on the CPU, with steps that XLA compiles if asked.
    `change` changes the model before training."""
    model = case.model()
    # A subclass makes its weights at its first batch, and the optimizer may name them.
    if not model.built:
        model(case.train.batch(np.arange(2))[0])
    change(model)
    side = _Keras(case, model, by_xla=by_xla)
    return _trained(
        case, side, lambda callbacks: side.fit(case.epochs, callbacks, orders_of(case), **case.fit)
    )


class _Ours:
    """A case's trainer."""

    def __init__(self, case: Case) -> None:
        self.case, self._given = case, case.given()
        self.compile(case.task)

    @property
    def model(self) -> keras.Model:
        return self.trainer.model

    def compile(self, task: DrawnTask) -> None:
        given = self._given
        has_model = isinstance(given, keras.Model) and given.built
        self._optimizer = self.case.optimizer.make(given if has_model else None)
        self.trainer = harness.Trainer(
            given, task=task.task(), optimizer=self._optimizer, **self.case.settings
        )

    def refrozen(self) -> None:
        """Does nothing: each fit looks at the weights to train."""

    def optimizer(self, *, own: bool) -> keras.optimizers.Optimizer:
        return self.trainer.optimizer if own else self._optimizer

    def fit(
        self, epochs: int, callbacks: Sequence[keras.callbacks.Callback] = (), **how: Any
    ) -> keras.callbacks.History:
        validation = self.case.validation
        try:
            history = self.trainer.fit(
                self.case.train.examples,
                validation=None if validation is None else validation.examples,
                epochs=epochs,
                callbacks=list(callbacks),
                verbose=False,
                on_nan="continue",  # like Keras
                **(how or {"shuffle": False}),
            )
        except harness.DivergenceError:  # Keras does not report it
            assert self.trainer.last is not None
            history = self.trainer.last.history
        self._given = self.model  # of a function, which another trainer would call again
        return history

    def evaluate(self, rows: Labelled) -> dict[str, float]:
        return self.trainer.evaluate(rows.examples)

    def predict(self, rows: Labelled) -> np.ndarray:
        return np.asarray(self.trainer.predict(rows.examples))


def here(case: Case) -> Trained:
    """Trains a case by the trainer. Raises an InputError when that refuses the case, and a
    LateRefusalError when it does so after a step."""
    side = _Ours(case)
    done: list[int] = []
    begun = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: done.append(epoch))
    how = {"shuffle": True, **case.fit}
    try:
        return _trained(case, side, lambda own: side.fit(case.epochs, [begun, *own], **how))
    except harness.InputError as error:
        if side.trainer.step or done:
            raise LateRefusalError(str(error)) from error
        raise


class LateRefusalError(Exception):
    """A case was refused after its training had begun."""


def _trained(
    case: Case,
    side: _Keras | _Ours,
    fit: Callable[[list[keras.callbacks.Callback]], keras.callbacks.History],
) -> Trained:
    """Trains a case; `fit` does the first fit."""
    with tempfile.TemporaryDirectory() as folder:
        callbacks = case.callbacks.make(Path(folder))
        history = fit(callbacks)
        files = sorted(path.name for path in Path(folder).iterdir())
    whole = case.validation or case.train
    quantizes = case.quantizes and not shares_weights(case.network.words)
    turns = [take_turn(side, turn, case.task, whole) for turn in case.turns]
    predictions, evaluation = side.predict(case.train), side.evaluate(whole)
    model = side.model
    found = Trained(
        history={name: [float(v) for v in values] for name, values in history.history.items()},
        epochs=list(history.epoch),
        weights=[np.array(weights) for weights in model.get_weights()],
        names=[variable.path for variable in model.weights],
        predictions=predictions,
        evaluation={name: float(value) for name, value in evaluation.items()},
        files=files,
        turns=turns,
        quantized=_quantized(side, case.train) if quantizes else 0.0,
    )
    recorder = callbacks[-1] if callbacks else None
    if isinstance(recorder, Recorder):
        found.hooks, found.logs, found.seen = recorder.hooks, recorder.logs, recorder.seen
    return found


def _quantized(side: _Keras | _Ours, rows: Labelled) -> float:
    with warnings.catch_warnings():  # Keras warns of each layer that has nothing to quantize
        warnings.filterwarnings("ignore", ".*does not have a `quantize` method")
        side.model.quantize("int8")
    batches = rows.dataset(side.case.batch_size)
    return float(np.median(np.abs(side.predict(rows) - side.model.predict(batches, verbose=0))))


def by_workers(case: Case) -> Trained:
    """Trains a case by two workers, separate processes, each with half of every batch; returns the
    results of the first. On a CPU `replicas=2` is one program, as XLA has an all-reduce only for
    GPUs: without GPUs, only workers train on two devices. Raises an InputError when the workers
    refuse the case, and a RuntimeError with a worker's output when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.differential"]
        command += ["--member", str(case.seed), folder]
        out = io.StringIO()
        code = run_job(2, command, out=out, errors=out)
        written = Path(folder) / "0"
        if code or not written.exists():
            raise RuntimeError(f"the workers ended with {code}: {out.getvalue()[-1500:]}")
        found = pickle.loads(written.read_bytes())
    if isinstance(found, str):
        raise harness.InputError(found)
    assert isinstance(found, Trained)
    return found


def be_member(seed: int, folder: str) -> int:
    """Trains the case of a seed, in a worker process, and writes the results."""
    # Join the other worker here: the trainer can do so only before TensorFlow computes anything,
    # but is given models and optimizers that are made already.
    cluster_of(os.environ).start(num_gpus=0)
    try:
        found: Trained | str = here(draw_case(seed))
    except harness.InputError as error:
        found = str(error)
    index = cluster_of(os.environ).index
    (Path(folder) / str(index)).write_bytes(pickle.dumps(found))
    return 0
