"""Writes JSON that any reader takes, whole or not at all."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kernels.files import replacing


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Returns `content` as JSON text; finite floats read back exactly. Others become the texts
    "NaN", "Infinity" and "-Infinity", which Python's `float` and JavaScript's `Number` turn back
    into numbers."""
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
