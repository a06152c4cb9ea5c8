"""Help on the options, and what a command line that cannot be read may have meant."""

import ast
import difflib
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import tyro

# The options of `train` that people set; `--help-all` lists all of them.
_SHOWN = frozenset(
    {
        *("data", "test_data", "text_column", "label_column", "ngrams", "validation_split"),
        *("recipe", "epochs", "early_stopping", "class_weight", "batch_size"),
        *("hidden_units", "dropout", "optimizer", "learning_rate", "learning_rate_schedule"),
        *("precision", "replicas", "run_dir", "resume", "overwrite", "report"),
    }
)


def for_help(kind: Any, settings: Any = None, *, shows_all: bool = True) -> type:
    """Returns a class like `kind` for help alone, with `settings` as its defaults: unless it shows
    all, tyro hides all but the usual options, and would refuse the others."""
    hints, texts = get_type_hints(kind, include_extras=True), texts_of(kind)
    body: dict[str, Any] = {name: getattr(kind, name) for name in ("__module__", "__qualname__")}
    body["__doc__"] = " ".join((kind.__doc__ or "").split())
    for one in fields(kind):
        value = one.default if one.default_factory is MISSING else one.default_factory()
        value = value if settings is None else getattr(settings, one.name)
        hint: Any = hints[one.name]
        if is_dataclass(hint):
            hint = for_help(hint, value, shows_all=shows_all)
            value = field(default_factory=hint)
        elif shows_all or one.name in _SHOWN:
            # tyro itself would end a line wherever the source does.
            hint = Annotated[hint, tyro.conf.arg(help=texts.get(one.name))]
        else:
            hint = Annotated[hint, tyro.conf.Suppress]
        hints[one.name] = hint
        if value is not MISSING:
            body[one.name] = value
    body["__annotations__"] = {one.name: hints[one.name] for one in fields(kind)}
    return dataclass(frozen=True, kw_only=True)(type(kind.__name__, (kind,), body))


def texts_of(kind: type) -> dict[str, str]:
    """Returns what stands below the fields of a class and of those that it inherits from."""
    found: dict[str, str] = {}
    for base in filter(is_dataclass, reversed(kind.__mro__)):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for above, text in zip(tree.body, tree.body[1:], strict=False):
            match above, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(ast.Constant(str(words))):
                    found[name] = " ".join(words.split())
    return found


def options(kind: type) -> Iterator[tuple[str, Any]]:
    """Yields the names and types of a command's settings, also of those in groups."""
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint):
            yield from options(hint)
        else:
            yield name, hint


def suggestion(flags: Sequence[str], commands: Mapping[str, type], told: str) -> str | None:
    """Guesses what a command line that cannot be read means; `told` is the parser's message."""
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
