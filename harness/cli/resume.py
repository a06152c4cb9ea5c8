"""`harness train --resume`: takes the settings from the run, so that no flag need repeat them."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.base.decoding import flattened, from_mapping
from harness.cli.settings import TrainConfig
from harness.run.observers.run_files import CONFIG_FILE_NAME
from harness.trainer.resuming import asked_settings, is_begun


def resumed_config(flags: Sequence[str], given: Mapping[str, Any]) -> TrainConfig | None:
    """Returns, as defaults, the settings of the run that `train` with these flags resumes; None if
    it resumes none. Those of a --config file, `given`, override the run's own."""
    look = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    look.add_argument("--run-dir", "--run_dir")
    look.add_argument("--resume", nargs="?", const=True, default=False)
    try:
        known, _ = look.parse_known_args(flags)
    except argparse.ArgumentError:  # tyro explains it
        return None
    of_file = flattened(given)
    folder = known.run_dir or of_file.get("run_dir")
    if not (known.resume or of_file.get("resume")) or not isinstance(folder, str):
        return None
    place = Path(folder).absolute()
    # `--resume auto` begins a run there, by the settings of the command.
    if not (place / CONFIG_FILE_NAME).exists() or not is_begun(place):
        return None
    own = asked_settings(place)
    where = str(place / CONFIG_FILE_NAME)
    config: TrainConfig = from_mapping(TrainConfig, {**own, **of_file}, where=where)
    return config
