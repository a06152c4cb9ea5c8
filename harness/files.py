"""Files that are whole or absent: written beside, then renamed. And JSON that any reader takes."""

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import InputError

_PARTIAL_START = ".partial-"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields an empty file beside `path` to write to; renames it to `path` when the block succeeds.

    When the block fails, nothing is left of the new file and `path` is as it was. An `OSError` that
    names no file, as that of a full disk, leaves with the name of `path`. A process that is killed
    leaves a file for `remove_partial_files`.
    """
    # A random name, made exclusively: a link that somebody planted is not followed. Files of
    # Python's tempfile would be readable by their owner alone. The suffix stays last, because some
    # writers (Keras) choose the format by it. The rest of the name is left out, because TensorBoard
    # reads every file with `tfevents` in its name.
    beside = path.with_name(f"{_PARTIAL_START}{secrets.token_hex(8)}{path.suffix}")
    try:
        os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield beside
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        os.replace(beside, path)
    except OSError as error:
        if error.filename in (None, str(beside), beside):
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def remove_partial_files(folder: Path) -> None:
    """Removes what `replacing` left in `folder` when its process was killed. Nobody may be writing
    there."""
    for path in folder.glob(f"{_PARTIAL_START}*"):
        path.unlink()


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


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """The JSON object in the file at `path`.

    Raises:
        InputError: the file cannot be read or does not hold one; `remedy` ends the message.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. {remedy}") from error
    # Text that is not UTF-8 and text that is not JSON both raise a ValueError.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}. {remedy}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} does not hold a JSON object. {remedy}")
    return content
