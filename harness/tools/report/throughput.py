"""How fast a run was, from the files in its folder: figures, curves, the parts of a step, and the
choices of every `auto`."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.base.reading import damage
from harness.run import profiling
from harness.run.observers.console import gpu_text
from harness.run.observers.run_files import RESOLVED
from harness.run.stretches import stretches_of
from harness.tools.report.answers import Floats

_REMEDY = "Remove the folder plugins/profile."
_GPU_CURVES = {
    "utilization_percent": ("GPU utilization, %", 1),
    "memory_used_bytes": ("GPU memory, GiB", 2**30),
    "power_watts": ("GPU power, W", 1),
}


class Throughput(NamedTuple):
    figures: list[tuple[str, Any]]  # name and value
    curves: dict[str, dict[str, Floats]]  # [2, points] over steps, by title and by label
    parts: list[tuple[str, str, str]]  # part of a step, its contents, its share
    choices: list[tuple[str, str, str]]  # setting, what it came to, why


def throughput_of(
    folder: Path,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    windows: Iterable[Mapping[str, Any]],
) -> Throughput:
    """Reads what `config.json`, `summary.json` and the windows of `metrics.jsonl` tell, and the
    latest profile in the folder. Whatever is missing is left out."""
    chosen = config.get(RESOLVED, {}).items()
    reasons = ((n.replace("_", " "), c) for n, c in chosen if isinstance(c, Mapping) and "why" in c)
    return Throughput(
        figures=_figures(summary),
        curves=_curves(list(windows), int(summary.get("batch_size", 1))),
        parts=_parts(folder),
        choices=[(name, str(choice["name"]), str(choice["why"])) for name, choice in reasons],
    )


def _figures(summary: Mapping[str, Any]) -> list[tuple[str, Any]]:
    def of(name: str, times: float = 1.0) -> float | None:
        value = summary.get(name)
        return None if value is None else times * float(value)

    rest = [of(name) for name in ("wall_seconds", "train_seconds", "compile_seconds")]
    wall, train, compilation = (seconds or 0.0 for seconds in rest)
    steps = of("steps_per_second")
    found = {
        "examples/s, median": of("examples_per_second"),
        "examples/s, mean": of("mean_examples_per_second"),
        "step time, ms": 1e3 / steps if steps else None,
        "data wait, %": of("data_wait_fraction", 100),
        "training, s": of("train_seconds"),
        "compilation, s": of("compile_seconds"),
        "evaluation and the rest, s": wall - train - compilation if wall else None,
        "peak memory, GB": of("peak_rss_bytes", 1e-9),
        **{f"GPU {n}": gpu_text(gpu) for n, gpu in enumerate(summary.get("gpus", ()))},
        "J per 1,000 examples": of("joules_per_1000_examples"),
    }
    return [(name, value) for name, value in found.items() if value is not None]


def _curves(windows: list[Mapping[str, Any]], batch_size: int) -> dict[str, dict[str, Floats]]:
    stretches = stretches_of(windows, batch_size=batch_size)
    steps = [stretch.step for stretch in stretches]
    rates = {
        "examples/s": [stretch.examples_per_second for stretch in stretches],
        "data wait, % of the time": [100 * stretch.data_wait_fraction for stretch in stretches],
    }
    found = {title: {title: np.array([steps, values])} for title, values in rates.items() if steps}
    sampled: defaultdict[str, defaultdict[str, list[tuple[float, float]]]]
    sampled = defaultdict(lambda: defaultdict(list))
    for window in windows:
        for tag, spread in window.get("telemetry", {}).items():
            at = re.fullmatch(r"gpu/(\d+)/(\w+)", tag)
            if at and at[2] in _GPU_CURVES:
                title, unit = _GPU_CURVES[at[2]]
                point = float(window["step"]), float(spread["mean"]) / unit
                sampled[title][f"GPU {at[1]}"].append(point)
    for title, lines in sampled.items():
        found[title] = {label: np.array(points).T for label, points in lines.items()}
    # A single point is no curve, and stands in the table.
    return {title: own for title, own in found.items() if max(p.shape[1] for p in own.values()) > 1}


def _parts(folder: Path) -> list[tuple[str, str, str]]:
    written = folder.glob("plugins/profile/*/*.xplane.pb")
    latest = max(written, key=lambda path: path.stat().st_mtime_ns, default=None)
    if latest is None:
        return []
    with damage(latest, what="a profile", remedy=_REMEDY):
        times = profiling.divide(profiling.read(latest))
        return [
            (part, profiling.PARTS[part], f"{ms / times.ms:.1%}")
            for part, ms in times.parts.items()
            if ms > 0
        ]
