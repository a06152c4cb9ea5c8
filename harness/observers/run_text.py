"""A run's settings and surroundings for TensorBoard's Text page: Markdown tables."""

from collections.abc import Iterable, Mapping
from typing import Any

from harness.records import RunStart


def settings_table(run: RunStart) -> str:
    """Every setting with its value, and what each `auto` came to and why."""
    taken = {
        "execution.precision": run.precision,
        "execution.implementation": run.implementation,
        "execution.input": run.input,
        "execution.steps_per_dispatch": run.steps_per_dispatch,
    }
    asked = dict(_flat(run.config))
    rows = [
        (name, taken[name].name, taken[name].why) if name in taken else (name, _shown(value), "")
        for name, value in asked.items()
    ]
    return _table(("setting", "value", "why"), rows)


def environment_table(run: RunStart) -> str:
    """The data set, the devices, the versions and the machine."""
    data = run.dataset
    rows: list[tuple[Any, ...]] = [
        ("data set", data.name),
        ("rows", f"{data.rows:,} to train on, {data.test_rows:,} to test on"),
        ("classes", data.num_classes),
        ("token ids", f"{data.nnz:,}, below {data.num_tokens:,}"),
        ("devices", ", ".join(run.devices)),
        ("replicas", run.replicas),
        ("parameters", f"{run.num_parameters:,}"),
        ("steps an epoch", f"{run.steps_per_epoch:,}"),
        ("run folder", run.run_dir),
        *((f"version of {name}", version) for name, version in run.versions.items()),
        *((f"host: {name}", _shown(value)) for name, value in run.host.items()),
    ]
    return _table(("what", "value"), rows)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(value: Any) -> str:
    """Text that Markdown shows as it is, on one line."""
    text = " ".join(str(value).split())
    for mark in "\\|*_`[]<>":
        text = text.replace(mark, f"\\{mark}")
    return text
