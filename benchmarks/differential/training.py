"""Trains a case by `harness.Trainer`, here or by two workers, and by `keras.Model.fit`."""

import io
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
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
    has_model = case.form in ("functional", "built subclass")
    model.compile(
        optimizer=case.optimizer.make(model if has_model else None),
        run_eagerly=case.eager and not by_xla,
        jit_compile=by_xla,
        **case.task.compiled(),
    )
    for name in ("train_step", "test_step", "predict_step"):
        setattr(model, name, _on_cpu(getattr(model, name)))
    # `fit` would build it while it traces the first step, where ScheduleFreeAdamW's copies of the
    # weights are lost: Keras 3.15 then trains from zeros.
    model.optimizer.build(model.trainable_variables)
    first = min(case.parts, key=lambda part: part.name)
    with DotNotTrackScope():
        model._loss_tracker = _RowMean(excess=int(first.is_ragged))
    validation = case.validation
    with tempfile.TemporaryDirectory() as folder:
        callbacks = case.callbacks.make(Path(folder))
        history = model.fit(
            case.train.dataset(case.batch_size, orders_of(case)),
            validation_data=validation.dataset(case.batch_size) if validation else None,
            epochs=case.epochs,
            steps_per_epoch=-(-case.train.num_rows // case.batch_size),
            callbacks=callbacks,
            verbose=0,
            **{"shuffle": False, **case.fit},
        )
        files = sorted(path.name for path in Path(folder).iterdir())
    whole = (validation or case.train.evaluated()).dataset(case.batch_size)
    return _trained(
        history,
        model,
        callbacks,
        files,
        predictions=model.predict(case.train.dataset(case.batch_size), verbose=0),
        evaluation=model.evaluate(whole, verbose=0, return_dict=True),
    )


def here(case: Case) -> Trained:
    """Trains a case by the trainer. Raises an InputError when that refuses the case, and a
    LateRefusalError when it does so after a step."""
    model = case.given()
    has_model = isinstance(model, keras.Model) and model.built
    optimizer = case.optimizer.make(model if has_model else None)
    trainer = harness.Trainer(model, task=case.task.task(), optimizer=optimizer, **case.settings)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = case.callbacks.make(Path(folder))
        done: list[int] = []
        begun = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: done.append(epoch))
        try:
            history = trainer.fit(
                case.train.examples,
                validation=None if case.validation is None else case.validation.examples,
                epochs=case.epochs,
                callbacks=[begun, *callbacks],
                verbose=False,
                on_nan="continue",  # like Keras
                **case.fit,
            )
        except harness.DivergenceError:  # Keras does not report it
            assert trainer.last is not None
            history = trainer.last.history
        except harness.InputError as error:
            if trainer.step or done:
                raise LateRefusalError(str(error)) from error
            raise
        files = sorted(path.name for path in Path(folder).iterdir())
    whole = case.validation or case.train
    return _trained(
        history,
        trainer.model,
        callbacks,
        files,
        predictions=trainer.predict(case.train.examples),
        evaluation=trainer.evaluate(whole.examples),
    )


class LateRefusalError(Exception):
    """A case was refused after its training had begun."""


def _trained(
    history: keras.callbacks.History,
    model: keras.Model,
    callbacks: list[keras.callbacks.Callback],
    files: list[str],
    *,
    predictions: np.ndarray,
    evaluation: dict[str, float],
) -> Trained:
    found = Trained(
        history={name: [float(v) for v in values] for name, values in history.history.items()},
        epochs=list(history.epoch),
        weights=[np.array(weights) for weights in model.get_weights()],
        names=[variable.path for variable in model.weights],
        predictions=np.asarray(predictions),
        evaluation={name: float(value) for name, value in evaluation.items()},
        files=files,
    )
    recorder = callbacks[-1] if callbacks else None
    if isinstance(recorder, Recorder):
        found.hooks, found.logs, found.seen = recorder.hooks, recorder.logs, recorder.seen
    return found


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
