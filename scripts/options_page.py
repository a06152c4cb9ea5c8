"""Writes docs/options.md, every command and its options, from the settings' classes:

.venv/bin/python scripts/options_page.py
"""

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from harness.cli.help import texts_of
from harness.cli.main import COMMANDS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"
_INTRODUCTION = """# Options

Every command and its options, made from the settings: `.venv/bin/python scripts/options_page.py`.
`--help-all` behind a command shows the same; `train --help` has those that people set. An option
may also stand in a TOML file, by its name with `_` for `-`: `--config FILE.toml`.
"""


def page() -> str:
    """The page's text."""
    parts = [_INTRODUCTION]
    for name, (kind, _) in sorted(COMMANDS.items()):
        parts.append(f"## {name}\n\n{text_of(kind.__doc__ or '')}\n")
        rows = [_row(*found) for found in _options(kind, None)]
        parts.append("\n".join(["| option | default | |", "| --- | --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


def _options(kind: type, usual: Any) -> Iterator[tuple[Field[Any], Any, Any, str]]:
    """Each option of settings, nested ones included: its field, default, type and text. `usual` has
    the defaults of a nested group, which may differ from those of its class."""
    hints, texts = get_type_hints(kind, include_extras=True), texts_of(kind)
    for field in fields(kind):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if usual is not None:
            default = getattr(usual, field.name)
        if is_dataclass(hints[field.name]):
            yield from _options(hints[field.name], default)
        else:
            yield field, default, hints[field.name], texts.get(field.name, "")


def _row(field: Field[Any], default: Any, hint: Any, text: str) -> str:
    flag = f"--{field.name.replace('_', '-')}"
    if hint is bool:
        off = f"--no-{flag[2:]}"
        flag, shown = (f"{flag}`, `{off}", flag) if default else (flag, "")
    elif default is MISSING:
        shown = "required"
    elif isinstance(default, tuple):
        shown = " ".join(map(str, default))
    else:
        shown = "" if default is None else str(default)
    if "Positional" in repr(getattr(hint, "__metadata__", ())):
        flag = field.name.upper().replace("_", "-")
    choices = ", ".join(f"`{choice}`" for choice in _choices(hint))
    words = f"{text} One of {choices}." if choices else text
    return f"| `{flag}` | {shown and f'`{shown}`'} | {text_of(words)} |"


def _choices(hint: Any) -> list[str]:
    """The words that a type lists, if it is nothing else."""
    if str(get_origin(hint)) == "typing.Literal":
        return [str(choice) for choice in get_args(hint)]
    return []


def text_of(words: str) -> str:
    return re.sub(r"\s+", " ", words).strip().replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
