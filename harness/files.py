"""Files that are whole or absent: written beside, flushed, then renamed."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; renames it to `path` when the block succeeds.

    When the block fails, nothing is left of the new file and `path` is as it was.
    """
    # The suffix stays last: some writers (Keras) choose the format by it.
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield beside
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON; floats read back exactly."""
    text = json.dumps(content, indent=2, allow_nan=True) + "\n"
    with replacing(path) as beside:
        beside.write_text(text)
