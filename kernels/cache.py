"""The user's cache folder: finds it, checks that it can be trusted, and opens files in it.

Anyone who can change a file in it can run code as the user. So the folder and its files must belong
to the user, and nobody else may write to them.
"""

import os
import stat
from pathlib import Path

from kernels.files import remove_partial_files, replacing

CACHE_VARIABLE = "MULTI_HOT_CACHE"
# Age of an unfinished file whose process must have been killed: several processes write here.
_ABANDONED_SECONDS = 24 * 3600


def open_file(path: Path) -> int:
    """Return a descriptor of the user's own file, for reading; OSError if it cannot be trusted."""
    if path.is_symlink():  # O_NOFOLLOW refuses it too, in other words
        raise PermissionError(f"{path} is a symbolic link")
    # Without O_NONBLOCK, opening a named pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PermissionError(f"{path} is not a regular file")
        _check(status, path)
    except PermissionError:
        os.close(descriptor)
        raise
    return descriptor


def write(path: Path, content: bytes) -> None:
    with replacing(path) as beside:
        beside.touch(0o600)
        beside.write_bytes(content)


def opened(subfolder: str = "") -> Path:
    """Return the user's cache folder, or a subfolder that other users may not even read, made if it
    is missing: $MULTI_HOT_CACHE, else `multi-hot-harness` in $XDG_CACHE_HOME or ~/.cache. Raises an
    OSError that tells why it cannot be made or trusted."""
    path = _path()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check(path.stat(), path)
    if subfolder:
        path /= subfolder
        path.mkdir(mode=0o700, exist_ok=True)
        # By the user's umask, folders made in the subfolder may be writable by a group.
        _check(path.lstat(), path, forbidden=0o077)
    remove_partial_files(path, older_than_seconds=_ABANDONED_SECONDS)
    return path


def _path() -> Path:
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).absolute()
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise FileNotFoundError("there is no home folder") from error
    return home / "multi-hot-harness"


def _check(status: os.stat_result, path: Path, forbidden: int = 0o022) -> None:
    """Raise PermissionError unless a file or folder is the user's, and closed to others."""
    if status.st_uid != os.geteuid():
        fact = f"belongs to user {status.st_uid}, and this is user {os.geteuid()}"
    elif status.st_mode & forbidden:
        fact = (
            f"is open to other users (mode {stat.S_IMODE(status.st_mode):o}; chmod go= closes it)"
        )
    else:
        return
    raise PermissionError(f"{path} {fact}")
