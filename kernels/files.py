"""Writes files whole or not at all: in a private folder beside, from which they are renamed.

The kernels' cache and the harness write every file by these functions.
"""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PARTIAL_START = ".partial-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write a file or a folder to, which becomes `path` if the block succeeds.

    A file at `path` is replaced, but a folder that is not empty is not. The new content is flushed
    to the disk first. If the block fails, nothing of it is left, and `path` is as it was. An
    `OSError` that names no other file, such as that of a full disk, gets the name of `path`.

    Other users who can write to the folder cannot redirect the content: it goes into a folder that
    is closed to them, and every step starts from the descriptor of an open folder.
    """
    with _named(path), opened_folder(path.parent) as parent, private_folder(parent) as private:
        # Keep the suffix, by which some writers (Keras) choose the format, but not the rest of the
        # name, because TensorBoard reads every file with `tfevents` in its name.
        new = private / f"new{path.suffix}"
        yield new
        for written in (new, *new.rglob("*")):
            descriptor = os.open(written, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        os.rename(new, path.name, dst_dir_fd=parent)


def remove(path: Path) -> None:
    """Removes a file, or a folder with all its contents, if it exists, at once and as a whole."""
    with (
        contextlib.suppress(FileNotFoundError),
        _named(path),
        opened_folder(path.parent) as parent,
        private_folder(parent) as private,
    ):
        os.rename(path.name, private / "old", src_dir_fd=parent)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Gives `path` as the name to an error that names no file, or one in a private folder."""
    try:
        yield
    except OSError as error:
        named = os.fspath(error.filename or "")
        if not os.path.isabs(named) or named.startswith(f"/proc/{os.getpid()}/fd/"):
            error.filename = str(path)
        raise


def remove_partial_files(folder: Path, *, older_than_seconds: float = 0) -> None:
    """Removes what killed processes left of `replacing` and `remove` in `folder`, which may be
    missing. Nobody else may be writing there, or only since `older_than_seconds`."""
    with contextlib.suppress(FileNotFoundError), opened_folder(folder) as parent:
        for name in os.listdir(parent):
            # An error means that it is another user's, or was removed meanwhile: leave it.
            with contextlib.suppress(OSError):
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                is_old = time.time() - status.st_mtime >= older_than_seconds
                if name.startswith(_PARTIAL_START) and status.st_uid == os.geteuid() and is_old:
                    shutil.rmtree(name, dir_fd=parent)


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """Yields a descriptor of the folder at `path`, and closes it at the end. Raises PermissionError
    if the path is a symbolic link that another user made."""
    descriptor = os.open(path, _FOLDER)
    try:
        named = os.lstat(path)  # after opening it, because it may be swapped in between
        is_link = stat.S_ISLNK(named.st_mode)
        if is_link and named.st_uid not in (0, os.geteuid()):
            raise PermissionError(errno.EPERM, "It is a symbolic link of another user", str(path))
        if not is_link and not os.path.samestat(named, os.fstat(descriptor)):
            raise PermissionError(errno.EPERM, "It was replaced while it was opened", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def private_folder(parent: int) -> Iterator[Path]:
    """Yields a new folder in an open one, which is closed to other users, and removes it at the
    end. Its path leads to it even after it was moved."""
    with tempfile.TemporaryDirectory(
        prefix=_PARTIAL_START, dir=reached_by(parent), ignore_cleanup_errors=True
    ) as name:
        private = os.open(name, _FOLDER | os.O_NOFOLLOW)
        try:
            if os.fstat(private).st_uid != os.geteuid():
                raise PermissionError(
                    errno.EPERM, "Another user replaced a folder that was just made there"
                )
            yield reached_by(private)
        finally:
            os.close(private)


def own_file(path: Path, flags: int = os.O_CREAT) -> int:
    """Returns a descriptor of this user's own file for writing, for files that grow and so are not
    replaced as a whole. Raises PermissionError if another user put something in its place."""
    flags |= os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    raise PermissionError(errno.EPERM, "It is not a plain file of this user's alone", str(path))


def reached_by(descriptor: int) -> Path:
    """Returns a path to an open folder that stays valid when it is moved, for child processes
    too."""
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")
