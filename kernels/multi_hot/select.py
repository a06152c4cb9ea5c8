"""`auto`: measures the candidates to find the fastest implementation for a batch's shapes.

Shapes: B rows, V num_tokens, H units, N values.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kernels import cache
from kernels.multi_hot.native import build
from kernels.multi_hot.registry import (
    IMPLEMENTATIONS,
    Implementation,
    Problem,
    Tensor,
    UnavailableError,
    product,
)

_NUM_PRODUCTS = {"CPU": 4, "GPU": 50}  # in a measured loop: a call on a GPU takes longer than one
_MOST_ROUNDS = 20
_OUT_OF_THE_RUNNING = 3.0  # times the best so far
_BUDGET_SECONDS = 0.5
_LIMIT_SECONDS = 20.0  # after which no further candidate is compiled
_MANY_NUMBERS = 32
_MANY_PRODUCTS = 2**27
"""Limits beyond which a CPU does not measure `dense` in float32: of the matrix's elements for each
id, and of its multiplications. Beyond both, it was 2 to 12 times slower than the better of the
others, for 16 shapes on one core and two, with AVX-512. In 16 bits it may not be, as some
processors multiply such matrices many times faster."""


class Choice(NamedTuple):
    name: Implementation
    why: str  # measured times, or why nothing was measured; and what is unavailable


def choose_implementation(
    *,
    num_rows: int,
    num_values: int,
    num_tokens: int,
    units: int,
    dtype: Any = tf.float32,
    unique: bool = False,
    weighted: bool = False,
    device: str = "CPU:0",
    deterministic: bool = False,
    tell: Callable[[str], None] = lambda candidate: None,
) -> Choice:
    """Return the fastest implementation of forward and backward for batches of these shapes: B, N,
    V and H.

    This takes up to a second, and on a GPU the time to compile the candidates, of which none is
    begun after 20 seconds; `tell` gets each one's name first. Nothing is measured if a single one
    is left, or the answer of an earlier call lies beside the built kernels. On a CPU, `gather` is
    no candidate beside `native`, and `dense` is none if its matrix is nearly empty. `deterministic`
    leaves a GPU only implementations that add in a fixed order, if any of them fits.
    """
    device_type = tf.DeviceSpec.from_string(f"/device:{device}").device_type
    dtype = tf.as_dtype(dtype)
    shape = num_rows, num_values, num_tokens, units
    builds, left_out = _candidates(device_type, shape, dtype, deterministic)
    names = list(builds)
    if len(names) == 1:
        return Choice(names[0], f"chosen without measuring: {'; '.join(left_out)}")
    others = "".join(f"; {why}" for why in left_out)
    physical = tf.config.list_physical_devices(device_type)
    details = tf.config.experimental.get_device_details(physical[0]) if physical else {}
    sources = [file.read_text() for file in sorted(Path(__file__).parent.glob("*.py"))]
    asked = [
        *(*shape, dtype.name, unique, weighted, builds, device),
        *(details.get("device_name", build.processor()), os.cpu_count(), tf.__version__, sources),
    ]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    file_name = f"choice-{digest[:24]}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        with open(cache.open_file(cache.opened() / file_name), "rb") as file:
            kept = Choice(**json.load(file))
        return kept._replace(why=f"measured before: {kept.why}{others}")
    start = time.perf_counter()
    drawn = _drawn(*shape, unique=unique, weighted=weighted)
    seconds = _measure(names, drawn, dtype, device, unique=unique, tell=tell)
    took_seconds = time.perf_counter() - start
    late = ", ".join(name for name in names if name not in seconds)
    # Among times within a tenth of the best, the order decides, not noise.
    name = next(name for name in seconds if seconds[name] <= 1.1 * min(seconds.values()))
    times = ", ".join(f"{name} {1e3 * seconds[name]:.2f} ms" for name in seconds)
    if late:
        times = times if len(seconds) > 1 else f"{name} only"
        times += f"; {late} not measured within {_LIMIT_SECONDS:.0f} s"
    why = (
        f"forward and backward of {num_rows:,} rows, {num_values:,} ids, {num_tokens:,} x {units:,}"
    )
    choice = Choice(name, f"{why}: {times}")
    with contextlib.suppress(OSError):  # without such a folder, the next process measures again
        cache.write(cache.opened() / file_name, json.dumps(choice._asdict()).encode())
    return choice._replace(why=f"measured in {took_seconds:.1f} s: {choice.why}{others}")


def _candidates(
    device_type: str, shape: tuple[int, int, int, int], dtype: tf.DType, deterministic: bool
) -> tuple[dict[Implementation, str], list[str]]:
    """Return the builds of the candidates, the most specialized first, and why others are none."""
    num_rows, num_values, num_tokens, units = shape
    builds: dict[Implementation, str] = {}
    left_out = []
    for name in reversed(IMPLEMENTATIONS):
        found = product(name)
        try:
            if found.fits(num_rows, num_tokens):
                builds[name] = found.prepare(device_type)
            else:
                left_out.append(f"{name} does not fit {num_rows:,} rows of {num_tokens:,} ids")
        except UnavailableError as error:
            left_out.append(f"{name} is unavailable: {error}")
    numbers, per_id = num_rows * num_tokens, num_rows * num_tokens / max(num_values, 1)
    if device_type == "CPU" and dtype == tf.float32 and "native" in builds:
        nearly_empty = per_id > _MANY_NUMBERS and numbers * units > _MANY_PRODUCTS
        if nearly_empty and builds.pop("dense", None) is not None:
            # Its compilation takes longer than all measurements.
            left_out.append(f"dense would need a matrix of {per_id:,.0f} numbers for each id")
        del builds["gather"]  # its product may be as fast
        left_out.append("gather cannot update single rows of a table on a CPU")
    in_any_order = [name for name in builds if not product(name).deterministic_on_gpu]
    if deterministic and device_type != "CPU" and len(in_any_order) < len(builds):
        for name in in_any_order:
            del builds[name]
            left_out.append(f"{name} does not add in a fixed order")
    return builds, left_out


def _drawn(
    num_rows: int, num_values: int, num_tokens: int, units: int, *, unique: bool, weighted: bool
) -> dict[str, np.ndarray]:
    """Return random operands of `_loop`. Ids are as frequent as the ranks of words."""
    rng = np.random.default_rng(0)
    ids = (3 * (num_tokens / 3 + 1) ** rng.random(2 * num_values) - 3).astype(np.int64)
    ids = np.minimum(ids, num_tokens - 1)  # rounded
    cells = rng.integers(num_rows, size=2 * num_values) * num_tokens + ids
    cells = rng.permutation(np.unique(cells) if unique else cells)[:num_values]
    cells = cells[np.argsort(cells // num_tokens, kind="stable")]
    splits = np.searchsorted(cells // num_tokens, np.arange(num_rows + 1))
    drawn = {
        "table": rng.standard_normal((num_tokens, units), np.float32),
        "values": np.resize(cells % num_tokens, num_values),
        "splits": splits,
        # Outside the loop, as in training. Compiling this would take longer than the measurement.
        "rowids": np.searchsorted(splits[1:], np.arange(num_values), "right"),
        "dy": rng.standard_normal((num_rows, units), np.float32),
    }
    return drawn | ({"weights": rng.standard_normal(num_values, np.float32)} if weighted else {})


def _measure(
    names: list[Implementation],
    drawn: dict[str, np.ndarray],
    dtype: tf.DType,
    device: str,
    *,
    unique: bool,
    tell: Callable[[str], None],
) -> dict[Implementation, float]:
    """Return each implementation's best time of one product, without those whose turn did not come
    in time. Those that are far from the best are measured only once."""
    num_products = _NUM_PRODUCTS["CPU" if "CPU" in device else "GPU"]
    loops: dict[Implementation, Callable[..., Tensor]] = {}
    start = time.perf_counter()
    with tf.device(device):
        operands = {
            # int32 numbers would lie on the host, and every call on a GPU would copy them.
            name: tf.constant(array)
            if array.dtype == np.int64
            else tf.cast(tf.constant(array), tf.float32 if name == "weights" else dtype)
            for name, array in drawn.items()
        }
        for number, name in enumerate(names, 1):
            if loops and time.perf_counter() - start > _LIMIT_SECONDS:
                break
            tell(f"{name} ({number} of {len(names)})")
            loops[name] = _loop(name, num_products, unique)
            loops[name](operands)[:1].numpy()  # compiles, and waits for the device
        seconds = dict.fromkeys(loops, float("inf"))
        start = time.perf_counter()
        for _ in range(_MOST_ROUNDS if len(loops) > 1 else 0):
            for name, loop in loops.items():
                began = time.perf_counter()
                loop(operands)[:1].numpy()
                seconds[name] = min(seconds[name], (time.perf_counter() - began) / num_products)
            slowest = _OUT_OF_THE_RUNNING * min(seconds.values())
            loops = {name: loop for name, loop in loops.items() if seconds[name] <= slowest}
            if len(loops) == 1 or time.perf_counter() - start > _BUDGET_SECONDS:
                break
    return seconds


def _loop(name: Implementation, num_products: int, unique: bool) -> Callable[..., Tensor]:
    own = product(name)

    # AutoGraph's first use in a process costs more than all the compilations.
    @tf.function(jit_compile=True, autograph=False)
    def descend(operands: dict[str, Tensor]) -> Tensor:
        table, dy = operands["table"], operands["dy"]
        ids = ("values", "splits", "rowids")
        values, splits, rowids = (tf.cast(operands[part], tf.int32) for part in ids)
        V, rowids = table.shape[0], rowids if own.takes_rowids else None
        weights = operands.get("weights")
        sets = Problem(values, splits, V, table.dtype, unique, rowids, weights)

        def body(step: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
            index = own.index(sets)
            y = tf.cast(own.forward(table, index), table.dtype)
            # Each product depends on the one before, so that none can be moved out of the loop.
            gradient = own.backward(dy + 0 * y, index)
            return step + 1, table - 1e-3 * tf.cast(gradient, table.dtype)

        return tf.while_loop(lambda step, _: step < num_products, body, (0, table))[1]

    return descend
