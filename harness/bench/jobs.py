"""From the settings of a sweep to what each process is told; the data set written once for all."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.bench.protocol import Job, Variant, without_defaults
from harness.bench.rows import Cell
from harness.config import DataConfig, ExecutionConfig, TrainConfig, from_mapping, to_mapping
from harness.config.bench import BenchConfig
from harness.data import store
from harness.data.ragged import RaggedSets
from harness.data.sources import Dataset
from harness.errors import InputError


def write_data(dataset: Dataset, folder: Path) -> None:
    """Writes the data set in the harness's own format, which each process maps into memory."""
    sets = RaggedSets.concatenate([dataset.test, dataset.train], name=dataset.name)
    store.save(sets, folder, held_out_rows=dataset.test.num_rows)


def job(
    config: BenchConfig,
    cell: Cell,
    data: Path,
    *,
    over: Mapping[str, Any] | None = None,
    variant: Variant = "full",
    roofs: bool = False,
) -> Job:
    """What a process of `cell` is told.

    Args:
        config: of the sweep.
        cell: a point of its grid.
        data: the folder that `write_data` wrote.
        over: settings of `TrainConfig` by their bare names that stand over all others.
        variant, roofs: see `Job`.

    Raises:
        InputError: when `over` holds what is no setting, or a wrong value.
    """
    settings = TrainConfig(
        # The folder holds the rows as they were loaded; `unique` says whether that is kept so.
        data=DataConfig(data=str(data.absolute()), unique=config.data.unique),
        model=config.model,
        optimizer=config.optimizer,
        execution=ExecutionConfig(
            batch_size=cell.batch_size,
            implementation=cell.implementation,  # type: ignore[arg-type]  # the grid's own type
            precision=cell.precision,  # type: ignore[arg-type]
            input=cell.input,  # type: ignore[arg-type]
            replicas=_number(cell.replicas),
            steps_per_dispatch=_number(cell.steps_per_dispatch),
            seed=config.grid.seed,
        ),
    )
    if over:
        flat = _flat(to_mapping(settings)) | dict(over)
        settings = from_mapping(TrainConfig, flat, where="the settings to compare with")
    return Job(settings=without_defaults(settings), variant=variant, roofs=roofs)


def settings_of_file(path: Path) -> dict[str, Any]:
    """The settings that a TOML file names, by their bare names.

    Raises:
        InputError: when it cannot be read or is no TOML.
    """
    try:
        return _flat(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(
            f"--against {path} cannot be read ({error.strerror}); name the root folder of a "
            "checkout, or a TOML file of settings"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--against {path} is not a TOML file: {error}") from error


def settings_of_words(words: tuple[str, ...]) -> dict[str, Any]:
    """The settings of `--against-set name=value ...`; values as TOML has them, or plain texts.

    Raises:
        InputError: when a word has no `=`.
    """
    settings = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InputError(
                f"--against-set has {word!r}; write name=value, as in implementation=gather"
            )
        try:
            settings[name.replace("-", "_")] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[name.replace("-", "_")] = value
    return settings


def _flat(group: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a group and of the groups in it by their own names, which differ."""
    flat: dict[str, Any] = {}
    for name, value in group.items():
        inner = _flat(value) if isinstance(value, Mapping) else {name.replace("-", "_"): value}
        flat |= inner
    return flat


def _number(text: str) -> Any:
    return text if text == "auto" else int(text)
