"""What `harness tune` does: checks, the search in processes of their own, and the report."""

import json
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.checks import check_batch
from harness.cli.compare import require_package
from harness.cli.train import TrainConfig
from harness.cli.tune import TuneConfig
from harness.data.options import DataConfig
from harness.data.sources import Dataset, is_built, load_configured
from harness.decoding import changed, differences, flattened, from_mapping
from harness.errors import InputError, as_command, printable
from harness.files import json_text, write_json
from harness.interrupt import EXIT_INTERRUPTED
from harness.reading import read_json
from harness.run_folder import claim
from harness.tune.report import described, outcome, write_best, write_hparams
from harness.tune.search import Search
from harness.tune.space import first_values, parameters, settings_of
from harness.tune.study import STUDY_FILE_NAME, Study, Trial, storage_errors
from harness.tune.trial import TrialProcess

CONFIG_FILE_NAME = "config.json"
BEST_FILE_NAME = "best.toml"
TENSORBOARD_FOLDER_NAME = "tensorboard"
_MAY_DIFFER = frozenset(
    {"resume", "overwrite", "tune_dir", "trials", "timeout", "jobs", "data_cache", "max_data_bytes"}
)
"""Settings that a search may be resumed with whatever it began with."""


def run_tune(config: TuneConfig, console: Console) -> int:
    """Runs the command, as `harness.cli.tune.tune` describes it."""
    require_package("optuna", "to search", "use scripts/harness, which brings it")
    config = replace(config, data=_absolute(config.data))
    with ExitStack() as closing:
        # 1. Everything that may be wrong is checked before anything is removed or trained.
        built = is_built(config.data)
        searched = parameters(config.space, config.data.build, takes_texts=built)
        data = load_configured(_first_data(config))
        if built and not (data.vocabulary is not None and data.vocabulary.takes_texts):
            searched = parameters(config.space, config.data.build, takes_texts=False)
        check_batch(batch_size=config.execution.batch_size, rows=data.train.num_rows, replicas=1)
        recorded = json.loads(json_text({**asdict(config), "dataset": _known_of(data)}))
        del data  # leaves its memory to the processes
        folder = _open_folder(config, recorded, closing)
        first = trial_settings(config, first_values(searched))
        processes, start = _started(config, first, closing)
        if not config.resume:
            _clear(folder)
            write_json(folder / CONFIG_FILE_NAME, recorded)

        # 2. The search. Ctrl-C keeps the trials that have ended.
        study = Study(
            folder,
            searched,
            objective=config.objective,
            pruner=config.pruner,
            seed=config.execution.seed,
            in_parallel=len(processes) > 1,
        )
        search = Search(
            study,
            num_trials=config.trials,
            timeout=config.timeout,
            patience=config.early_stopping,
            settings_of=lambda values: trial_settings(config, values),
            start=start,
            ended=lambda trial: _tell(trial, config, console),
        )
        closing.enter_context(storage_errors(folder / STUDY_FILE_NAME))
        try:
            search.run(processes)
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True

        # 3. The report.
        _report(config, study, folder, console)
        if interrupted:
            again = f"--tune-dir {shlex.quote(str(folder))} --resume"
            left = config.trials - len(study.trials)
            text = f"interrupted with {left} trials left; to go on, add {again} to the command"
            console.out(printable(text))
            return EXIT_INTERRUPTED
        return 0 if study.best is not None else 1


def _absolute(data: Any) -> Any:
    """The settings of the data with absolute paths, for processes and commands in any folder."""

    def path(name: str | None) -> str | None:
        return None if name is None else str(Path(name).absolute())

    return replace(
        data,
        data=data.data if data.data in ("synthetic", "imdb") else path(data.data),
        word_index=path(data.word_index),
        build=replace(data.build, test_data=path(data.build.test_data)),
    )


def _first_data(config: TuneConfig) -> DataConfig:
    """The settings of the data that one of the trials may have."""
    choices = {
        name: values[0]
        for name in ("ngrams", "num_tokens")
        if (values := getattr(config.space, f"{name}_choices"))
    }
    return replace(config.data, build=replace(config.data.build, **choices))


def _known_of(data: Dataset) -> dict[str, Any]:
    """What must be the same when the search goes on. Of the test rows nothing."""
    assert data.validation is not None
    return {
        "name": data.name,
        "rows": data.train.num_rows,
        "validation_rows": data.validation.num_rows,
        "fingerprints": [data.train.fingerprint, data.validation.fingerprint],
    }


def _open_folder(config: TuneConfig, recorded: Mapping[str, Any], claims: ExitStack) -> Path:
    """The folder of the search, claimed until `claims` closes.

    Raises:
        InputError: when it cannot be written to, another command uses it, it holds a search and
            neither --overwrite nor --resume was given, or it holds none, or one of other settings,
            and --resume was.
    """
    named = config.tune_dir or time.strftime("runs/tune_%Y-%m-%d_%H-%M-%S")
    folder = Path(named).absolute()
    claim(folder, claims, what="tune folder")
    present = [n for n in (CONFIG_FILE_NAME, STUDY_FILE_NAME) if (folder / n).exists()]
    if present and not (config.overwrite or config.resume):
        raise InputError(
            f"{folder} already holds a search ({', '.join(present)}); give --resume to go on with "
            "it, --overwrite to replace it, or another --tune-dir"
        )
    if config.resume:
        if not present:
            raise InputError(f"{folder} holds no search to go on with; leave out --resume")
        _check_same(folder, recorded)
    return folder


def _check_same(folder: Path, recorded: Mapping[str, Any]) -> None:
    path = folder / CONFIG_FILE_NAME
    before = read_json(path, remedy="Restore it, or name another --tune-dir.")
    now = dict(recorded)
    if before.pop("dataset", None) != now.pop("dataset"):
        raise InputError(
            f"{folder} cannot be resumed with other data: the train rows differ from those that it "
            "began with; restore them, or name another --tune-dir"
        )
    were, are = flattened(before, where=str(path)), flattened(now)
    deciding = {name: value for name, value in are.items() if name not in _MAY_DIFFER}
    if differing := differences(were, deciding):
        raise InputError(
            f"{folder} cannot be resumed with other settings: {differing}; give those "
            "that it began with, or another --tune-dir"
        )


def _clear(folder: Path) -> None:
    for path in folder.glob(f"{STUDY_FILE_NAME}*"):  # SQLite's journal too
        path.unlink()
    (folder / BEST_FILE_NAME).unlink(missing_ok=True)
    shutil.rmtree(folder / TENSORBOARD_FOLDER_NAME, ignore_errors=True)


def _started(
    config: TuneConfig, settings: Mapping[str, Any], closing: ExitStack
) -> tuple[list[TrialProcess], Callable[[int], TrialProcess]]:
    """The processes, once the first has found that a trial's settings are right; and what starts
    another one of a job."""
    num_jobs = 1 if config.jobs == "auto" else min(config.jobs, config.trials)

    def start(job: int) -> TrialProcess:
        return TrialProcess(settings, job=job, num_jobs=num_jobs)

    first = closing.enter_context(start(0))
    num_gpus = first.num_gpus
    if config.jobs == "auto":
        num_jobs = min(max(num_gpus, 1), config.trials)
    return [first, *(closing.enter_context(start(job)) for job in range(1, num_jobs))], start


def trial_settings(config: TuneConfig, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `TrainConfig` of a trial, by their bare names, without those at their
    default.

    Args:
        config: of the search.
        values: of its parameters.
    """
    settings = {
        **flattened({"data": asdict(config.data), "execution": asdict(config.execution)}),
        "epochs": config.epochs,
        **settings_of(config.space, values),
    }
    return changed(from_mapping(TrainConfig, settings, where="a trial's settings"))


def _tell(trial: Trial, config: TuneConfig, console: Console) -> None:
    number = f"{trial.number:>{len(str(config.trials))}}/{config.trials}"
    text = f"{number}  {described(trial.values)}: {outcome(trial, config.objective)}"
    console.out(printable(text, one_line=True))


def _report(config: TuneConfig, study: Study, folder: Path, console: Console) -> None:
    """Prints the best trial, and writes its settings and the event files."""
    trials, best = study.trials, study.best
    if best is None:
        failed = next((trial.note for trial in trials if trial.status == "failed"), "")
        why = f": {failed}" if failed else ""
        console.out(printable(f"none of {len(trials)} trials came to its end{why}"))
    else:
        path = folder / BEST_FILE_NAME
        settings = trial_settings(config, best.values) | {"epochs": best.best_epoch}
        found = f"validation {config.objective} {best.value:.4f}"
        write_best(path, settings, comment=f"Trial {best.number} of {len(trials)}: {found}")
        console.out()
        console.out(printable(f"best           trial {best.number}, {found}"))
        console.out(printable(f"               {described(best.values)}, epochs {best.best_epoch}"))
        console.out(printable(f"settings       {path}"))
        command = as_command(f"train --config {shlex.quote(str(path))}")
        console.out(printable(f"repeat it      {command}"))
        console.out(printable(f"on all rows    {command} --validation-split 0"))
    if trials:
        place = folder / TENSORBOARD_FOLDER_NAME
        shutil.rmtree(place, ignore_errors=True)  # of the search before it was resumed
        write_hparams(trials, place)
        command = as_command(f"tensorboard {shlex.quote(str(place))}")
        console.out(printable(f"trials         {command}"))
