"""Exceptions that the command line shows as one message, and commands for messages."""

import contextlib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator

_MAX_MESSAGE = 2000
# Neither control characters nor those that turn or break a line of a terminal, as U+202E.
_PRINTABLE = r" -~\xa0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\U0010ffff"


def printable(text: str, *, most: int | None = None, one_line: bool = False) -> str:
    """Escapes control characters and lone surrogates in `text`, as in \\x1b, so that it cannot
    control a terminal, and any stream can encode it. With `one_line`, also line breaks and tabs.
    Beyond `most` characters, escapes included, the middle is cut out."""
    breaks = "" if one_line else r"\n\t"
    # Cut before escaping, which takes long for a long text, and again after it.
    if most is not None and len(text) > most:
        text = f"{text[:most]}{text[-most:]}"  # the most that can be kept below
    text = re.sub(f"[^{breaks}{_PRINTABLE}]", lambda found: ascii(found[0])[1:-1], text)
    if most is None or len(text) <= most:
        return text
    kept = most - len("...")
    return f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"


_FLAG = re.compile(r"(?<![\w-])--([a-z]+(?:-[a-z]+)*)(?:=([a-z0-9_]+))?(?![\w=-])")


class ToldError(Exception):
    """An error whose message alone the command line prints, with exit code 1. The message names
    settings by their flags, such as `--precision=float32`. If `in_python` is true, `str` names them
    by their arguments, such as `precision="float32"`."""

    in_python = False

    def __str__(self) -> str:
        return _FLAG.sub(_argument, self.args[0]) if self.in_python else str(self.args[0])


def _argument(flag: re.Match[str]) -> str:
    name, value = flag[1].replace("-", "_"), flag[2]
    if name == "help_all":
        return flag[0]
    if name in ("resume", "overwrite"):
        return f"{name}=True"
    return f'{name}="{value}"' if value else name


@contextlib.contextmanager
def own_words() -> Iterator[None]:
    """Raises a told error of the block without what Keras wrote around its message, where a layer's
    method raised it."""
    try:
        yield
    except ToldError as error:
        # Keras prints the message in bold, and the arguments of the call below it.
        inner = str(error.args[0]).rpartition(r"\x1b[1m")[2].partition(r"\x1b[0m")[0]
        error.args = (inner.rpartition("Error encountered:\n\n")[2], *error.args[1:])
        raise


@contextlib.contextmanager
def in_python() -> Iterator[None]:
    """Makes errors raised inside name arguments, not flags, for calls from Python programs."""
    try:
        yield
    except ToldError as error:
        error.in_python = True
        raise


class InputError(ToldError, ValueError):
    """Wrong input by the user; the message gives the fact, the values and the remedy, and the
    command line ends with exit code 2. Of a very long message the middle is cut out."""

    def __init__(self, message: object) -> None:
        super().__init__(printable(str(message), most=_MAX_MESSAGE))


class LostFolderError(ToldError):
    """The folder of a run was moved or removed while the run was using it."""


class LostWorkerError(ToldError):
    """A worker of the cluster or of a build did not come, ended, or cannot be reached any more."""


class DivergenceError(ToldError):
    """The loss was not finite at the end of a run. The run has written what it could."""


def as_command(arguments: str) -> str:
    """Returns the command line for `harness ARGUMENTS`, by the name that it was called by."""
    if name := os.environ.get("HARNESS_COMMAND"):
        return f"{shlex.quote(name)} {arguments}"
    if shutil.which("harness"):
        return f"harness {arguments}"
    return f"{shlex.quote(sys.executable)} -m harness {arguments}"
