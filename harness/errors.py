"""Exceptions that the command line shows as one message, and the commands that messages name."""

import os
import re
import shlex
import shutil
import sys

_MAX_MESSAGE = 2000
_UNPRINTABLE = re.compile(r"[^\n\t -~\xa0-\ud7ff\ue000-\U0010ffff]")
_UNPRINTABLE_OR_BREAK = re.compile(rf"{_UNPRINTABLE.pattern}|[\n\t]")


def printable(text: str, *, most: int | None = None, one_line: bool = False) -> str:
    """`text` with control characters and lone surrogates escaped, as in \\x1b, so that it cannot
    steer a terminal and any stream can encode it.

    Args:
        text: from anywhere.
        most: characters, escapes included; the middle of a longer text is cut out. None: all.
        one_line: escape line breaks and tabs too.
    """
    unprintable = _UNPRINTABLE_OR_BREAK if one_line else _UNPRINTABLE
    if most is not None and len(text) > most:
        text = f"{text[:most]}{text[-most:]}"  # all that may be kept below
    text = unprintable.sub(lambda found: ascii(found[0])[1:-1], text)
    if most is None or len(text) <= most:
        return text
    kept = most - len("...")
    return f"{text[: kept - kept // 2]}...{text[len(text) - kept // 2 :]}"


class InputError(ValueError):
    """Wrong input of the user's: the message gives the fact, the values and the remedy.

    It is made printable, and the middle of a very long one is cut out: the fact stands at the
    beginning, the remedy at the end. The command line prints it alone and ends with exit code 2.
    """

    def __init__(self, message: object) -> None:
        super().__init__(printable(str(message), most=_MAX_MESSAGE))


class LostFolderError(Exception):
    """The folder of a run was moved or removed while the run was using it.

    The command line prints the message alone and ends with exit code 1.
    """


class LostWorkerError(Exception):
    """Another process that this one needs did not come, ended, or cannot be reached any more: a
    worker of the cluster, or of a build.

    The command line prints the message alone and ends with exit code 1.
    """


class DivergenceError(Exception):
    """The loss of a run was no finite number at its end.

    The run has written what it could. The command line prints the message alone and ends with exit
    code 1.
    """


def as_command(arguments: str) -> str:
    """The command line that runs `harness ARGUMENTS`, by the name that the user called it by.

    `scripts/harness` passes on its own name. A harness that is not on the PATH is called as a
    module.
    """
    if name := os.environ.get("HARNESS_COMMAND"):
        return f"{shlex.quote(name)} {arguments}"
    if shutil.which("harness"):
        return f"harness {arguments}"
    return f"{shlex.quote(sys.executable)} -m harness {arguments}"
