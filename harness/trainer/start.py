"""What a run's observers are told of it before it trains."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.base.errors import printable
from harness.data.examples import Examples
from harness.model.network import layer_infos
from harness.run.observers import host
from harness.run.records import Choice, DatasetInfo, RunStart
from harness.trainer.loop import Rows
from harness.trainer.run_options import RunOptions
from harness.trainer.settings import Settings
from harness.trainer.setup import Setup

_MAX_NAME = 100
"""Of a data set, in what a run prints and writes."""


def run_start(
    setup: Setup,
    rows: Rows,
    info: DatasetInfo,
    *,
    options: RunOptions,
    config: Mapping[str, Any],
    epochs: int,
    folder: Path | None = None,
    start_step: int = 0,
    resumed: Sequence[Mapping[str, Any]] = (),
) -> RunStart:
    """What a run's observers are told of it before it trains."""
    order = (
        *("replicas", "precision", "implementation", "table_optimizer", "input"),
        "steps_per_dispatch",
    )
    choices = {name: setup.choices[name] for name in order} | setup.choices
    watch, precision = options.precision_watch, choices["precision"].name
    usual = 0 if precision == "float32" else 1
    choices["precision_watch"] = Choice(
        name=str(usual if watch == "auto" else watch),
        why=precision if watch == "auto" else "asked for",
    )
    return RunStart(
        run_dir="" if folder is None else str(folder),
        config=config,
        dataset=info,
        devices=setup.devices.descriptions,
        task=Choice(name=setup.task.kind, why=setup.task.why),
        metrics=setup.task.metric_names,
        choices=choices,
        batch_size=rows.plan.batch_size,
        learning_rate=setup.engine.learning_rate,
        num_parameters=setup.model.count_params(),
        layers=layer_infos(setup.model),
        steps_per_epoch=rows.plan.steps_per_epoch,
        epochs=epochs,
        start_step=start_step,
        resumed=resumed,
        versions=host.versions(),
        host=host.host(),
    )


def dataset_info(
    train: Examples,
    validation: Examples | None = None,
    test: Examples | None = None,
    *,
    num_classes: int,
) -> DatasetInfo:
    """What a run records of its rows.

    Args:
        train, validation, test: rows.
        num_classes: of the task.
    """
    own = None if validation is test else validation
    prints = [part.fingerprint for part in (train, own, test) if part is not None]
    return DatasetInfo(
        name=printable(train.name, most=_MAX_NAME, one_line=True),
        rows=train.num_rows,
        test_rows=0 if test is None else test.num_rows,
        validation_rows=0 if own is None else own.num_rows,
        num_tokens=max((sets.num_tokens for sets in train.ragged.values()), default=0),
        num_classes=num_classes,
        nnz=train.nnz,
        unique=all(sets.is_unique for sets in train.ragged.values()),
        fingerprint=hashlib.sha256("".join(prints).encode()).hexdigest(),
        weighted=any(sets.weights is not None for sets in train.ragged.values()),
    )


def identity(setup: Setup) -> dict[str, Any]:
    """What the last bits of a run's losses depend on; see `harness.trainer.resuming.changes`."""
    return {
        "implementation": setup.choices["implementation"].value,
        "replicas": setup.devices.num_replicas,
        "deterministic": setup.settings.deterministic,
        "devices": list(setup.devices.descriptions),
        "tensorflow": host.versions()["tensorflow"],
    }


_TOGETHER = ("on_nan", "histograms", "precision_watch")


def facts_of(
    settings: Settings,
    options: RunOptions,
    others: Mapping[str, Any],
    *parts: Examples | None,
) -> dict[str, Any]:
    """What must be the same in all workers, by what a message calls it.

    Args:
        settings, others: by name.
        options: of which some decide when workers compute together.
        parts: rows to train, to validate and to test on.
    """
    together = {name: getattr(options, name) for name in _TOGETHER}
    named = {**asdict(settings), **together, **others}
    return {
        **{name.replace("_", " "): str(value) for name, value in named.items()},
        "the data's fingerprints": " ".join(p.fingerprint for p in parts if p is not None),
    }
