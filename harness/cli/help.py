"""Help on the options, and what a command line that cannot be read may have meant."""

import ast
import difflib
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import tyro
from tyro import constructors

from harness.tools.experiment import TrainConfig

# Those options of `train` that people set, also in the other commands that have them.
_SHOWN = frozenset(
    {
        *("data", "test_data", "text_column", "label_column", "ngrams", "validation_split"),
        *("recipe", "epochs", "early_stopping", "class_weight", "batch_size", "implementation"),
        *("hidden_units", "dropout", "optimizer", "learning_rate", "learning_rate_schedule"),
        *("precision", "replicas", "run_dir", "resume", "overwrite", "report"),
    }
)
_LAST = ("model", "optimizer", "data")  # groups of options; a command's own come before them


def described(*, shows_all: bool) -> constructors.ConstructorRegistry:
    """Returns tyro's rule for settings, whose help it would break wherever the source breaks a
    line. Unless it shows all, tyro hides the less usual options that `train` has too, and would
    refuse them."""
    registry = constructors.ConstructorRegistry()
    of_train = tuple(_groups(TrainConfig))

    @registry.struct_rule
    def rule(info: constructors.StructTypeInfo) -> constructors.StructConstructorSpec | None:
        if not is_dataclass(info.type):
            return None
        kind: Any = info.type
        hints, found = get_type_hints(kind, include_extras=True), []
        places = {name: at for at, name in enumerate(_LAST) if is_dataclass(hints.get(name))}
        for one in sorted(fields(kind), key=lambda one: places.get(one.name, -1)):
            hint = hints[one.name]
            is_usual = one.name in _SHOWN or not issubclass(kind, of_train)
            if not (shows_all or is_usual or is_dataclass(hint)):
                hint = Annotated[hint, tyro.conf.Suppress]
            usual = one.default if one.default_factory is MISSING else one.default_factory()
            usual = getattr(info.default, one.name, tyro.MISSING if usual is MISSING else usual)
            # Read only for help: it needs the source.
            text = functools.partial(lambda name: texts_of(kind).get(name), one.name)
            found.append(constructors.StructFieldSpec(one.name, hint, usual, text))
        return constructors.StructConstructorSpec(kind, tuple(found))

    return registry


@functools.cache
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


def _groups(kind: type) -> Iterator[type]:
    """Yields the class of a command's settings, and those of the groups in it."""
    yield kind
    for hint in get_type_hints(kind).values():
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _groups(hint)


def options(kind: type) -> Iterator[tuple[str, Any]]:
    """Yields the names and types of a command's settings, also of those in groups."""
    for group in _groups(kind):
        yield from (
            (n, hint) for n, hint in get_type_hints(group).items() if not is_dataclass(hint)
        )


def suggestion(command: str, kind: type, told: str, former: Mapping[str, str]) -> str | None:
    """Guesses what flags of a command mean that cannot be read; `told` is the parser's message.
    `former` maps former names of settings, of any command, to those of today."""
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
    if unknown := re.search(r"Unrecognized options:[\s│|]*(-[\w-]+)", told):
        word = unknown[1].lstrip("-")
        known = [name.replace("_", "-") for name, _ in options(kind)]
        now = {old.replace("_", "-"): new.replace("_", "-") for old, new in former.items()}
        names = {name: name for name in known} | {a: b for a, b in now.items() if b in known}
        initials = {"".join(part[0] for part in name.split("-")): name for name in known}
        close = [initials[word]] if word in initials and unknown[1].startswith("--") else []
        close += [names[name] for name in difflib.get_close_matches(word, names, n=1)]
        if word in known:  # behind the words `--`, or without its value
            return None
        meant = f"did you mean --{close[0]}?" if close else f"{command} --help-all lists all"
        return f"{command} has no flag {unknown[1]}; {meant}"
    return None
