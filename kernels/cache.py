"""The user's cache folder: finds it, checks that it can be trusted, and opens files in it.

Anyone who can change a file in it can run code as the user. So the folder and its files must belong
to the user, and nobody else may write to them. They are opened first, then checked and used through
the same descriptor, whatever their names lead to by then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kernels.files import private_folder, reached_by, replacing

CACHE_VARIABLE = "MULTI_HOT_CACHE"


@dataclass(frozen=True)
class Folder:
    """An open, checked folder."""

    path: Path
    """Path of the folder, for messages."""
    descriptor: int

    @property
    def place(self) -> Path:
        """Path to the open folder itself, wherever its name leads by now."""
        return reached_by(self.descriptor)

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Return a descriptor of the user's own file `name`.

        Raises:
          FileNotFoundError: if there is no such file.
          OSError: if the file cannot be trusted.
        """
        path = self.path / name
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, 0o600, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise PermissionError(f"{path} is a symbolic link") from error
            error.filename = str(path)
            raise
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PermissionError(f"{path} is not a regular file")
            _check(descriptor, path)
        except PermissionError:
            os.close(descriptor)
            raise
        return descriptor

    def write(self, name: str, content: bytes) -> None:
        """Write the file `name`, whole or not at all, over whatever is there."""
        with (
            self._named(),
            replacing(self.place / name) as beside,
            open(beside, "xb", opener=_private) as file,
        ):
            file.write(content)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a new folder in this one, removed at the end; its path works in child processes."""
        with self._named(), private_folder(self.descriptor) as private:
            folder = reached_by(private) / "new"
            folder.mkdir()
            yield folder

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Make errors name the folder's path, not the descriptor by which it was reached."""
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, str(self.path)) from error


@contextlib.contextmanager
def opened(subfolder: str = "") -> Iterator[Folder]:
    """Open the user's cache folder, or a subfolder that other users may not even read.

    The folder is $MULTI_HOT_CACHE, else `multi-hot-harness` in $XDG_CACHE_HOME or ~/.cache. It is
    made if it is missing.

    Raises:
      OSError: if it cannot be made or trusted; the message names it and the reason.
    """
    path = _path()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _folder(path, path, forbidden=0o022) as folder:
        if not subfolder:
            yield folder
            return
        path /= subfolder
        with contextlib.suppress(FileExistsError):
            os.mkdir(subfolder, 0o700, dir_fd=folder.descriptor)
        # By the user's umask, folders made in the subfolder may be writable by a group.
        with _folder(folder.place / subfolder, path, forbidden=0o077) as inner:
            yield inner


@contextlib.contextmanager
def _folder(place: Path, path: Path, *, forbidden: int) -> Iterator[Folder]:
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check(descriptor, path, forbidden)
        yield Folder(path, descriptor)
    finally:
        os.close(descriptor)


def _path() -> Path:
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise FileNotFoundError("there is no home folder") from error
    return home / "multi-hot-harness"


def _check(descriptor: int, path: Path, forbidden: int = 0o022) -> None:
    """Raise PermissionError unless an open file or folder is the user's, and closed to others."""
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid():
        fact = f"belongs to user {status.st_uid}, and this is user {os.geteuid()}"
    elif status.st_mode & forbidden:
        fact = (
            f"is open to other users (mode {stat.S_IMODE(status.st_mode):o}; chmod go= closes it)"
        )
    else:
        return
    raise PermissionError(f"{path} {fact}")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
