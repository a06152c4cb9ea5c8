"""Writes docs/api.md, what `import harness` offers, from the signatures and docstrings:

.venv/bin/python -m scripts.api_page
"""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
from harness.cli.help import texts_of
from harness.sklearn import MultiHotClassifier, MultiHotRegressor
from scripts.options_page import text_of

_ESTIMATORS = (MultiHotClassifier, MultiHotRegressor)
PAGE = Path(__file__).resolve().parent.parent / "docs" / "api.md"
_INTRODUCTION = """# Python API

What `import harness` offers, made from the docstrings: `.venv/bin/python -m scripts.api_page`.
Everything is imported on first use. Wrong input raises `harness.InputError`. Letters: B rows, N ids
of all rows together, V possible ids (`num_tokens`), K classes. Examples are in
[Your own model](your_own_model.md) and [Your own data](your_own_data.md).
"""
_SECTION = re.compile(r"^(Args|Returns|Raises):\n", re.MULTILINE)
_ENTRY = re.compile(r"^    (\S[^:]*): ", re.MULTILINE)


def page() -> str:
    """Returns the page's text."""
    parts = [_INTRODUCTION]
    for name in sorted(harness.__all__, key=str.lower):
        parts += [f"## harness.{name}\n", *_described(name, getattr(harness, name))]
    for kind in _ESTIMATORS:
        parts += [f"## harness.sklearn.{kind.__name__}\n", *_described(kind.__name__, kind)]
    return "\n".join(parts)


def _described(name: str, value: Any) -> Iterator[str]:
    """Yields the parts of a name's section."""
    if not inspect.isclass(value):
        yield _signature(name, value)
        yield _markdown(value)
    elif dataclasses.is_dataclass(value) and value not in _ESTIMATORS:
        yield _markdown(value)
        texts, known = texts_of(value), [f for f in dataclasses.fields(value) if f.init]
        rows = [(field.name, _default(field), texts.get(field.name, "")) for field in known]
        yield _table(("argument", "default", ""), rows)
        yield from _members(value)
    elif issubclass(value, Exception):
        yield _markdown(value)
    else:
        yield _signature(name, value.__init__)
        yield _markdown(value)
        if value not in _ESTIMATORS:  # whose constructors Python writes
            yield _markdown(value.__init__)
        if value in (harness.Trainer, *_ESTIMATORS):
            for method, function in _public(value):
                yield f"### {name}.{method}\n"
                if not isinstance(function, property):
                    yield _signature(method, function)
                yield _markdown(function)


def _members(kind: type) -> Iterator[str]:
    """Yields a table of the properties and methods that a class defines itself."""
    rows = []
    for name, member in _public(kind):
        shown = name
        if not isinstance(member, property):
            shown += str(_own_signature(member)).partition(" -> ")[0]
        rows.append((shown, inspect.getdoc(member) or ""))
    if rows:
        yield _table(("attribute or method", ""), rows)


def _public(kind: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(kind).items():
        own = isinstance(member, property | classmethod) or inspect.isfunction(member)
        if own and not name.startswith("_"):
            yield name, member


def _own_signature(function: Any) -> inspect.Signature:
    """Returns the signature as it is written, without `self` and without quotes of types."""
    written = inspect.unwrap(getattr(function, "__func__", function))
    signature = inspect.signature(written)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    return signature.replace(parameters=parameters)


def _signature(name: str, function: Any) -> str:
    text = f"{name}{_own_signature(function)}".partition(" -> ")[0]
    return f"```\n{text}\n```\n"


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return ""
    return "required" if field.default is dataclasses.MISSING else repr(field.default)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header)]
    lines += [
        (f"`{name}`", *(one and f"`{one}`" for one in middle), text_of(last))
        for name, *middle, last in rows
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _markdown(value: Any) -> str:
    """Returns a docstring; the entries of its sections become a list."""
    # `for_python` adds the source of a settings class, which has a section of its own.
    doc = (inspect.getdoc(value) or "").partition("\n\n@dataclass")[0]
    before, *sections = _SECTION.split(doc)
    text = before
    for title, content in zip(sections[::2], sections[1::2], strict=True):
        if not content.startswith(" "):  # an __init__'s docstring begins with its arguments
            content = textwrap.indent(content, "    ")
        content = re.sub(r"\n {8,}", " ", content)
        entries = content if title == "Returns" else _ENTRY.sub(r"- `\1`: ", content)
        text += f"**{title}**\n\n{inspect.cleandoc(entries)}\n\n"
    return text.rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
