import contextlib
import json
import math
import multiprocessing
import os
import shlex
import signal
import time
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from harness.base.checks import Number, check_batch, require, require_extra
from harness.base.child import end_with_parent
from harness.base.decoding import changed, differences, flattened, from_mapping
from harness.base.errors import InputError, LostWorkerError, as_command, printable
from harness.base.files import json_text, write_json
from harness.base.interrupt import EXIT_INTERRUPTED
from harness.base.memory import collect_rarely
from harness.base.quiet import quiet_import
from harness.base.reading import read_json
from harness.data.options import DataConfig
from harness.run.run_folder import claim
from harness.run.telemetry.nvml import VISIBLE
from harness.tools.experiment import TrainConfig, trainer_of
from harness.tools.recipe import applies, find
from harness.tools.tune.search import STUDY_FILE_NAME, TRIALS_FOLDER_NAME, Search, Trial, open_study
from harness.tools.tune.space import SearchConfig, Space, parameters, settings_of
from harness.trainer.settings import Settings, check_folder
from kernels.files import remove, replacing

CONFIG_FILE_NAME = "config.json"
BEST_FILE_NAME = "best.toml"
_WRITTEN = (STUDY_FILE_NAME, f"{STUDY_FILE_NAME}-journal", BEST_FILE_NAME, TRIALS_FOLDER_NAME)
_EPOCHS = 10  # epochs of a trial where there is no recipe
_PATHS = ("data", "test_data", "word_index")
_MAY_DIFFER = {"resume", "overwrite", "run_dir", "trials", "timeout", "jobs"}
# Settings that may change when a search is resumed; paths may change if the rows are the same.
_MAY_DIFFER |= {"data_cache", "max_data_bytes", *_PATHS}
# Settings of every trial that do not hold for the model that is trained in the end.
_OF_TRIALS = {"test": "off", "checkpoint_every": "1m", "keep": 1}


@dataclass(frozen=True, kw_only=True)
class TuneData(DataConfig):
    """The data set to use, and how to prepare it. The test rows are never looked at."""

    validation_split: Annotated[float, Number(above=0, below=1)] = 0.2
    """Share of the training rows that judges the trials, the same share of each class."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig(SearchConfig):
    """Search for the settings that do best on a validation part of the training rows: learning
    rate, width, depth, dropout, weight decay, and for texts n-grams and vocabulary. The recipe of
    `train` is the first trial, and the rest of it holds for all. Needs the extra `tune`."""

    data: TuneData = field(default_factory=TuneData)
    space: Space = field(default_factory=Space)
    execution: Settings = field(default_factory=Settings)
    run_dir: str | None = None
    """Folder for the study, the trials' folders and best.toml. Default: runs/tune_ and the time."""
    overwrite: bool = False
    """Replace the search that is already in the folder."""
    resume: bool = False
    """Go on with a search in the folder, with the same settings, however it ended."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.execution.replicas in ("auto", 1),
            f"--replicas is {self.execution.replicas}, but each trial has one device; leave it "
            "out, and set --jobs to the number of trials at the same time",
        )
        check_folder("--run-dir", self.run_dir, resume=self.resume, overwrite=self.overwrite)


def tune(config: TuneConfig, *, given: Set[str] = frozenset()) -> int:
    """Returns the exit code: 1 when no trial came to its end, 130 when interrupted."""
    deadline = time.monotonic() + (config.timeout or math.inf)  # the recipe's search counts, too
    from harness.data.sources import kind_of  # imports NumPy, which --help need not wait for

    require_extra("tune", "a search", "optuna")
    with contextlib.ExitStack() as closing:
        # 1. Check everything that may be wrong before anything is removed or trained. A separate
        # process loads the data and TensorFlow, so that its end frees their memory and the GPUs.
        parameters(config.space, config.data.build, takes_texts=kind_of(config.data) is not None)
        named = config.run_dir or time.strftime("runs/tune_%Y-%m-%d_%H-%M-%S")
        folder = claim(Path(named).absolute(), closing, what="tune folder").path
        names = (CONFIG_FILE_NAME, STUDY_FILE_NAME)
        present = ", ".join(name for name in names if (folder / name).exists())
        if present and not (config.overwrite or config.resume):
            raise InputError(
                f"{folder} already holds a search ({present}); give --resume to go on with it, "
                "--overwrite to replace it, or another --run-dir"
            )
        if config.resume and not present:
            raise InputError(f"{folder} holds no search to go on with; leave out --resume")
        remedy = "Restore it, or name another --run-dir."
        before = read_json(folder / CONFIG_FILE_NAME, remedy=remedy) if config.resume else {}
        if config.resume:
            _check_same(folder, before, json.loads(json_text(asdict(config))))
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin_checks) as process:
            try:
                arguments = config, given, before.get("recipe", {}) if config.resume else None
                searched, gpus, known, recipe = process.submit(_checked, *arguments).result()
            except KeyboardInterrupt:
                # It ignores Ctrl-C, and a search of the recipe may take minutes.
                for child in multiprocessing.active_children():
                    child.kill()
                raise
            except BrokenProcessPool as error:
                raise LostWorkerError(
                    "the process that loads the data was killed, as the system does when memory "
                    "runs out; free some, or ask for less"
                ) from error
        recorded = json.loads(json_text({**asdict(config), "dataset": known, "recipe": recipe}))
        if config.resume:
            require(
                before.get("dataset") == recorded["dataset"],
                f"{folder} cannot be resumed with other data: the train rows differ from those "
                "that it began with; restore them, or name another --run-dir",
            )
        else:
            for name in _WRITTEN:
                remove(folder / name)
            write_json(folder / CONFIG_FILE_NAME, recorded)

        # 2. Search. Ctrl-C keeps the trials that have ended.
        num_jobs = max(len(gpus), 1) if config.jobs == "auto" else config.jobs
        falls = recipe.get("learning_rate_schedule", "constant") != "constant"
        search = Search(
            study=open_study(folder, config),
            searched=searched,
            config=replace(config, early_stopping=None) if falls else config,
            seed=config.execution.seed,
            folder=folder,
            gpus=gpus,
            num_jobs=min(num_jobs, config.trials),
            settings_of=lambda values: toml_text(
                trial_settings(config, values, recipe) | _OF_TRIALS
            ),
            ended=lambda trial: _print(outcome(trial, search)),
            first=_first_values(config, recipe, searched),
            falls=falls,
            deadline=deadline,
        )
        interrupted = False
        try:
            search.run()
        except KeyboardInterrupt:
            interrupted = True
        return _report(config, search, recipe, interrupted=interrupted)


def _begin_checks() -> None:
    end_with_parent(signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is None or not parent.is_alive():  # it ended while this process was starting
        os._exit(1)
    collect_rarely()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent reports the interrupt


def _checked(
    config: TuneConfig, given: Set[str], recipe: dict[str, Any] | None
) -> tuple[dict[str, Any], list[str], dict[str, Any], dict[str, Any]]:
    """Loads the data, and searches the recipe if it is None. Returns the distributions to search,
    the GPUs as CUDA_VISIBLE_DEVICES names them, the facts about the data that must not change when
    the search is resumed, and the settings of the recipe; none if there is none."""
    with quiet_import():
        import tensorflow as tf

        from harness.data.sources import kind_of, load_configured
        from harness.trainer.environment import hide_too_new_gpus
    hide_too_new_gpus()
    if recipe is None:
        recipe = _recipe(config, given)
    build = config.data.build
    takes_texts = kind_of(config.data) == "texts"
    searched = parameters(
        config.space, build, takes_texts=takes_texts, learning_rate=recipe.get("learning_rate")
    )
    first = {n: d.choices[0] if hasattr(d, "choices") else d.low for n, d in searched.items()}
    settings = trial_settings(config, first | _first_values(config, recipe, searched), recipe)
    trial = from_mapping(TrainConfig, settings, where="a trial's settings")
    data = load_configured(trial.data)
    assert data.validation is not None
    check_batch(batch_size=trial.execution.batch_size, rows=data.train.num_rows, replicas=1)
    trainer_of(trial, data, trial.execution, epochs=trial.epochs)
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
    named = [name for name, gpu in zip(names, gpus, strict=False) if gpu in usable]
    return searched, named, known, recipe


def _recipe(config: TuneConfig, given: Set[str]) -> dict[str, Any]:
    """Returns the settings of `train`'s recipe on the validation rows; none without one."""
    flat = _base(config)
    for name in ("ngrams", "num_tokens"):
        if choices := getattr(config.space, f"{name}_choices"):
            flat[name] = choices[0]
            given = given | {name}
    for name in ("epochs", "early_stopping"):
        if name in given:
            flat[name] = getattr(config, name)
    train = from_mapping(TrainConfig, flat, where="the settings")
    started = "trying the recipe's candidates on the validation rows"
    found = find(train, given, started=lambda: _print(started)) if applies(train) else None
    if found is None:
        return {}
    _print(str(found))
    return found.settings


def _first_values(
    config: TuneConfig, recipe: Mapping[str, Any], searched: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the recipe as values of the search's parameters, those that it may take."""
    if not recipe:
        return {}
    units = [units for units in recipe["hidden_units"] if units > 0]
    values = dict(recipe) | {
        "width": max(units, default=None),
        "depth": len(units),
        "dropout": recipe["dropout"][0],
        "weight_decay": config.space.weight_decays[0],
    }

    def may_be(value: Any, of: Any) -> bool:
        return value in of.choices if hasattr(of, "choices") else of.low <= value <= of.high

    given = {name: values[name] for name in searched if values.get(name) is not None}
    return {name: value for name, value in given.items() if may_be(value, searched[name])}


def _check_same(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    def settings(recorded: Mapping[str, Any]) -> dict[str, Any]:
        own = {n: v for n, v in recorded.items() if n not in ("dataset", "recipe")}
        flat = flattened(own, where=str(folder / CONFIG_FILE_NAME))
        return {n: v for n, v in flat.items() if n not in _MAY_DIFFER}

    if differing := differences(settings(before), settings(now)):
        raise InputError(
            f"{folder} cannot be resumed with other settings: {differing}; give those that it "
            "began with, or another --run-dir"
        )


def trial_settings(
    config: TuneConfig, values: Mapping[str, Any], recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns a trial's settings of `TrainConfig` that differ from their defaults: the search's,
    the recipe's, and over them the `values` of the search's parameters. Paths are absolute."""
    flat = _base(config)
    for name in _PATHS:
        if flat[name] not in (None, "imdb", "synthetic"):
            flat[name] = str(Path(flat[name]).absolute())
    flat |= {"epochs": config.epochs or _EPOCHS, **recipe, **settings_of(config.space, values)}
    return changed(from_mapping(TrainConfig, flat, where="a trial's settings"))


def _base(config: TuneConfig) -> dict[str, Any]:
    space = {n: getattr(config.space, n) for n in ("optimizer", "activation", "table_dtype")}
    return space | flattened({"data": asdict(config.data), "execution": asdict(config.execution)})


def toml_text(settings: Mapping[str, Any]) -> str:
    """Returns settings as lines of TOML; None becomes the string "None"."""
    given = {name: "None" if value is None else value for name, value in settings.items()}
    lines = (f"{name} = {json.dumps(v, ensure_ascii=False)}\n" for name, v in given.items())
    return "".join(lines).replace("\x7f", "\\u007f")  # but for this one, TOML escapes as JSON does


def described(values: Mapping[str, Any]) -> str:
    forms = {name: ".4g" if isinstance(value, float) else "," for name, value in values.items()}
    return ", ".join(f"{n.replace('_', ' ')} {values[n]:{form}}" for n, form in forms.items())


def outcome(trial: Trial, search: Search) -> str:
    asked, total = trial.asked, search.config.trials
    found = trial.note
    if not found and (counted := search.counted_epoch(trial.values)):
        value, epochs = trial.values[counted], len(trial.values)
        found = f"{search.config.objective} {value:.4f} in epoch {counted} of {epochs}"
    status = "" if trial.status == "complete" else str(trial.status)
    came_of = "; ".join(filter(None, (status, found)))
    return f"{asked.number + 1:>{len(str(total))}}/{total}  {described(asked.params)}: {came_of}"


def _report(
    config: TuneConfig, search: Search, recipe: Mapping[str, Any], *, interrupted: bool
) -> int:
    study, folder = search.study, search.folder
    trials = study.get_trials(deepcopy=False)
    is_found = any(trial.state.name == "COMPLETE" for trial in trials)
    if is_found:
        best, path = study.best_trial, folder / BEST_FILE_NAME
        epochs = search.counted_epoch(best.intermediate_values)
        found = f"validation {config.objective} {best.value:.4f}"
        settings = toml_text(trial_settings(config, best.params, recipe) | {"epochs": epochs})
        with replacing(path) as beside:
            text = f"# Trial {best.number + 1} of {len(trials)}: {found}\n{settings}"
            beside.write_text(text, encoding="utf-8")
        command = as_command(f"train --config {shlex.quote(str(path))}")
        _print(f"\nbest           trial {best.number + 1}, {found}")
        _print(f"               {described(best.params)}, epochs {epochs}")
        _print(f"settings       {path}")
        _print(f"repeat it      {command}")
        _print(f"on all rows    {command} --validation-split 0")
        _print(f"longer         {_prospects(search, trials)}")
    else:
        _print(f"none of {len(trials)} trials came to its end")
    if trials:
        place = shlex.quote(str(folder / TRIALS_FOLDER_NAME))
        _print(f"trials         {as_command(f'tensorboard {place}')}")
    stopped = sum(not trial.state.is_finished() for trial in trials)
    if stopped and not interrupted:
        _print(f"stopped        {stopped} at --timeout; to go on with it, add --resume")
    if interrupted:
        left = config.trials - sum(trial.state.is_finished() for trial in trials)
        again = f"--run-dir {shlex.quote(str(folder))} --resume"
        _print(f"interrupted with {left} trials left; to go on, add {again} to the command")
        return EXIT_INTERRUPTED
    return 0 if is_found else 1


def _prospects(search: Search, trials: Sequence[Any]) -> str:
    """Says whether more trials would pay, by what the second half of them gained."""
    sign = -1 if search.study.direction.name == "MINIMIZE" else 1
    done = [trial for trial in trials if trial.state.is_finished()]
    half = len(done) // 2
    best = [
        max((sign * t.value for t in part if t.state.name == "COMPLETE"), default=-math.inf)
        for part in (done[:half], done)
    ]
    if half == 0 or best[0] == -math.inf:
        return "too few trials to tell; raise --timeout or --trials, and add --resume"
    # Not from the first one's start to the last one's end: hours may lie between two searches.
    minutes = sum(trial.duration.total_seconds() for trial in done[half:]) / 60 / search.num_jobs
    gain, objective = best[1] - best[0], search.config.objective
    what = f"the last {len(done) - half} trials, {minutes:.1f} minutes, "
    if gain <= 0:
        return f"{what}were no better than those before; more would hardly pay"
    return (
        f"{what}bettered the {objective} by {gain:.4f}; as many again may pay: "
        f"--resume --trials {2 * len(done) - half}"
    )


def _print(text: str) -> None:
    Console().out(printable(text))
