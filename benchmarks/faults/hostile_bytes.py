"""Damage to bytes and to text formats, of which every mutation of a file is made."""

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[random.Random, bytes], bytes]
"""A function that returns a damaged version of a valid file's content."""

_RAW = "@@raw@@"
_LONG = 10_000
NUMBERS = (
    *("-1", "0", "-0", "1", "2", "7", "1e3", "2147483647", "2147483648", str(2**40), str(2**62)),
    *(str(2**63), str(2**64), "1e308", "1e400", "-1e400", f"1{'0' * 400}", f"1{'0' * _LONG}"),
    *("0.5", "-0.5", "1e-320", "true", "false", '"7"', '"None"', '""'),
)
_JSON_VALUES = (
    *NUMBERS,
    *("NaN", "Infinity", "-Infinity", "null", "[]", "{}", "[[]]", '{"a": 1}', "[1, 2, 3]"),
    *(r'"\ud800"', r'"\u0000"', r'"\u001b[31mred"', r'"../../../etc/passwd"', '"auto"', '"a"'),
    *(f'"{"long" * 20_000}"', f"[{','.join('1' * 5_000)}]"),
    *("[" * depth + "]" * depth for depth in (60, 1_000, 100_000)),
    *('{"a":' * depth + "1" + "}" * depth for depth in (60, 1_000, 100_000)),
    *("{", "[", "nan", "'", "01", "1_000", "/* */ 1"),
)
_TOML_VALUES = (
    *(value for value in NUMBERS if value != "-0"),
    *("nan", "inf", "-inf", "[]", "{}", "[[]]", "{a = 1}", "[1, 2, 3]", "1979-05-27", "07:32:00"),
    *(r'"\ud800"', r'"\u0000"', r'"\u001b[31mred"', '"auto"', "'''a", '"""', f"0x{'f' * _LONG}"),
    *(f'"{"long" * 20_000}"', f"[{','.join('1' * 5_000)}]"),
    *("[" * depth + "]" * depth for depth in (60, 1_000, 100_000)),
    *("{a=" * depth + "1" + "}" * depth for depth in (60, 1_000, 100_000)),
    *(".".join("a" * depth) + " = 1" for depth in (60, 2_000)),
)


def flip(rng: random.Random, content: bytes) -> bytes:
    """Flips one bit."""
    place = rng.randrange(8 * len(content))
    return _replaced(content, place // 8, bytes([content[place // 8] ^ (1 << place % 8)]))


def scramble(rng: random.Random, content: bytes) -> bytes:
    """Changes some bytes anywhere, often to extremes."""
    for _ in range(rng.choice((1, 2, 5, 20))):
        place = rng.randrange(len(content))
        new = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
        content = _replaced(content, place, bytes([new]))
    return content


def fill(rng: random.Random, content: bytes) -> bytes:
    """Overwrites several bytes in one place, such as a length or an offset, with the same value."""
    size = rng.choice((2, 4, 8, 64))
    new = rng.choice((b"\x00", b"\xff", b"\x7f", b" ", b"9", rng.randbytes(1)))
    return _replaced(content, rng.randrange(len(content)), size * new)[: len(content)]


def truncate(rng: random.Random, content: bytes) -> bytes:
    """Keeps only the beginning."""
    return content[: rng.choice((0, 1, len(content) - 1, rng.randrange(len(content))))]


def insert(rng: random.Random, content: bytes) -> bytes:
    """Inserts bytes anywhere."""
    place = rng.choice((0, len(content), rng.randrange(len(content))))
    return content[:place] + rng.randbytes(rng.choice((1, 4, 1000))) + content[place:]


def delete(rng: random.Random, content: bytes) -> bytes:
    """Deletes bytes anywhere."""
    place = rng.randrange(len(content))
    return content[:place] + content[place + rng.choice((1, 2, 16, 500)) :]


def swap(rng: random.Random, content: bytes) -> bytes:
    """Swaps two neighbouring pieces."""
    a, b, c = sorted(rng.randrange(len(content)) for _ in range(3))
    return content[:a] + content[b:c] + content[a:b] + content[c:]


BYTES: tuple[Damage, ...] = (flip, flip, scramble, fill, truncate, insert, delete, swap)


def damage_json(rng: random.Random, content: bytes) -> bytes:
    """Damages one value, key or structure of a JSON document."""
    if rng.random() < 0.05:  # replace the whole document
        return rng.choice(_JSON_VALUES).encode()
    document = json.loads(content)
    holder, key = rng.choice(list(_places(document)))
    how = rng.randrange(8)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "a", "\x1b[31m", "\ud800", "k" * 5_000, key.upper()))] = holder.pop(
            key
        )
    elif how == 2:
        holder[key] = [holder[key]]
    elif how == 3:  # with something else of the document
        other, where = rng.choice(list(_places(document)))
        holder[key] = json.loads(json.dumps(other[where]))
    else:
        holder[key] = _RAW
    text = json.dumps(document, indent=rng.choice((None, 2)))
    text = text.replace(f'"{_RAW}"', rng.choice(_JSON_VALUES))
    if rng.random() < 0.05:  # a key twice
        text = text.replace("{", rng.choice(('{"step": "a",', '{"version": 2,', '{"":{},')), 1)
    return text.encode(errors="surrogatepass")


def damage_lines(rng: random.Random, content: bytes) -> bytes:
    """Damages one line of a file with a JSON document on each line: its document, or its place."""
    lines = content.splitlines(keepends=True)
    place = rng.randrange(len(lines))
    how = rng.randrange(6)
    if how == 0:
        del lines[place]
    elif how == 1:
        lines.insert(rng.randrange(len(lines)), lines[place])
    elif how == 2:
        lines.insert(place, rng.choice((b"\n", b"null\n", b"{}\n", b"[]\n", b"9" * 2_000_000)))
    else:
        new = damage_json(rng, lines[place])
        lines[place] = new.replace(b"\n", b"") + b"\n"
    return b"".join(lines)


def damage_toml(rng: random.Random, content: bytes) -> bytes:
    """Damages one line of a TOML file."""
    lines = content.decode().splitlines()
    place = rng.randrange(len(lines))
    how, new = rng.randrange(8), rng.choice(_TOML_VALUES)
    if how == 0:
        lines.insert(place, f"[{'.'.join('a' * rng.choice((1, 60, 2_000)))}]")
    elif how == 1:
        lines.insert(rng.randrange(len(lines)), lines[place])
    elif how == 2:
        name = rng.choice(("a", '""', '"\\u001b"', "seed", "k" * 5_000))
        lines[place] = re.sub(r"^[\w-]+", lambda _: name, lines[place])
    elif how == 3:
        lines.insert(place, f"a.{'.'.join('b' * rng.choice((1, 60, 3_000)))} = {new}")
    else:
        lines[place] = re.sub("=.*", lambda _: f"= {new}", lines[place])
    return "\n".join(lines).encode()


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Returns every container and key in a JSON document."""
    found: list[tuple[Any, Any]] = []
    open_ = [document]
    while open_:
        holder = open_.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                open_.append(holder[key])
    return found


def _replaced(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]


def no_file(rng: random.Random, path: Path) -> str:
    """Puts something else in the place of a file, or nothing; returns what."""
    path.unlink()
    kind = rng.choice(("nothing", "pipe", "folder", "zeros", "dangling", "loop", "long", "socket"))
    targets = {
        "zeros": "/dev/zero",
        "dangling": "nowhere",
        "loop": path.name,
        "long": "n" * 300,
        "socket": "/dev/log",
    }
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind in targets:
        path.symlink_to(targets[kind])
    return kind
