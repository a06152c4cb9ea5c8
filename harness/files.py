"""Files that are whole or absent: written beside, then renamed. And JSON that any reader takes."""

import contextlib
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; renames it to `path` when the block succeeds.

    When the block fails, nothing is left of the new file and `path` is as it was. An `OSError` that
    names no file, as that of a full disk, leaves with the name of `path`.
    """
    # The suffix stays last: some writers (Keras) choose the format by it.
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield beside
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        os.replace(beside, path)
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def os_error(message: str, path: Path) -> OSError:
    """The OSError behind TensorFlow's error about a file at `path`.

    Its message is "FILE; REASON [Op:NAME]" with the system's words, the number itself is lost.
    """
    reason = message.rpartition("; ")[2].partition(" [Op:")[0]
    number = next((n for n in errno.errorcode if os.strerror(n) == reason), errno.EIO)
    return OSError(number, reason, str(path))


def json_text(content: Any, *, indent: int | None = None) -> str:
    """`content` as JSON text; finite floats read back exactly.

    JSON has no numbers that are not finite. They are written as the texts "NaN", "Infinity" and
    "-Infinity" (the JSON mapping of protocol buffers), which Python's `float` and JavaScript's
    `Number` turn back into them.
    """
    try:
        return json.dumps(content, indent=indent, allow_nan=False)
    except (ValueError, TypeError):  # a number that is not finite; a mapping that is no dict
        return json.dumps(_finite_or_named(content), indent=indent, allow_nan=False)


def _finite_or_named(content: Any) -> Any:
    if isinstance(content, float) and not math.isfinite(content):
        return "NaN" if math.isnan(content) else "Infinity" if content > 0 else "-Infinity"
    if isinstance(content, Mapping):
        return {key: _finite_or_named(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite_or_named(value) for value in content]
    return content


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON, whole or not at all; see `json_text` for its floats."""
    with replacing(path) as beside:
        beside.write_text(json_text(content, indent=2) + "\n", encoding="utf-8")
