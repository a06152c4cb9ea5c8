"""Opens a run's folder, for a new run, one that replaces another, or one that is resumed, and
checks whether it may be resumed."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.base.decoding import differences, flattened
from harness.base.errors import InputError
from harness.base.files import json_text
from harness.base.reading import read_json
from harness.run.checkpoint_schedule import saved_in
from harness.run.observers import run_files
from harness.run.observers.run_files import CONFIG_FILE_NAME, RESOLVED, read_config
from harness.run.records import DatasetInfo, RunStart
from harness.run.run_folder import Claim, claim, claim_run_folder
from harness.trainer.settings import DECIDE_NO_LOSS, Resume, RunOptions, Settings


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The folders of a run, and the run that it resumes; the chief alone has any."""

    claim: Claim | None = None
    event_folder: Path | None = None  # The folder of the event files; None if there are none
    recorded: Mapping[str, Any] | None = None  # config.json of the run that is resumed
    overwrite: bool = False  # Whether the run in the folder is to be replaced

    @property
    def folder(self) -> Path | None:
        return None if self.claim is None else self.claim.path

    @property
    def execution(self) -> dict[str, Any] | None:
        """The settings of the run that is resumed, and the type of its devices."""
        if self.recorded is None:
            return None
        device = str(self.recorded[RESOLVED].get("devices"))
        kinds = [kind for kind in ("CPU", "GPU") if f"{kind}:" in device]
        return {**self.recorded["execution"], "device_type": kinds[0] if kinds else ""}


def open_run(
    options: RunOptions,
    config: Mapping[str, Any],
    claims: ExitStack,
    *,
    own_folder: Path | None,
    begun: bool,
) -> Opened:
    """Locks the folders of a run, which `claims` holds, and leaves them as they are. In its own
    folder, that of its last fit, a trainer may go on; `begun`, it has trained before."""
    claimed, recorded, overwrite = None, None, options.overwrite
    events: Path | None = None
    if (named := options.run_dir) is not None:
        is_own = own_folder is not None and Path(named).absolute() == own_folder
        resume = options.resume or is_own
        claimed = claim_run_folder(named, claims, resume=resume, overwrite=overwrite)
        events = claimed.path
        # Decided under the lock: another process may have begun a run since.
        goes_on, overwrite = settled(claimed.path, options.resume, overwrite=overwrite)
        if goes_on:
            recorded = check_resumable(claimed.path, config)
    if options.tensorboard == "off":
        events = None
    elif options.tensorboard != "on" and Path(options.tensorboard).absolute() != events:
        events = Path(options.tensorboard).absolute()
        claim(events, claims, what="TensorBoard folder")
    present = None if events is None else next(events.glob(run_files.EVENT_FILES), None)
    if present is not None and not (recorded is not None or overwrite or begun):
        raise InputError(
            f"TensorBoard folder {events} already holds event files ({present.name}) of another "
            "run; give --overwrite to replace them, or name another"
        )
    return Opened(claim=claimed, event_folder=events, recorded=recorded, overwrite=overwrite)


def settled(folder: Path, resume: Resume, *, overwrite: bool) -> tuple[bool, bool]:
    """Returns whether to resume the run in a folder, and whether to replace it. `auto` resumes a
    run that `is_begun`, and replaces one that was killed before its first checkpoint."""
    if resume != "auto":
        return resume, overwrite
    if is_begun(folder):
        return True, False
    present = any((folder / name).exists() for name in run_files.WRITTEN)
    if present:
        read_config(folder)  # it is written first and removed last
    return False, present


def is_begun(folder: Path) -> bool:
    has_model = (folder / run_files.MODEL_FILE_NAME).exists()
    return has_model or bool(saved_in(folder / run_files.CHECKPOINT_FOLDER_NAME))


def check_resumable(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the run's config.json; checks that what decides its losses is as in `config`, in the
    same form. The data are checked once they are loaded."""
    before = read_config(folder)
    were, are = _deciding(before), _deciding(json.loads(json_text(config)))
    if differing := differences(were, {n: value for n, value in are.items() if value != "auto"}):
        raise InputError(
            f"{folder} cannot be resumed with other settings: {differing}; give the "
            f"run's own ({folder / CONFIG_FILE_NAME} holds them), or another --run-dir"
        )
    return before


_DECIDES_NOTHING = {
    *("output", "epochs", "early_stopping", "word_index", "data_cache", "max_data_bytes", "recipe"),
    *DECIDE_NO_LOSS,
    *(RESOLVED, "module"),  # the latter of an object that Keras serialized
}  # The settings, and groups of settings, that do not decide a run's losses
_PATHS = {"data", "test_data"}  # The paths of the data, whose fingerprint decides instead


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that decide a run's losses, by the names of their flags."""
    groups = {name: value for name, value in config.items() if name not in _DECIDES_NOTHING}
    flat = flattened(groups)
    # By their own names, whatever group they are in: groups may change from version to version.
    deciding = {n: v for n, v in flat.items() if n not in _DECIDES_NOTHING | _PATHS}
    # A constant rate trains the same steps, however many follow.
    if flat.get("learning_rate_schedule", "constant") != "constant":
        deciding["epochs"] = config.get("epochs")  # the rate falls over the steps of all epochs
    execution = config.get("execution")
    way = execution.get("input") if isinstance(execution, Mapping) else None
    if way is not None and way != "auto":
        deciding["input"] = "mapped" if way == "mapped" else "stream or resident"  # rows' order
    return deciding


def asked_settings(folder: Path) -> dict[str, Any]:
    """Returns the settings that a run of `harness train` was started with, by the names of their
    flags. Those that were `auto` are so again; those about the folder itself are left out."""
    recorded = read_config(folder)
    resolved = recorded.pop(RESOLVED)
    if not isinstance(recorded.get("data"), Mapping):
        raise InputError(
            f"the run in {folder} was started from Python: its config.json does not name the data; "
            "go on with it by Trainer.fit(..., resume=True)"
        )
    flat = flattened(recorded, where=str(folder / CONFIG_FILE_NAME))
    resolved["replicas"] = {"why": resolved.get("replicas_why")}
    automatic = [f.name for f in (*fields(Settings), *fields(RunOptions)) if f.default == "auto"]
    for name in automatic:
        choice = resolved.get(name)
        why = choice.get("why") if isinstance(choice, Mapping) else ""
        if name in flat and "asked for" not in str(why):
            flat[name] = "auto"
    # A profile is of the process that was asked for it.
    left_out = ("run_dir", "overwrite", "resume", "profile_steps")
    return {n: v for n, v in flat.items() if n not in left_out}


def changes(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns what changes the losses' last bits and is otherwise in `now` than it was in the run
    resumed, both in the form of config.json."""

    def of(config: Mapping[str, Any]) -> dict[str, Any]:
        resolved, execution = config[RESOLVED], config["execution"]
        return {
            **{name: execution.get(name) for name in ("implementation", "replicas")},
            **{name: resolved.get(name) for name in ("workers", "devices")},
            "deterministic": execution.get("deterministic"),
            "tensorflow": resolved.get("versions", {}).get("tensorflow"),
        }

    was = of(recorded)
    return {n: {"was": was[n], "is": v} for n, v in of(now).items() if was[n] not in (None, v)}


def changed_note(changed: Mapping[str, Mapping[str, Any]]) -> str:
    shown = ", ".join(f"{name} {one['is']} (was {one['was']})" for name, one in changed.items())
    return (
        f"note: the run goes on with {shown}: from here on its losses may differ in their last bits"
        " from those of an uninterrupted run"
    )


def complete_note(folder: Path, num_steps: int) -> str:
    return (
        f"{folder} holds a complete run of {num_steps:,} steps, with its model and its summary: "
        "nothing is left to do. Set --epochs to more to train on, or, if its learning rate has a "
        "schedule, which all of its epochs have ended, start a run in another --run-dir."
    )


def completed_steps(folder: Path, config: Mapping[str, Any]) -> int | None:
    """Returns the steps of the complete run in a folder, if no more are asked for."""
    files = (CONFIG_FILE_NAME, run_files.SUMMARY_FILE_NAME, run_files.MODEL_FILE_NAME)
    if not all((folder / name).exists() for name in files):
        return None
    recorded = check_resumable(folder, config)
    try:
        summary = read_json(folder / run_files.SUMMARY_FILE_NAME, remedy="")
    except InputError:
        return None  # it is damaged: the run writes it anew
    ended = not (summary.get("interrupted", True) or summary.get("diverged", True))
    done, per_epoch = summary.get("steps"), recorded[RESOLVED].get("steps_per_epoch")
    all_done = isinstance(per_epoch, int) and done == config["epochs"] * per_epoch
    # A callback may have stopped the run before its last epoch; it goes on if more are asked for.
    as_before = recorded.get("epochs") == config["epochs"]
    return done if ended and isinstance(done, int) and (all_done or as_before) else None


def check_same_data(folder: Path, recorded: Any, info: DatasetInfo) -> None:
    """Checks the data's fingerprint in config.json or a checkpoint, maybe another run's."""
    try:
        trained_on = str(recorded[RESOLVED]["dataset"]["fingerprint"])
    except (KeyError, TypeError):  # it was edited, or is damaged
        trained_on = "-"
    if trained_on != info.fingerprint:
        raise InputError(
            f"{folder} cannot be resumed with other data: {info.name} has the fingerprint "
            f"{info.fingerprint[:12]}, the run was trained on {trained_on:.12}; restore "
            "the data that it was trained on, or start a new run in another --run-dir"
        )


def has_ended(start: RunStart, opened: Opened) -> bool:
    if opened.folder is None or opened.recorded is None:
        return False
    if start.start_step > start.total_steps:
        raise InputError(
            f"the run has done {start.start_step} steps, which is more than --epochs "
            f"{start.epochs} ({start.steps_per_epoch} steps each); set --epochs to more to go on "
            "with it"
        )
    return completed_steps(opened.folder, start.config) == start.start_step
