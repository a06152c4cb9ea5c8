"""Exceptions that the command line shows as one message, and the commands that messages name."""

import os
import shlex
import shutil
import sys


class InputError(ValueError):
    """Wrong input of the user's: the message gives the fact, the values and the remedy.

    The command line prints the message alone and ends with exit code 2.
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
