"""`python -m harness.cli.trial_process`: a process that trains trials of `harness tune`.

It trains what `harness train` would train with a trial's settings, writes no file, and never looks
at the test rows. harness/tune/trial.py has the parent's side, and describes the messages. One
process trains many trials: TensorFlow's import and start would take longer than a short one.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

from harness.child import channel_to_parent, write_message
from harness.cli.train import TrainConfig, trainer_of
from harness.data.options import DataConfig
from harness.decoding import from_mapping
from harness.errors import DivergenceError, InputError
from harness.quiet import quiet_import

if TYPE_CHECKING:
    from harness.data.sources import Dataset
    from harness.trainer import Trainer

_MAX_DATASETS = 4
"""That are kept: with as many ways to make ids of texts they are not loaded for every trial."""


def main() -> None:
    """Serves one parent until it closes standard input."""
    with channel_to_parent() as channel:
        with quiet_import():
            import tensorflow as tf

            import harness.trainer  # noqa: F401
        first = json.loads(sys.stdin.readline())
        try:
            num_gpus = _take_device(tf, first["job"], first["num_jobs"])
            _prepared(first["settings"])
        except InputError as error:
            write_message(channel, "input error", message=error.args[0])
            return
        write_message(channel, "ready", num_gpus=num_gpus)
        channel.flush()
        for line in sys.stdin:
            try:
                _train(channel, json.loads(line))
            except InputError as error:
                write_message(channel, "failed", why=error.args[0])
            except MemoryError as error:
                write_message(channel, "failed", why=str(error) or "Python had no memory left")
            except tf.errors.ResourceExhaustedError as error:
                write_message(channel, "failed", why=str(error).partition("\n")[0])
            channel.flush()
            gc.collect()  # a model refers to itself


def _take_device(tf: Any, job: int, num_jobs: int) -> int:
    """Leaves this process one GPU, or its share of the cores; returns how many GPUs there are."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        tf.config.set_visible_devices(gpus[job % len(gpus)], "GPU")
    elif num_jobs > 1:  # before TensorFlow starts as many threads as there are cores
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[job % len(cores) :: num_jobs])
    return len(gpus)


@functools.lru_cache(_MAX_DATASETS)
def _load(config: DataConfig) -> Dataset:
    from harness.data.sources import load_configured

    return load_configured(config)


def _prepared(settings: dict[str, Any]) -> tuple[TrainConfig, Dataset, Trainer]:
    config = from_mapping(TrainConfig, settings, where="the trial's settings")
    data = _load(config.data)
    return config, data, trainer_of(config, data, config.execution, epochs=config.epochs)


def _train(channel: TextIO, settings: dict[str, Any]) -> None:
    import keras

    config, data, trainer = _prepared(settings)
    assert data.validation is not None

    def told(_: int, logs: dict[str, float]) -> None:
        found = {n.removeprefix("val_"): v for n, v in logs.items() if n.startswith("val_")}
        write_message(channel, "epoch", metrics=found)
        channel.flush()
        if json.loads(sys.stdin.readline())["stop"]:
            callback.model.stop_training = True

    callback = keras.callbacks.LambdaCallback(on_epoch_end=told)
    diverged = False
    try:
        trainer.fit(
            data.train,
            validation=data.validation,
            epochs=config.epochs,
            callbacks=[callback],
            verbose=False,
            tensorboard="off",
            telemetry_hz=0.0,
        )
    except DivergenceError:
        diverged = True
    write_message(channel, "end", diverged=diverged)


if __name__ == "__main__":
    main()
