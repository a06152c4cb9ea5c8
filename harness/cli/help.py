"""The short help of `train`: the options that people set. `--help-all` lists all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import tyro

_SHOWN = frozenset(
    {
        *("data", "test_data", "text_column", "label_column", "ngrams", "validation_split"),
        *("recipe", "epochs", "early_stopping", "class_weight", "batch_size"),
        *("hidden_units", "dropout", "optimizer", "learning_rate", "learning_rate_schedule"),
        *("precision", "replicas", "run_dir", "resume", "overwrite", "report"),
    }
)


def is_short(words: Sequence[str]) -> bool:
    """Returns whether a command line asks for help, but not for all of it."""
    return not {"-h", "--help"}.isdisjoint(words) and "--help-all" not in words


def shortened(settings: Any) -> type:
    """Returns a class like that of `settings`, which are its defaults, for help alone: tyro hides
    all but the usual options, and would refuse the others."""
    kind = type(settings)
    short = _shortened(settings)
    short.__doc__ = f"{kind.__doc__}\n\n`--help-all` lists all {len(list(options(kind)))} options."
    return short


def options(kind: type) -> Iterator[tuple[str, Any]]:
    """Yields the names and types of a command's settings, also of those in groups."""
    for name, hint in get_type_hints(kind).items():
        if isinstance(hint, type) and is_dataclass(hint):
            yield from options(hint)
        else:
            yield name, hint


def _shortened(settings: Any) -> type:
    kind = type(settings)
    hints = get_type_hints(kind, include_extras=True)
    # Under the name of `kind`, so that tyro finds the texts below its fields.
    body: dict[str, Any] = {n: getattr(kind, n) for n in ("__module__", "__qualname__", "__doc__")}
    for one in fields(kind):
        value = getattr(settings, one.name)
        if is_dataclass(hints[one.name]):
            inner = _shortened(value)
            hints[one.name], value = inner, field(default_factory=inner)
        elif one.name not in _SHOWN:
            hints[one.name] = Annotated[hints[one.name], tyro.conf.Suppress]
        body[one.name] = value
    body["__annotations__"] = {one.name: hints[one.name] for one in fields(kind)}
    made = type(kind.__name__, (kind,), body)
    return dataclass(frozen=True, kw_only=True)(made)
