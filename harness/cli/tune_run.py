"""What `harness tune` does: checks, the search, and the report."""

import json
import multiprocessing
import os
import shlex
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.checks import check_batch
from harness.child import end_with_parent
from harness.cli.compare import require_package
from harness.cli.train import TrainConfig, trainer_of
from harness.cli.tune import TuneConfig
from harness.data.sources import is_built, load_configured
from harness.decoding import changed, differences, flattened, from_mapping
from harness.errors import InputError, as_command, printable
from harness.files import json_text, write_json
from harness.interrupt import EXIT_INTERRUPTED
from harness.observe.nvml import VISIBLE
from harness.quiet import quiet_import
from harness.reading import read_json
from harness.run_folder import claim
from harness.tune import study as studies
from harness.tune.search import Search, TrialProcess
from harness.tune.space import first_values, parameters, settings_of
from harness.tune.study import Study, storage_errors
from kernels.files import remove, replacing

CONFIG_FILE_NAME = "config.json"
BEST_FILE_NAME = "best.toml"
TRIALS_FOLDER_NAME = "trials"
_PATHS = ("data", "test_data", "word_index")
_MAY_DIFFER = {"resume", "overwrite", "tune_dir", "trials", "timeout", "jobs"}
_MAY_DIFFER |= {"data_cache", "max_data_bytes", *_PATHS}
"""Settings that a search may be resumed with whatever it began with; of paths the rows decide."""
_OF_TRIALS = {"test": "off", "checkpoint_every": "1m", "keep": 1}
"""Settings of every trial that are not for the model that is trained in the end."""


def run_tune(config: TuneConfig, console: Console) -> int:
    """Runs the command, as `harness.cli.tune.tune` describes it."""
    require_package("optuna", "to search", "use scripts/harness, which brings it")
    # 1. Everything that may be wrong is checked before anything is removed or trained. A process
    # that ends again loads the data and TensorFlow: a GPU that it looks at is left free.
    parameters(config.space, config.data.build, takes_texts=is_built(config.data))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin_checks) as process:
        searched, gpus, known = process.submit(_checked, config).result()
    recorded = json.loads(json_text({**asdict(config), "dataset": known}))
    with ExitStack() as closing:
        folder = _open_folder(config, recorded, closing)
        if not config.resume:
            for name in (*studies.FILE_NAMES, BEST_FILE_NAME, TRIALS_FOLDER_NAME):
                remove(folder / name)
            write_json(folder / CONFIG_FILE_NAME, recorded)

        # 2. The search. Ctrl-C keeps the trials that have ended.
        num_jobs = max(len(gpus), 1) if config.jobs == "auto" else config.jobs
        study = Study(
            folder,
            searched,
            objective=config.objective,
            pruner=config.pruner,
            seed=config.execution.seed,
            in_parallel=num_jobs > 1,
        )

        def ended(process: TrialProcess, status: str, note: str) -> None:
            number = f"{process.trial.number + 1:>{len(str(config.trials))}}/{config.trials}"
            found = ""
            if best := study.best_epoch(process.values):
                value, epochs = process.values[best], len(process.values)
                found = f"{config.objective} {value:.4f} in epoch {best} of {epochs}"
            came_of = [found] if status == "complete" else [status, found or note]
            text = (
                f"{number}  {described(process.trial.params)}: {'; '.join(filter(None, came_of))}"
            )
            console.out(printable(text, one_line=True))

        search = Search(
            study,
            folder / TRIALS_FOLDER_NAME,
            objective=config.objective,
            num_trials=config.trials,
            num_jobs=min(num_jobs, config.trials),
            gpus=gpus,
            patience=config.early_stopping,
            timeout=config.timeout,
            settings_of=lambda values: toml_text(trial_settings(config, values) | _OF_TRIALS),
            ended=ended,
        )
        closing.enter_context(storage_errors(folder / studies.FILE_NAMES[0]))
        interrupted = False
        try:
            search.run()
        except KeyboardInterrupt:
            interrupted = True
        _report(config, study, folder, console)
        if interrupted:
            left = config.trials - sum(trial.state.is_finished() for trial in study.trials)
            again = f"--tune-dir {shlex.quote(str(folder))} --resume"
            text = f"interrupted with {left} trials left; to go on, add {again} to the command"
            console.out(printable(text))
            return EXIT_INTERRUPTED
        return 0 if study.best is not None else 1


def _begin_checks() -> None:
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says that it was interrupted


def _checked(config: TuneConfig) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """What is searched, the GPUs as CUDA_VISIBLE_DEVICES names them, and what must be the same of
    the data when the search goes on: of the test rows nothing.

    Raises:
        InputError: when the settings do not fit the data, or one of them is wrong.
    """
    with quiet_import():
        import tensorflow as tf

        from harness.environment import hide_too_new_gpus
    space, build = config.space, config.data.build
    choices = {"ngrams": space.ngrams_choices, "num_tokens": space.num_tokens_choices}
    first = {name: values[0] for name, values in choices.items() if values}
    data = load_configured(replace(config.data, build=replace(build, **first)))
    takes_texts = is_built(config.data) and data.vocabulary is not None
    takes_texts = takes_texts and data.vocabulary.takes_texts
    searched = parameters(space, build, takes_texts=takes_texts)
    check_batch(batch_size=config.execution.batch_size, rows=data.train.num_rows, replicas=1)
    settings = trial_settings(config, first_values(searched))
    trial = from_mapping(TrainConfig, settings, where="a trial's settings")
    trainer_of(trial, data, trial.execution, epochs=trial.epochs)
    hide_too_new_gpus()
    gpus, usable = (
        look("GPU") for look in (tf.config.list_physical_devices, tf.config.get_visible_devices)
    )
    # TensorFlow lists them in the order of the variable, or of CUDA's own numbers.
    names = os.environ.get(VISIBLE, "").split(",")
    names = names if names != [""] else [str(number) for number in range(len(gpus))]
    assert data.validation is not None
    known = {
        "name": data.name,
        "rows": data.train.num_rows,
        "validation_rows": data.validation.num_rows,
        "fingerprints": [data.train.fingerprint, data.validation.fingerprint],
    }
    return searched, [names[gpus.index(gpu)] for gpu in usable], known


def _open_folder(config: TuneConfig, recorded: Mapping[str, Any], claims: ExitStack) -> Path:
    """The folder of the search, claimed until `claims` closes.

    Raises:
        InputError: when it cannot be written to, another command uses it, it holds a search and
            neither --overwrite nor --resume was given, or it holds none, or one of other settings
            or train rows, and --resume was.
    """
    folder = Path(config.tune_dir or time.strftime("runs/tune_%Y-%m-%d_%H-%M-%S")).absolute()
    claim(folder, claims, what="tune folder")
    names = (CONFIG_FILE_NAME, studies.FILE_NAMES[0])
    present = ", ".join(name for name in names if (folder / name).exists())
    if present and not (config.overwrite or config.resume):
        raise InputError(
            f"{folder} already holds a search ({present}); give --resume to go on with it, "
            "--overwrite to replace it, or another --tune-dir"
        )
    if not config.resume:
        return folder
    if not present:
        raise InputError(f"{folder} holds no search to go on with; leave out --resume")
    path = folder / CONFIG_FILE_NAME
    before = read_json(path, remedy="Restore it, or name another --tune-dir.")
    if before.pop("dataset", None) != recorded["dataset"]:
        raise InputError(
            f"{folder} cannot be resumed with other data: the train rows differ from those that it "
            "began with; restore them, or name another --tune-dir"
        )
    were, are = flattened(before, where=str(path)), flattened(recorded)
    deciding = {name: value for name, value in are.items() if name not in _MAY_DIFFER}
    if differing := differences(were, deciding):
        raise InputError(
            f"{folder} cannot be resumed with other settings: {differing}; give those that it "
            "began with, or another --tune-dir"
        )
    return folder


def trial_settings(config: TuneConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `TrainConfig` of a trial, by their bare names, without those at their
    default. Paths are absolute: the settings are for commands in any folder.

    Args:
        config: of the search.
        values: of its parameters.
    """
    settings = {
        **flattened({"data": asdict(config.data), "execution": asdict(config.execution)}),
        "epochs": config.epochs,
        **settings_of(config.space, values),
    }
    settings = changed(from_mapping(TrainConfig, settings, where="a trial's settings"))
    paths = {n: settings[n] for n in _PATHS if settings.get(n) not in (None, "imdb", "synthetic")}
    return settings | {name: str(Path(path).absolute()) for name, path in paths.items()}


def toml_text(settings: Mapping[str, Any]) -> str:
    """Settings as lines of TOML: numbers, truth values, texts, lists; None is the text "None"."""
    return "".join(f"{name} = {_toml(value)}\n" for name, value in settings.items())


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    text = json.dumps("None" if value is None else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # but for this one, TOML escapes as JSON does


def described(values: Mapping[str, Any]) -> str:
    """A trial's values in a line."""
    shown = (f"{v:.4g}" if isinstance(v, float) else f"{v:,}" for v in values.values())
    names = (name.replace("_", " ") for name in values)
    return ", ".join(f"{name} {value}" for name, value in zip(names, shown, strict=True))


def _report(config: TuneConfig, study: Study, folder: Path, console: Console) -> None:
    """Prints the best trial, and writes its settings."""
    trials, best = study.trials, study.best
    if best is None:
        notes = [
            trial.user_attrs[studies.NOTE] for trial in trials if studies.NOTE in trial.user_attrs
        ]
        why = next((f": {note}" for note in notes if note), "")
        lines = [f"none of {len(trials)} trials came to its end{why}"]
    else:
        path, epochs = folder / BEST_FILE_NAME, study.best_epoch(best.intermediate_values)
        found = f"validation {config.objective} {best.value:.4f}"
        settings = toml_text(trial_settings(config, best.params) | {"epochs": epochs})
        with replacing(path) as beside:
            comment = f"# Trial {best.number + 1} of {len(trials)}: {found}\n"
            beside.write_text(comment + settings, encoding="utf-8")
        command = as_command(f"train --config {shlex.quote(str(path))}")
        lines = [
            "",
            f"best           trial {best.number + 1}, {found}",
            f"               {described(best.params)}, epochs {epochs}",
            f"settings       {path}",
            f"repeat it      {command}",
            f"on all rows    {command} --validation-split 0",
        ]
    if trials:
        place = shlex.quote(str(folder / TRIALS_FOLDER_NAME))
        lines.append(f"trials         {as_command(f'tensorboard {place}')}")
    for line in lines:
        console.out(printable(line))
