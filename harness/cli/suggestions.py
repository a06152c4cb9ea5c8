"""What a command line that cannot be read may have meant."""

import difflib
import re
from collections.abc import Mapping, Sequence

from harness.cli.help import names


def suggestion(flags: Sequence[str], commands: Mapping[str, type], told: str) -> str | None:
    """Returns a message for a command or a flag that is misspelled, or a number with a comma; None
    if the words are none of these, by the commands' settings and by what the parser `told`."""
    command = next((n for n in commands if flags[: len(n.split())] == n.split()), None)
    if command is None:
        word = " ".join(flags[: 2 if flags[:1] == ["data"] else 1])
        is_group = any(name.startswith(f"{word} ") for name in commands)
        close = [] if is_group else difflib.get_close_matches(word, commands, n=1)
        return f"there is no command {word}; did you mean {close[0]}?" if close else None
    if number := re.search(r"parsing (--[\w-]+):.*?\['(-?\d*),(\d+)'\]", told, re.DOTALL):
        flag, whole, part = number.groups()
        # 10,000 is a number, 0,01 is none.
        without = f", or without a comma: {whole}{part}" if len(part) == 3 else ""
        point = f"write the number with a point, as in {whole}.{part}"
        return f"{flag} is {whole},{part}; {point}{without}"
    if unknown := re.search(r"Unrecognized options: (--[\w-]+)", told):
        word = unknown[1]
        known = [f"--{name.replace('_', '-')}" for name in names(commands[command])]
        # People write --lr and --bs.
        initials = {"--" + "".join(part[0] for part in n[2:].split("-")): n for n in known}
        close = [initials[word]] if word in initials else []
        close += difflib.get_close_matches(word, known, n=1)
        if close:
            return f"{command} has no flag {word}; did you mean {close[0]}?"
    return None
