"""Every message on wrong input states a fact and then a remedy: read in the source, since no suite
meets each of them. tests/harness/cli/test_wrong_settings.py looks for the values."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REMEDY = re.compile(r"[;:.,] (?=\w)|\bmust\b|\bneeds?\b|\{\}$")
"""A second clause, a requirement, or a value at the end, which holds them."""


def text_of(node: ast.expr) -> str | None:
    """Returns a message with {} for each value; None where a function or a variable has it."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)
        case ast.BinOp(left=left, right=right):
            return f"{text_of(left) or '{}'}{text_of(right) or '{}'}"
        case ast.IfExp(body=body):
            return text_of(body)
    return None


def messages() -> Iterator[tuple[str, str]]:
    """Yields the place and the text of each message in the source."""
    for path in sorted(ROOT.glob("harness/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name(id="InputError"), args=[message, *_]):
                    text = text_of(message)
                case ast.Call(func=ast.Name(id="require"), args=[_, message, *_]):
                    text = text_of(message)
                case _:
                    continue
            if text is not None:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def test_a_message_names_the_remedy() -> None:
    found = dict(messages())
    assert len(found) > 200, "messages are raised in another way now"
    lacking = [f"{at}: {text}" for at, text in found.items() if not REMEDY.search(text)]
    assert not lacking, "no remedy in:\n" + "\n".join(lacking)
