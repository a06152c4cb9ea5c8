"""Claims the folder of a run, checks what it holds before the run starts, and clears it."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from harness.base.errors import InputError, LostFolderError
from harness.run.observers import run_files
from kernels.files import opened_folder, remove, remove_partial_files

_LOCK_FILE_NAME = ".harness-lock"
_LOCK_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A folder that belongs to one run for as long as that lasts."""

    path: Path
    descriptor: int

    def check(self) -> None:
        """Raises LostFolderError if the folder is no longer where it was claimed."""
        with contextlib.suppress(OSError):
            if os.path.samestat(self.path.stat(), os.fstat(self.descriptor)):
                return
        raise LostFolderError(
            f"{self.path} was moved or removed while a run was using it; nothing more is written. "
            "If it was moved, go on from its last checkpoint with --resume and its new path."
        )


def claim_run_folder(
    named: str | Path, claims: ExitStack, *, resume: bool | Literal["auto"], overwrite: bool
) -> Claim:
    """Claims a run's folder: `named`, or for `auto` a new one in runs/, named after the time."""
    if named == "auto":
        named = datetime.now().strftime("runs/%Y-%m-%d_%H-%M-%S.%f")  # two runs never share one
    folder = Path(named).absolute()
    claimed = claim(folder, claims, what="run folder")
    present = [name for name in run_files.WRITTEN if (folder / name).exists()]
    if present and not (overwrite or resume):
        raise InputError(
            f"{folder} already holds a run ({', '.join(present)}); give --overwrite to replace it, "
            "--resume to go on with it, or another --run-dir"
        )
    if resume is True and not present:
        raise InputError(f"{folder} holds no run to resume; leave out --resume to start one there")
    return claimed


def claim(folder: Path, claims: ExitStack, *, what: str) -> Claim:
    """Makes `folder`, an absolute path, if it is missing, locks it until `claims` closes or the
    process ends, and removes half-written files of killed runs. `what` names the folder in
    messages. A run that is refused leaves nothing behind: folders made here that are empty go."""
    try:
        missing = [place for place in (folder, *folder.parents) if not place.exists()]
        claims.callback(_remove_empty, missing)
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = claims.enter_context(opened_folder(folder))
        claims.enter_context(_locked(descriptor))
        remove_partial_files(folder)
        return Claim(path=folder, descriptor=descriptor)
    except BlockingIOError as error:
        raise InputError(
            f"{what} {folder} is in use by another run; wait until that has ended, or name another"
        ) from error
    except OSError as error:
        raise InputError(
            f"{what} {folder} cannot be written to ({error.strerror}); name another"
        ) from error


@contextlib.contextmanager
def _locked(folder: int) -> Iterator[None]:
    try:
        file = os.open(_LOCK_FILE_NAME, _LOCK_FLAGS | os.O_EXCL, 0o666, dir_fd=folder)
        is_own = True
    except FileExistsError:
        file = os.open(_LOCK_FILE_NAME, _LOCK_FLAGS, 0o666, dir_fd=folder)
        is_own = False

    def is_named() -> bool:
        with contextlib.suppress(FileNotFoundError):
            named = os.stat(_LOCK_FILE_NAME, dir_fd=folder, follow_symlinks=False)
            return os.path.samestat(named, os.fstat(file))
        return False

    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not is_named():  # the run that held it removed it after it was opened here
                raise BlockingIOError
            is_own = True
        except BlockingIOError:
            is_own = False
            raise
        yield
    finally:
        if is_own and is_named():  # even if its file system has no locks
            os.unlink(_LOCK_FILE_NAME, dir_fd=folder)
        os.close(file)


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def clean_run_folder(folder: Path, tensorboard_folder: Path | None, *, clear: bool) -> None:
    """Removes half-written files of killed runs, or with `clear` all that a run wrote."""
    for place in {folder / run_files.CHECKPOINT_FOLDER_NAME, tensorboard_folder or folder}:
        remove_partial_files(place)
    # If this is killed midway, the rest cannot be resumed, but is still known to be of a run.
    written = [*run_files.WRITTEN, *(path.name for path in folder.glob(run_files.EVENT_FILES))]
    first, last = run_files.CHECKPOINT_FOLDER_NAME, run_files.CONFIG_FILE_NAME
    for name in sorted(written, key=lambda n: (n == last, n != first)) if clear else ():
        remove(folder / name)
