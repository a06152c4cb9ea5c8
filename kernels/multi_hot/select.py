"""`auto`: the fastest implementation for a batch's shapes, by measuring the candidates.

Shapes: B rows, V num_tokens, H units, N values.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kernels.multi_hot.api import Implementation, multi_hot_dense
from kernels.multi_hot.native import build
from kernels.multi_hot.native.library import load

Tensor = Any

_NUM_ROUNDS = 7
_BUDGET_SECONDS = 0.5
_MAX_MATRIX_ELEMENTS = 2**27
"""Beyond half a GiB of float32, `dense` is no candidate."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What `auto` takes, and why."""

    name: Implementation

    why: str
    """One sentence for the user, with the figures or the reason why there are none."""

    seconds_by_name: dict[str, float] = field(default_factory=dict)
    """Forward and backward of one batch, the best of some rounds. Empty if nothing was measured."""

    took_seconds: float = 0.0
    """How long the measurement took, compilation included."""

    from_cache: bool = False
    """Whether the measurement is an earlier process's."""


def choose_implementation(
    *,
    num_rows: int,
    num_values: int,
    num_tokens: int,
    units: int,
    dtype: Any = tf.float32,
    unique: bool = False,
    device: str = "CPU:0",
) -> Choice:
    """Return the fastest implementation of forward and backward for batches of these shapes.

    Takes under a second, most of it compilation; the answer is kept beside the built kernels and
    found there the next time. On a CPU without a compiler, `gather` is taken unmeasured.

    Args:
      num_rows: B.
      num_values: N, the capacity.
      num_tokens: V.
      units: H.
      dtype: of the table: float32, bfloat16 or float16.
      unique: whether rows are promised to hold no id twice.
      device: where, such as "CPU:0" or "GPU:0".
    """
    on_cpu = tf.DeviceSpec.from_string(f"/device:{device}").device_type == "CPU"
    candidates: list[Implementation] = ["gather"]
    if num_rows * num_tokens <= _MAX_MATRIX_ELEMENTS:
        candidates.append("dense")
    native_key = ""
    if on_cpu:
        try:
            native_key = load().path.name
        except build.NativeUnavailableError as error:
            return Choice(name="gather", why=f"gather, without a measurement: {error}")
        candidates.insert(0, "native")
    dtype = tf.as_dtype(dtype)
    shapes = (num_rows, num_values, num_tokens, units)
    asked = {"shapes": shapes, "dtype": dtype.name, "unique": unique, "candidates": candidates}
    path = _cache_path({**asked, "on": _device_name(device), "native": native_key})
    if path is not None and (kept := _read(path)) is not None:
        return kept
    start = time.perf_counter()
    seconds = _measure(candidates, shapes, dtype, unique, device)
    took_seconds = time.perf_counter() - start
    # Within a tenth the order of the candidates decides, not the noise of the day.
    best = min(seconds.values())
    name = next(name for name in candidates if seconds[name] <= 1.1 * best)
    figures = ", ".join(f"{name} {1e3 * seconds[name]:.2f} ms" for name in candidates)
    B, N, V, H = shapes
    choice = Choice(
        name=name,
        why=f"{name}: forward and backward of {B} rows, {N} ids, {V} x {H} took {figures}",
        seconds_by_name=seconds,
        took_seconds=took_seconds,
    )
    if path is not None:
        _write(path, choice)
    return choice


def _measure(
    candidates: list[Implementation],
    shapes: tuple[int, int, int, int],
    dtype: tf.DType,
    unique: bool,
    device: str,
) -> dict[str, float]:
    """Return the best time of each candidate, from rounds in which they take turns."""
    B, _, V, H = shapes
    rng = np.random.default_rng(0)
    values, row_splits = _sets(rng, shapes, unique)
    with tf.device(device):
        operands = (
            tf.cast(tf.constant(rng.normal(size=(V, H)), tf.float32), dtype),
            tf.constant(values),
            tf.constant(row_splits),
            tf.cast(tf.constant(rng.normal(size=(B, H)), tf.float32), dtype),
        )
        steps = {name: _step(name, unique) for name in candidates}
        seconds: dict[str, float] = dict.fromkeys(candidates, float("inf"))
        for step in steps.values():
            step(*operands)
        start = time.perf_counter()
        for _ in range(_NUM_ROUNDS):
            for name, step in steps.items():
                began = time.perf_counter()
                step(*operands)
                seconds[name] = min(seconds[name], time.perf_counter() - began)
            if time.perf_counter() - start > _BUDGET_SECONDS:
                break
    return seconds


def _sets(
    rng: np.random.Generator, shapes: tuple[int, int, int, int], unique: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return int32 values [N] and row splits [B + 1] of rows of about equal length.

    Frequent ids come often, as words do. Where rows are promised to hold no id twice, they do not.
    """
    B, N, V, _ = shapes
    row_splits = np.linspace(0, N, B + 1).astype(np.int32)
    if not unique:
        return (V ** rng.random(N)).astype(np.int32) - 1, row_splits
    rows = [
        rng.permutation(np.unique((V ** rng.random(3 * length)).astype(np.int32) - 1))[:length]
        for length in np.diff(row_splits)
    ]
    row_splits = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    padding = np.zeros(N - row_splits[-1], np.int32)
    return np.concatenate([*rows, padding]), row_splits


def _step(name: Implementation, unique: bool) -> Callable[..., None]:
    # AutoGraph's first use in a process costs more than the three compilations together.
    @tf.function(jit_compile=True, autograph=False)
    def value_and_gradient(table: Tensor, values: Tensor, splits: Tensor, dy: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            tape.watch(table)
            y = multi_hot_dense(table, values, splits, implementation=name, unique=unique)
        return y, tape.gradient(y, table, output_gradients=dy)

    def step(*operands: Tensor) -> None:
        value_and_gradient(*operands)[1][:1].numpy()  # waits for the device

    return step


def _device_name(device: str) -> str:
    physical = tf.config.list_physical_devices(device.split(":")[0])
    details = tf.config.experimental.get_device_details(physical[0]) if physical else {}
    return f"{device} {details.get('device_name', build.processor())} of {os.cpu_count()}"


def _cache_path(asked: dict[str, Any]) -> Path | None:
    """Return where the answer lies or is to lie, or None where nothing can be kept."""
    try:
        folder = build.cache_folder()
    except build.NativeUnavailableError:
        return None
    asked["versions"] = [tf.__version__, *(source.read_text() for source in _sources())]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]
    return folder / f"choice-{digest}.json"


def _sources() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.py"))


def _read(path: Path) -> Choice | None:
    try:
        return replace(Choice(**json.loads(path.read_text())), from_cache=True)
    except (OSError, ValueError, TypeError):
        return None  # not there, or damaged: measured again, and written anew


def _write(path: Path, choice: Choice) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        written = Path(file.name)
    try:
        written.write_text(json.dumps(asdict(choice)))
        os.replace(written, path)
    except OSError:
        written.unlink(missing_ok=True)  # a full disk: the next process measures again
