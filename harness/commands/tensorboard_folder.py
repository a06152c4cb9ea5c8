"""The folder of a run's event files: where it is, and what may stand in it before the run."""

from pathlib import Path

from harness.commands.run_folder import check_writable
from harness.config import OutputConfig
from harness.errors import InputError
from harness.observers.tensorboard import FOLDER_NAME


def tensorboard_folder(config: OutputConfig, run_folder: Path) -> Path | None:
    """Where the run in `run_folder` writes its event files; None where it writes none."""
    if config.tensorboard == "off":
        return None
    return run_folder / FOLDER_NAME if config.tensorboard == "on" else Path(config.tensorboard)


def check_tensorboard_folder(config: OutputConfig, run_folder: Path) -> Path | None:
    """The same, absolute and checked; it need not exist, and nothing is made or changed.

    Raises:
        InputError: when it cannot be written to; when it is a folder of the user's own that holds
            event files of another run, or those of this one and neither --overwrite nor --resume
            was given.
    """
    named = tensorboard_folder(config, run_folder)
    if named is None:
        return None
    folder = named.absolute()
    try:
        check_writable(folder)
    except OSError as error:
        raise InputError(
            f"TensorBoard folder {folder} cannot be written to ({error.strerror}); name another "
            "by --tensorboard, or turn it off"
        ) from error
    if config.tensorboard != "on":
        _check_event_files(folder, run_folder, may_be_own=config.overwrite or config.resume)
    return folder


def _check_event_files(folder: Path, run_folder: Path, *, may_be_own: bool) -> None:
    # It imports TensorFlow; the rest of this module is for those who do without.
    from harness.observers.event_folder import event_files, writer_name, written_by

    present = event_files(folder)
    own = [path for path in present if written_by(path) == writer_name(run_folder)]
    others = [path for path in present if path not in own]
    if others:
        raise InputError(
            f"TensorBoard folder {folder} holds event files of another run ({others[0].name}); "
            "TensorBoard would draw the two as one: name another by --tensorboard, or move them"
        )
    if own and not may_be_own:
        raise InputError(
            f"TensorBoard folder {folder} already holds event files of {run_folder} "
            f"({own[0].name}); give --overwrite to replace them, or name another"
        )
