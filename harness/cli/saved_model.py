"""Saved models, with the settings and the vocabulary in their run folders."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from harness import Task, Trainer, load_model
from harness.base.checks import require
from harness.base.decoding import from_mapping
from harness.base.errors import InputError
from harness.data import vocabulary
from harness.data.options import DataConfig
from harness.data.vocabulary import Vocabulary
from harness.model.network import multi_hot_layers
from harness.run.observers import run_files
from harness.trainer.environment import warn_of_gpus
from harness.workers.membership import require_alone


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    path: Path
    trainer: Trainer
    num_tokens: int  # the number below which the model accepts ids
    config: Mapping[str, Any] | None  # of the run folder; None if the model is in none
    vocabulary: Vocabulary | None  # the vocabulary of the model's run; None if there is none

    @property
    def kind(self) -> str | None:
        """The kind of task of the model's run; None if that is not known."""
        task = (self.config or {}).get(run_files.RESOLVED, {}).get("task", {})
        return task.get("name") if isinstance(task, Mapping) else None

    def require_classes(self) -> None:
        """Raises an InputError for a regression: the commands read and print only classes."""
        if self.kind in ("regression", "outputs"):
            what = "a regression" if self.kind == "regression" else "several outputs"
            raise InputError(
                f"{self.path} was trained for {what}, but this command knows classes alone; "
                "use harness.Trainer's predict and evaluate in Python"
            )

    def data(self) -> DataConfig:
        recorded = (self.config or {}).get("data")
        if not isinstance(recorded, Mapping):
            raise InputError(f"{self.path} lies in no run folder that names its data; give --data")
        data: DataConfig = from_mapping(DataConfig, recorded, where="the run's config.json")
        return data


def load_saved_model(named: str, **settings: Any) -> SavedModel:
    """Loads a .keras file, or that in a run folder, with settings of the trainer."""
    require_alone(os.environ)  # several workers would each do all of it
    path = Path(named)
    if path.is_dir():
        path = path / run_files.MODEL_FILE_NAME
    remedy = "name a .keras file, or a run folder that holds one"
    require(path.is_file(), f"no model at {path}; {remedy}")
    require(
        path.suffix != ".npz",
        f"{path} is a checkpoint; name the model that train --resume writes at its run's end",
    )
    warn_of_gpus(Console(stderr=True))
    folder = path.parent
    has_config = (folder / run_files.CONFIG_FILE_NAME).is_file()
    config = run_files.read_config(folder) if has_config else None
    words = folder / vocabulary.FILE_NAME
    known = Vocabulary.load(words) if words.is_file() else None
    loss = _loss_of(config or {}, path)
    task = Task(loss=loss, thresholds=None if known is None else known.thresholds)
    # It never trains; SGD keeps nothing, so the optimizer takes no memory.
    trainer = Trainer(load_model(path), task=task, optimizer="sgd", **settings)
    layers = multi_hot_layers(trainer.model)
    if not layers:
        raise InputError(f"{path} is not a network of this harness: it has no MultiHotDense layer")
    return SavedModel(
        path=path,
        trainer=trainer,
        num_tokens=max(layer.num_tokens for layer in layers),
        config=config,
        vocabulary=known,
    )


def _loss_of(config: Mapping[str, Any], path: Path) -> keras.losses.Loss | None:
    """Returns the loss that a run was trained with; None for the usual one of its task."""
    recorded = config.get("task", {}).get("loss")
    if recorded is None:
        return None
    try:
        known = json.loads(recorded) if recorded.startswith("{") else recorded
        return keras.losses.get(known)
    except (TypeError, ValueError):
        Console(stderr=True).print(
            f"note: {path} was trained with a loss that is not Keras's own, {recorded:.200}; a "
            "loss that is shown is the usual one of the task",
            soft_wrap=True,
            markup=False,
        )
        return None
