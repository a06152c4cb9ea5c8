"""What a command line that cannot be read may have meant."""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from harness.cli.help import options


def suggestion(flags: Sequence[str], commands: Mapping[str, type], told: str) -> str | None:
    """Returns a message for a command or a flag that is unknown, or a number with a comma; None if
    it is none of these.

    Args:
        flags: the words of the command line.
        commands: the classes of the commands' settings, by name.
        told: the message of the parser.
    """
    command = next((n for n in commands if flags[: len(n.split())] == n.split()), None)
    if command is None:
        word = " ".join(flags[: 2 if flags[:1] == ["data"] else 1])
        is_group = any(name.startswith(f"{word} ") for name in commands)
        close = [] if is_group else difflib.get_close_matches(word, commands, n=1)
        return f"there is no command {word}; did you mean {close[0]}?" if close else None
    at = re.search(r"parsing --([\w-]+):", told)
    if at and (comma := _with_comma(flags, at[1])):
        whole, part = comma.groups()
        also = f", or without a comma: {whole}{part}" if len(part) == 3 else ""
        if _is_sequence(dict(options(commands[command])).get(at[1].replace("-", "_"))):
            also = f", or spaces between numbers: {whole} {part}{also}"
        return f"--{at[1]} is {comma[0]}; write the number with a point, as in {whole}.{part}{also}"
    if unknown := re.search(r"Unrecognized options: (-[\w-]+)", told):
        word = unknown[1].lstrip("-")
        known = [name.replace("_", "-") for name, _ in options(commands[command])]
        initials = {"".join(part[0] for part in name.split("-")): name for name in known}
        close = [initials[word]] if word in initials and unknown[1].startswith("--") else []
        close += difflib.get_close_matches(word, known, n=1)
        meant = f"did you mean --{close[0]}?" if close else f"{command} --help-all lists all"
        return f"{command} has no flag {unknown[1]}; {meant}"
    return None


def _with_comma(flags: Sequence[str], flag: str) -> re.Match[str] | None:
    """Returns the match of the first number with a comma among the values of a flag."""
    is_value = False
    for word in itertools.chain.from_iterable(each.split("=", 1) for each in flags):
        if word.startswith("--"):
            is_value = word[2:].replace("_", "-") == flag
        elif is_value and (match := re.fullmatch(r"(-?\d*),(\d+)", word)):
            return match
    return None


def _is_sequence(hint: Any) -> bool:
    return tuple in (get_origin(hint), *map(get_origin, get_args(hint)))
