"""The layer's forward and backward in XLA, `native` and `gather`, beside what the machine can do.

    python benchmarks/limit/compare.py [CASE ...]

Each round runs the limit program and some dispatches of 20 steps of each implementation, one after
another, each warmed up first; printed are medians over rounds. Exits with 1 if a bar is missed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kernels.multi_hot import Implementation, multi_hot_dense
from kernels.multi_hot.cases import CASES, Case, Sets
from kernels.multi_hot.native.build import flags, require_compiler

NUM_ROUNDS = 15
DISPATCHES_PER_ROUND = 5
STEPS_PER_DISPATCH = 20
"""kStepsPerRepeat of the limit program, for both count the same interruptions."""
MIN_SPEEDUP_OVER_GATHER = 6.0
MAX_RATIO_TO_LIMIT = 2.0


def build_limit(folder: Path) -> Path:
    """Compile limit.cc for this machine."""
    program = folder / "limit"
    source = Path(__file__).with_name("limit.cc")
    subprocess.run([*require_compiler(), *flags(), str(source), "-o", str(program)], check=True)
    return program


def limit_command(program: Path, case: Case, sets: Sets) -> list[str]:
    """Write the case's ids for the limit program; return how to run it."""
    values, splits = program.with_suffix(".values"), program.with_suffix(".splits")
    sets.values.tofile(values)
    sets.row_splits.astype(np.int32).tofile(splits)
    sizes = (case.num_tokens, case.units, os.cpu_count(), DISPATCHES_PER_ROUND)
    return [str(program), str(values), str(splits), *map(str, sizes)]


def layer(case: Case, sets: Sets, implementation: Implementation) -> Callable[[], float]:
    """Return a function that runs one round and gives the milliseconds per step."""

    @tf.function(jit_compile=True)
    def dispatch(table: Any, values: Any, row_splits: Any, dy: Any) -> Any:
        y, part = dy, table[:1]
        for step in tf.range(STEPS_PER_DISPATCH):
            # Always 0, which the compiler does not know: no step can be moved out of the loop.
            ids = values + step // 2**30
            with tf.GradientTape() as tape:
                tape.watch(table)
                y = multi_hot_dense(
                    table, ids, row_splits, implementation=implementation, unique=case.unique
                )
            # A part of it, so that no copy of the whole into the loop is timed.
            part = tape.gradient(y, table, output_gradients=dy)[:1]
        return y, part

    operands = [tf.constant(array) for array in (sets.table, sets.values, sets.row_splits, sets.dy)]

    def run() -> float:
        times = []
        for _ in range(1 + DISPATCHES_PER_ROUND):
            start = time.perf_counter()
            dispatch(*operands)[0][:1].numpy()
            times.append((time.perf_counter() - start) * 1e3 / STEPS_PER_DISPATCH)
        return statistics.median(times[1:])

    run()  # compiles
    return run


def compare(case: Case, program: Path) -> bool:
    """Print the case's row; return whether both bars hold."""
    sets = case.draw(0)
    command = limit_command(program, case, sets)
    runs = {name: layer(case, sets, name) for name in ("native", "gather")}
    times: dict[str, list[float]] = {name: [] for name in ("limit", *runs)}
    for _ in range(NUM_ROUNDS):
        printed = subprocess.run(command, check=True, capture_output=True).stdout
        times["limit"].append(json.loads(printed)["layer_ms"])
        for name, run in runs.items():
            times[name].append(run())
    limit, native, gather = (statistics.median(times[name]) for name in ("limit", *runs))
    held = gather / native >= MIN_SPEEDUP_OVER_GATHER and native / limit <= MAX_RATIO_TO_LIMIT
    print(
        f"{case.name}: limit {limit:.3f} ms, native {native:.3f} ms, gather {gather:.3f} ms; "
        f"native is {gather / native:.1f} x faster than gather (bar {MIN_SPEEDUP_OVER_GATHER}) "
        f"and takes {native / limit:.2f} of the limit's time (bar {MAX_RATIO_TO_LIMIT}): "
        + ("held" if held else "MISSED")
    )
    return held


def main() -> int:
    """Compare the named cases, or the IMDB ones."""
    names = sys.argv[1:] or ["imdb_500", "imdb_4096"]
    with tempfile.TemporaryDirectory() as folder:
        program = build_limit(Path(folder))
        held = [compare(CASES[name], program) for name in names]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
