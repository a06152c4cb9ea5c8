"""Writes files whole or not at all: in a private folder beside, from which they are renamed.

The kernels' cache and the harness write every file by these functions.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

_PARTIAL_START = ".partial-"
_NEW = "new"
_LOCK = "lock"
_OURS = re.compile(rf"{_LOCK}|{_NEW}(\.\w+)?")
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write a file or a folder to, which becomes `path` if the block succeeds.

    A file at `path` is replaced, but a folder that is not empty is not. The new content is flushed
    to the disk first. If the block fails, nothing of it is left, and `path` is as it was. An
    `OSError` that names no other file, such as that of a full disk, gets the name of `path`. The
    next process that writes in the same folder removes the remains of a killed one.

    Other users who can write to the folder cannot redirect the content: it goes into a folder that
    is closed to them, and every step starts from the descriptor of an open folder.
    """
    # Keep the suffix, by which some writers (Keras) choose the format, but not the rest of the
    # name, because TensorBoard reads every file with `tfevents` in its name.
    new, place = _NEW + path.suffix, None
    try:
        with opened_folder(path.parent) as parent, private_folder(parent) as private:
            place = reached_by(private)
            yield place / new
            for written in (place / new, *(place / new).rglob("*")):
                _flush(written)
            os.rename(new, path.name, src_dir_fd=private, dst_dir_fd=parent)
    except OSError as error:
        named = os.fspath(error.filename or "")
        if not os.path.isabs(named) or (place and named.startswith(str(place))):
            error.filename = str(path)
        raise


def remove(path: Path) -> None:
    """Removes a file, or a folder with all its contents, if it exists.

    It disappears at once and as a whole. The next process removes the remains of a killed one.
    """
    with (
        contextlib.suppress(FileNotFoundError),
        opened_folder(path.parent) as parent,
        private_folder(parent) as private,
    ):
        os.rename(path.name, _NEW, src_dir_fd=parent, dst_dir_fd=private)


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """Yields a descriptor of the folder at `path`, and closes it at the end.

    Raises:
        PermissionError: if `path` is a symbolic link that another user made.
        OSError: if there is no folder.
    """
    try:
        descriptor = os.open(path, _FOLDER | os.O_NOFOLLOW)
    except NotADirectoryError:
        descriptor = _followed(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def own_file(path: Path, flags: int = os.O_CREAT) -> int:
    """Returns a descriptor of this user's own file for writing, for files that grow and so are not
    replaced as a whole.

    Args:
        path: the file.
        flags: flags of `os.open`, beside those for writing.

    Raises:
        PermissionError: if another user put something in its place.
        OSError: if it cannot be opened, or is a symbolic link.
    """
    flags |= os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    raise PermissionError(1, "It is not a plain file of this user's alone", str(path))


def _followed(path: Path) -> int:
    """Returns a descriptor of the folder at the end of a symbolic link of this user's or root's."""
    if path.parts[:2] == ("/", "proc"):  # the kernel's links to open folders, which nobody can swap
        return os.open(path, _FOLDER)
    link = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(link).st_uid not in (0, os.geteuid()):
            raise PermissionError(1, "It is a symbolic link of another user", str(path))
        try:
            target = os.readlink("", dir_fd=link)  # reads the checked link, whatever `path` is now
        except OSError:
            target = ""  # no link, but no folder either
        return os.open(path.parent / target if target else path, _FOLDER)
    finally:
        os.close(link)


@contextlib.contextmanager
def private_folder(parent: int) -> Iterator[int]:
    """Yields a descriptor of a new folder in an open one, which is closed to other users.

    At the end, removes the folder with the entry `new` in it. At the start, removes such folders of
    killed processes.
    """
    _remove_abandoned(parent)
    while True:
        name = f"{_PARTIAL_START}{secrets.token_hex(8)}"
        os.mkdir(name, 0o700, dir_fd=parent)
        try:
            private = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
        except FileNotFoundError:
            continue  # another process took it for an abandoned one
        with contextlib.ExitStack() as closing:
            closing.callback(os.close, private)
            if os.fstat(private).st_uid != os.geteuid():
                raise PermissionError(1, "Another user replaced a folder that was just made there")
            try:
                closing.enter_context(_locked(private, os.O_CREAT | os.O_EXCL))
            except (BlockingIOError, FileNotFoundError):
                continue  # another process took it for an abandoned one
            except OSError as error:
                if error.errno not in _NO_LOCKS:  # without locks, nobody removes what is not theirs
                    raise
            closing.callback(_remove, name, private, parent)
            yield private
            return


@contextlib.contextmanager
def _locked(private: int, flags: int = 0) -> Iterator[None]:
    # A file, because a network file system has no locks of folders.
    lock = os.open(_LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600, dir_fd=private)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A process that took the folder for an abandoned one may have removed the file before it
        # was locked here; then this raises a FileNotFoundError.
        os.stat(_LOCK, dir_fd=private, follow_symlinks=False)
        yield
    finally:
        os.close(lock)


def remove_partial_files(folder: Path) -> None:
    """Removes what killed processes left of `replacing` in `folder`, which may be missing."""
    with contextlib.suppress(FileNotFoundError), opened_folder(folder) as parent:
        _remove_abandoned(parent)


def _remove_abandoned(parent: int) -> None:
    """Removes the private folders of killed processes, which are those that nobody has locked."""
    for name in os.listdir(parent):
        if not name.startswith(_PARTIAL_START):
            continue
        # An error means that it is in use, another user's, or removed meanwhile: leave it.
        with contextlib.suppress(OSError), contextlib.ExitStack() as closing:
            private = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
            closing.callback(os.close, private)
            if os.listdir(private):
                closing.enter_context(_locked(private))
                _remove(name, private, parent)
            else:
                os.rmdir(name, dir_fd=parent)  # unless its process has locked it by now


def _remove(name: str, private: int, parent: int) -> None:
    # Remove only entries that `replacing` makes, as other users may give its name to any folder.
    # The lock goes last: a folder without a lock looks like one in use.
    for entry in sorted(os.listdir(private), reverse=True):
        if _OURS.fullmatch(entry):
            if stat.S_ISDIR(os.stat(entry, dir_fd=private, follow_symlinks=False).st_mode):
                shutil.rmtree(entry, dir_fd=private)
            else:
                os.unlink(entry, dir_fd=private)
    with contextlib.suppress(OSError):  # moved, or not empty
        os.rmdir(name, dir_fd=parent)


def reached_by(descriptor: int) -> Path:
    """Returns a path to an open folder that stays valid when the folder is moved, in this process
    and in child processes."""
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
