"""What a command line that cannot be read may have meant."""

import difflib
import re
from collections.abc import Mapping, Sequence

from harness.cli.help import options


def suggestion(flags: Sequence[str], commands: Mapping[str, type], told: str) -> str | None:
    """Returns a message for a command or a flag that is unknown, or a number with a comma; None if
    it is none of these. `told` is the parser's message."""
    command = next((n for n in commands if flags[: len(n.split())] == n.split()), None)
    if command is None:
        word = " ".join(flags[: 2 if flags[:1] == ["data"] else 1])
        is_group = any(name.startswith(f"{word} ") for name in commands)
        close = [] if is_group else difflib.get_close_matches(word, commands, n=1)
        return f"there is no command {word}; did you mean {close[0]}?" if close else None
    joined = re.sub(r"\s*[│|]?\n[│|]?\s*", "", told)  # the parser breaks lines, also in values
    at, comma = re.search(r"parsing --([\w-]+):", joined), re.search(r"'(-?\d*),(\d+)'", joined)
    if at and comma:
        whole, part = comma.groups()
        ways = [f"the number with a point, as in {whole}.{part}"]
        if "arguments:" in joined:  # the flag takes several numbers
            ways.append(f"spaces between numbers: {whole} {part}")
        if len(part) == 3:
            ways.append(f"without a comma: {whole}{part}")
        return f"--{at[1]} is {whole},{part}; write {', or '.join(ways)}"
    if unknown := re.search(r"Unrecognized options: (-[\w-]+)", told):
        word = unknown[1].lstrip("-")
        known = [name.replace("_", "-") for name, _ in options(commands[command])]
        initials = {"".join(part[0] for part in name.split("-")): name for name in known}
        close = [initials[word]] if word in initials and unknown[1].startswith("--") else []
        close += difflib.get_close_matches(word, known, n=1)
        meant = f"did you mean --{close[0]}?" if close else f"{command} --help-all lists all"
        return f"{command} has no flag {unknown[1]}; {meant}"
    return None
