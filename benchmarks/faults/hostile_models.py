"""The formats of models: checkpoints, .keras files and the config.json of a run."""

import hashlib
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.faults.hostile_formats import Format, Reader, write_store
from harness.base.quiet import quiet_import

with quiet_import():
    import keras
    import numpy as np

    from harness.base.decoding import from_mapping
    from harness.base.errors import InputError
    from harness.cli.saved_model import load_saved_model
    from harness.cli.settings import TrainConfig
    from harness.data.examples import Examples
    from harness.data.ragged import RaggedSets
    from harness.model.network import DefaultNetwork, build_model
    from harness.model.saved import load_model, save_model
    from harness.program.checkpoints import Checkpoints, load_weights
    from harness.program.state import State
    from harness.run.background import Background
    from harness.run.observers.run_files import RESOLVED, read_config
    from harness.trainer.resuming import asked_settings, check_resumable
    from harness.trainer.settings import Settings

_NUM_TOKENS = 301


def _model(seed: int) -> keras.Model:
    """Makes a small network with dropout, and so with a random state."""
    network = DefaultNetwork(
        hidden_units=(3, 2), dropout=(0.2, 0.0), num_tokens=_NUM_TOKENS, num_classes=2, seed=seed
    )
    row = RaggedSets(values=np.zeros(0, np.int32), row_splits=[0, 0], num_tokens=_NUM_TOKENS)
    return build_model(network, Examples.of(row), dtype="float32", device="/CPU:0", seed=seed)


def _state(seed: int) -> State:
    return State(_model(seed), keras.optimizers.Adam(), device="/CPU:0", place=0, scaled=True)


def _digest(arrays: Any) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _write_checkpoint(folder: Path) -> None:
    with Background() as background:
        Checkpoints(folder, [_state(1)], background).save(8)


def _checkpoint_reader(_: Path) -> Reader:
    state, model = _state(2), _model(2)
    fresh = state.save()

    def read(folder: Path) -> str:
        state.restore(fresh)
        step = Checkpoints(folder, [state], Background()).restore().step
        load_weights(folder / "ckpt-8.npz", model)
        return f"{step} {_digest(state.save().values())} {_digest(model.get_weights())}"

    return read


CHECKPOINT = Format(
    targets=("ckpt-8.npz",), write=_write_checkpoint, reader=_checkpoint_reader, is_checked=True
)


def _write_keras(folder: Path) -> None:
    write_store(folder)
    save_model(_model(1), folder / "model.keras")


def _keras_reader(_: Path) -> Reader:
    def read(folder: Path) -> str:
        try:
            model = load_model(folder / "model.keras")
            return f"{model.to_json()} {_digest(model.get_weights())}"
        finally:
            model = None
            keras.backend.clear_session(free_memory=False)

    return read


KERAS = Format(
    targets=("model.keras",),
    write=_write_keras,
    reader=_keras_reader,
    command=lambda folder: [
        *("evaluate", "--model", str(folder / "model.keras"), "--data", str(folder / "rows")),
    ],
    is_checked=True,
)


def _write_run(folder: Path) -> None:
    write_store(folder)
    flags = ["--data", str(folder / "rows"), "--run-dir", str(folder / "run"), "--batch-size", "5"]
    flags += ["--hidden-units", "3", "2", "--dropout", "0", "--implementation", "gather"]
    flags += ["--tensorboard", "off", "--telemetry-hz", "0"]
    subprocess.run(
        [sys.executable, "-m", "harness", "train", *flags], check=True, stdout=subprocess.DEVNULL
    )


def _config_reader(valid: Path) -> Reader:
    settings = read_config(valid / "run")
    del settings[RESOLVED]
    config = asdict(from_mapping(TrainConfig, settings, where="the valid file"))

    def read(folder: Path) -> str:
        run = folder / "run"
        problems = []
        try:  # as `train --resume`
            before = Settings.of(check_resumable(run, config)["execution"])
            from_mapping(TrainConfig, asked_settings(run), where="the run's config.json")
        except InputError as error:
            problems.append(error)
            before = None
        (checkpoint, *_) = sorted((run / "checkpoints").iterdir())
        saved = load_saved_model(str(checkpoint))  # as `evaluate` and `predict`
        answer = f"{before} {saved.data()} {_digest(saved.trainer.model.get_weights())}"
        del saved
        keras.backend.clear_session(free_memory=False)
        if problems:
            raise problems[0]
        return answer

    return read


CONFIG = Format(
    targets=("run/config.json",),
    write=_write_run,
    reader=_config_reader,
    command=lambda folder: [
        *("evaluate", "--model", str(folder / "run"), "--data", str(folder / "rows")),
    ],
)
