"""`harness tune`: the checks, the search, and the report."""

import contextlib
import json
import multiprocessing
import os
import shlex
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.base.checks import check_batch, require_extra
from harness.base.child import end_with_parent
from harness.base.decoding import changed, differences, flattened, from_mapping
from harness.base.errors import InputError, LostWorkerError, as_command, printable
from harness.base.files import json_text, write_json
from harness.base.interrupt import EXIT_INTERRUPTED
from harness.base.quiet import quiet_import
from harness.base.reading import read_json
from harness.cli.settings import TrainConfig, trainer_of
from harness.cli.tune import TuneConfig
from harness.data.sources import is_built, load_configured
from harness.run.run_folder import claim
from harness.run.telemetry.nvml import VISIBLE
from harness.tools.tune.search import (
    STUDY_FILE_NAME,
    TRIALS_FOLDER_NAME,
    Search,
    Trial,
    best_epoch,
    open_study,
)
from harness.tools.tune.space import parameters, settings_of
from kernels.files import remove, replacing

CONFIG_FILE_NAME = "config.json"
BEST_FILE_NAME = "best.toml"
_WRITTEN = (STUDY_FILE_NAME, f"{STUDY_FILE_NAME}-journal", BEST_FILE_NAME, TRIALS_FOLDER_NAME)
_PATHS = ("data", "test_data", "word_index")
_MAY_DIFFER = {"resume", "overwrite", "tune_dir", "trials", "timeout", "jobs"}
_MAY_DIFFER |= {"data_cache", "max_data_bytes", *_PATHS}
"""Settings that may change when a search is resumed; paths may change if the rows are the same."""
_OF_TRIALS = {"test": "off", "checkpoint_every": "1m", "keep": 1}
"""Settings of every trial that do not hold for the model that is trained in the end."""


def run_tune(config: TuneConfig) -> int:
    """Runs the command.

    Returns:
        The exit code: 1 when no trial came to its end, 130 when interrupted.

    Raises:
        InputError: when the settings do not fit the data, the folder or the machine.
        OSError: when the disk is full, naming the file.
    """
    require_extra("tune", "a search", "optuna")
    with contextlib.ExitStack() as closing:
        # 1. Check everything that may be wrong before anything is removed or trained. A separate
        # process loads the data and TensorFlow, so that its end frees their memory and the GPUs.
        parameters(config.space, config.data.build, takes_texts=is_built(config.data))
        folder = _open_folder(config, closing)
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin_checks) as process:
            try:
                searched, gpus, known = process.submit(_checked, config).result()
            except BrokenProcessPool as error:
                raise LostWorkerError(
                    "the process that loads the data was killed, as the system does when memory "
                    "runs out; free some, or ask for less"
                ) from error
        recorded = json.loads(json_text({**asdict(config), "dataset": known}))
        if config.resume:
            _check_same(folder / CONFIG_FILE_NAME, recorded)
        else:
            for name in _WRITTEN:
                remove(folder / name)
            write_json(folder / CONFIG_FILE_NAME, recorded)

        # 2. Search. Ctrl-C keeps the trials that have ended.
        num_jobs = max(len(gpus), 1) if config.jobs == "auto" else config.jobs
        search = Search(
            study=open_study(folder, config),
            searched=searched,
            config=config,
            seed=config.execution.seed,
            folder=folder,
            gpus=gpus,
            num_jobs=min(num_jobs, config.trials),
            settings_of=lambda values: toml_text(trial_settings(config, values) | _OF_TRIALS),
            ended=lambda trial: _print(outcome(trial, search)),
        )
        interrupted = False
        try:
            search.run()
        except KeyboardInterrupt:
            interrupted = True
        return _report(config, search.study, folder, interrupted=interrupted)


def _begin_checks() -> None:
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent reports the interrupt


def _checked(config: TuneConfig) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """Returns the distributions to search, the GPUs as CUDA_VISIBLE_DEVICES names them, and the
    facts about the data that must not change when the search is resumed, none about test rows.

    Raises:
        InputError: when the settings do not fit the data, or one of them is wrong.
    """
    with quiet_import():
        import tensorflow as tf

        from harness.trainer.environment import hide_too_new_gpus
    build = config.data.build
    for name in ("ngrams", "num_tokens"):
        if choices := getattr(config.space, f"{name}_choices"):
            build = replace(build, **{name: choices[0]})
    data = load_configured(replace(config.data, build=build))
    assert data.validation is not None
    takes_texts = is_built(config.data) and bool(data.vocabulary and data.vocabulary.takes_texts)
    searched = parameters(config.space, config.data.build, takes_texts=takes_texts)
    check_batch(batch_size=config.execution.batch_size, rows=data.train.num_rows, replicas=1)
    first = {n: d.choices[0] if hasattr(d, "choices") else d.low for n, d in searched.items()}
    trial = from_mapping(TrainConfig, trial_settings(config, first), where="a trial's settings")
    trainer_of(trial, data, trial.execution, epochs=trial.epochs)
    hide_too_new_gpus()
    gpus = tf.config.list_physical_devices("GPU")
    # TensorFlow lists the GPUs in the order of the variable, or else by CUDA's own numbers.
    names = (os.environ.get(VISIBLE) or ",".join(map(str, range(len(gpus))))).split(",")
    known = {
        "name": data.name,
        "rows": data.train.num_rows,
        "validation_rows": data.validation.num_rows,
        "fingerprints": [data.train.fingerprint, data.validation.fingerprint],
    }
    usable = tf.config.get_visible_devices("GPU")
    return searched, [n for n, gpu in zip(names, gpus, strict=False) if gpu in usable], known


def _open_folder(config: TuneConfig, claims: contextlib.ExitStack) -> Path:
    """Returns the folder of the search, claimed until `claims` closes.

    Raises:
        InputError: when the folder cannot be written to, another command uses it, it holds a search
            and neither --overwrite nor --resume was given, or it holds none and --resume was given.
    """
    folder = Path(config.tune_dir or time.strftime("runs/tune_%Y-%m-%d_%H-%M-%S")).absolute()
    claim(folder, claims, what="tune folder")
    names = (CONFIG_FILE_NAME, STUDY_FILE_NAME)
    present = ", ".join(name for name in names if (folder / name).exists())
    if present and not (config.overwrite or config.resume):
        raise InputError(
            f"{folder} already holds a search ({present}); give --resume to go on with it, "
            "--overwrite to replace it, or another --tune-dir"
        )
    if config.resume and not present:
        raise InputError(f"{folder} holds no search to go on with; leave out --resume")
    return folder


def _check_same(path: Path, recorded: Mapping[str, Any]) -> None:
    """Raises an InputError if the search that `path` records has other settings or train rows."""
    before, now = read_json(path, remedy="Restore it, or name another --tune-dir."), dict(recorded)
    if before.pop("dataset", None) != now.pop("dataset"):
        raise InputError(
            f"{path.parent} cannot be resumed with other data: the train rows differ from those "
            "that it began with; restore them, or name another --tune-dir"
        )
    are = {n: v for n, v in flattened(now).items() if n not in _MAY_DIFFER}
    if differing := differences(flattened(before, where=str(path)), are):
        raise InputError(
            f"{path.parent} cannot be resumed with other settings: {differing}; give those that it "
            "began with, or another --tune-dir"
        )


def trial_settings(config: TuneConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a trial's settings of `TrainConfig`, by their bare names, without those at their
    defaults.

    Args:
        config: the settings of the search; paths become absolute, for commands in any folder.
        values: the values of the search's parameters.
    """
    flat = flattened({"data": asdict(config.data), "execution": asdict(config.execution)})
    for name in _PATHS:
        if flat[name] not in (None, "imdb", "synthetic"):
            flat[name] = str(Path(flat[name]).absolute())
    flat |= {"epochs": config.epochs, **settings_of(config.space, values)}
    return changed(from_mapping(TrainConfig, flat, where="a trial's settings"))


def toml_text(settings: Mapping[str, Any]) -> str:
    """Returns settings as lines of TOML: numbers, booleans, strings, lists; None becomes the string
    "None"."""
    lines = (
        f"{name} = {json.dumps('None' if value is None else value, ensure_ascii=False)}\n"
        for name, value in settings.items()
    )
    return "".join(lines).replace("\x7f", "\\u007f")  # but for this one, TOML escapes as JSON does


def described(values: Mapping[str, Any]) -> str:
    """Returns a trial's values in a line."""
    forms = {name: ".4g" if isinstance(value, float) else "," for name, value in values.items()}
    return ", ".join(f"{n.replace('_', ' ')} {values[n]:{form}}" for n, form in forms.items())


def outcome(trial: Trial, search: Search) -> str:
    """Returns a trial and its result in a line."""
    asked, total = trial.asked, search.config.trials
    found = trial.note
    if not found and (best := best_epoch(search.study, trial.values)):
        value, epochs = trial.values[best], len(trial.values)
        found = f"{search.config.objective} {value:.4f} in epoch {best} of {epochs}"
    status = "" if trial.status == "complete" else str(trial.status)
    came_of = "; ".join(filter(None, (status, found)))
    return f"{asked.number + 1:>{len(str(total))}}/{total}  {described(asked.params)}: {came_of}"


def _report(config: TuneConfig, study: Any, folder: Path, *, interrupted: bool) -> int:
    """Writes the settings of the best trial, and prints them; returns the command's exit code."""
    trials = study.get_trials(deepcopy=False)
    is_found = any(trial.state.name == "COMPLETE" for trial in trials)
    if is_found:
        best, path = study.best_trial, folder / BEST_FILE_NAME
        epochs = best_epoch(study, best.intermediate_values)
        found = f"validation {config.objective} {best.value:.4f}"
        settings = toml_text(trial_settings(config, best.params) | {"epochs": epochs})
        with replacing(path) as beside:
            text = f"# Trial {best.number + 1} of {len(trials)}: {found}\n{settings}"
            beside.write_text(text, encoding="utf-8")
        command = as_command(f"train --config {shlex.quote(str(path))}")
        _print(f"\nbest           trial {best.number + 1}, {found}")
        _print(f"               {described(best.params)}, epochs {epochs}")
        _print(f"settings       {path}")
        _print(f"repeat it      {command}")
        _print(f"on all rows    {command} --validation-split 0")
    else:
        _print(f"none of {len(trials)} trials came to its end")
    if trials:
        place = shlex.quote(str(folder / TRIALS_FOLDER_NAME))
        _print(f"trials         {as_command(f'tensorboard {place}')}")
    if interrupted:
        left = config.trials - sum(trial.state.is_finished() for trial in trials)
        again = f"--tune-dir {shlex.quote(str(folder))} --resume"
        _print(f"interrupted with {left} trials left; to go on, add {again} to the command")
        return EXIT_INTERRUPTED
    return 0 if is_found else 1


def _print(text: str) -> None:
    Console().out(printable(text))
