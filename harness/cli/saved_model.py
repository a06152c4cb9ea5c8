"""Saved models, with the settings and the vocabulary in their run folders."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from harness.base.checks import INT32_MAX, require_count
from harness.base.decoding import decoded, from_mapping
from harness.base.errors import InputError
from harness.data import vocabulary
from harness.data.examples import Examples
from harness.data.options import DataConfig
from harness.data.ragged import RaggedSets
from harness.data.vocabulary import Vocabulary
from harness.model.network import DefaultNetwork, build_model, multi_hot_layers
from harness.model.options import ModelConfig
from harness.model.saved import StoredBudget, load_model
from harness.program.checkpoints import load_weights
from harness.run.observers.run_files import (
    CHECKPOINT_FOLDER_NAME,
    CONFIG_FILE_NAME,
    MODEL_FILE_NAME,
    RESOLVED,
    read_config,
)
from harness.task.task import Task
from harness.trainer.trainer import Trainer
from harness.workers.membership import require_alone


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A model, ready to evaluate and predict."""

    path: Path
    trainer: Trainer
    num_tokens: int
    """The number below which the model accepts ids."""
    config: Mapping[str, Any] | None
    """The content of config.json in the model's run folder; None if the model is in none."""
    vocabulary: Vocabulary | None
    """The vocabulary of the model's run; None if there is none."""

    @property
    def kind(self) -> str | None:
        """The kind of task of the model's run; None if that is not known."""
        task = (self.config or {}).get(RESOLVED, {}).get("task", {})
        return task.get("name") if isinstance(task, Mapping) else None

    def require_classes(self) -> None:
        """Raises an InputError for a regression: the commands read and print only classes."""
        if self.kind == "regression":
            raise InputError(
                f"{self.path} was trained for a regression, but this command knows classes alone; "
                "use harness.Trainer's predict and evaluate in Python"
            )

    def data(self) -> DataConfig:
        """Returns the settings of the data of the model's run.

        Raises:
            InputError: when the model lies in no run folder that names its data.
        """
        if self.config is None or "data" not in self.config:
            raise InputError(f"{self.path} lies in no run folder that names its data; give --data")
        data: DataConfig = from_mapping(
            DataConfig, self.config["data"], where="the run's config.json"
        )
        return data


def load_saved_model(named: str, **settings: Any) -> SavedModel:
    """Loads a model.

    Args:
        named: the path of a .keras file, of a run folder that holds one, or of a run's checkpoint.
        **settings: settings of the trainer.

    Raises:
        InputError: when there is no model, or this harness did not write it; or when several
            workers run the command, since each would do all of it.
    """
    require_alone(os.environ)
    path = Path(named)
    if path.is_dir():
        path = path / MODEL_FILE_NAME
    if not path.is_file():
        raise InputError(
            f"no model at {path}; name a .keras file, a checkpoint, or a run folder that holds one"
        )
    is_checkpoint = path.suffix == ".npz"
    folder = path.parent
    if is_checkpoint and folder.name == CHECKPOINT_FOLDER_NAME:
        folder = folder.parent
    config = read_config(folder) if (folder / CONFIG_FILE_NAME).is_file() else None
    words = folder / vocabulary.FILE_NAME
    known = Vocabulary.load(words) if words.is_file() else None
    task = Task(thresholds=None if known is None else known.thresholds)
    model = _of_checkpoint(path, config) if is_checkpoint else load_model(path)
    trainer = Trainer(model, task=task, optimizer="sgd", **settings)
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


def _of_checkpoint(path: Path, config: Mapping[str, Any] | None) -> keras.Model:
    """Returns a model with the weights of a checkpoint of `harness train`."""
    if config is None or "model" not in config:
        raise InputError(
            f"{path} is a checkpoint, but no run of `harness train` lies around it, whose "
            "config.json describes the network; name a .keras file"
        )
    where = "the run's config.json"
    model = from_mapping(ModelConfig, config["model"], where=where)
    dataset = config[RESOLVED].get("dataset", {})
    sizes: _Sizes = decoded(
        _Sizes,
        {
            "weighted": dataset.get("weighted", False),
            **{name: dataset.get(name) for name in ("num_tokens", "num_classes")},
        },
        where=where,
        place=f"{RESOLVED}.dataset",
    )
    task = config[RESOLVED].get("task", {})
    multi_label = isinstance(task, Mapping) and task.get("name") == "multi_label"
    network = DefaultNetwork(
        **vars(model),
        num_tokens=sizes.num_tokens,
        num_classes=sizes.num_classes,
        multi_label=multi_label,
    )
    row = RaggedSets(
        values=np.zeros(0, np.int32),
        row_splits=np.zeros(2, np.int64),
        num_tokens=sizes.num_tokens,
        weights=np.zeros(0, np.float32) if sizes.weighted else None,
    )
    built = build_model(
        network,
        Examples.of(row),
        dtype="float32",
        device="/CPU:0",
        seed=0,
        budget=StoredBudget(path=path, stored_bytes=path.stat().st_size),
    )
    if load_weights(path, built):
        Console(stderr=True).print(
            f"note: {path.name} was saved within an epoch: rows of exact_adam's tables have not "
            "made up for the steps that they missed, so results differ a little from the run's"
        )
    return built


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """The sizes of a run's network that its data set decides."""

    num_tokens: int
    num_classes: int
    weighted: bool

    def __post_init__(self) -> None:
        require_count("num_tokens", self.num_tokens, most=INT32_MAX)
        require_count("num_classes", self.num_classes, least=2, most=INT32_MAX)
