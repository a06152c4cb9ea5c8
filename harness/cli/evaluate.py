"""`harness evaluate`: evaluates a saved model on a data set's test rows."""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.text import Text

import harness
from harness.base.checks import Checked, Whole, flag_of, require
from harness.base.errors import InputError, printable
from harness.base.files import json_text
from harness.base.quiet import quiet_import
from harness.base.terminal import table_of
from harness.cli.data import facts_table
from harness.data.options import OF_WORDS, DataConfig, SourceConfig
from harness.run.observers.run_files import RESOLVED

if TYPE_CHECKING:
    from harness.cli.saved_model import SavedModel

OF_RUN = "run"  # the name, for --data, of the data that the model was trained on
# What `--json` has of each class; the last is the number of rows predicted to be of it.
_COLUMNS = ("name", "precision", "recall", "f1", "rows", "predicted")
_MAX_LISTED = 100
_MAX_CONFUSED = 12


@dataclass(frozen=True, kw_only=True)
class HeldOutRows(Checked):
    """The test rows of a run's data, or of other data."""

    data: SourceConfig = field(default_factory=lambda: SourceConfig(data=OF_RUN))
    batch_size: Annotated[int, Whole()] = 500
    """Rows per step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.data.data != OF_RUN or self.data == SourceConfig(data=OF_RUN),
            "the run's data has the run's settings; name other --data, or leave out its flags",
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(HeldOutRows):
    """Evaluate a saved model on the test rows of its run's data (--data run), or of other data."""

    model: str
    """Path to a .keras file, or to a run folder that holds one."""
    json: bool = False
    """Print one JSON object instead of a table."""


def evaluate(config: EvaluateConfig, *, given: Set[str] = frozenset()) -> int:
    console = Console()
    with quiet_import():
        from harness.cli.saved_model import load_saved_model
        from harness.model.export import names_of
        from harness.run.observers.console import FIGURES
    saved = load_saved_model(config.model, batch_size=config.batch_size)
    data, _ = load_rows(config, saved, given)
    found, quality = saved.trainer.evaluate_and_measure(data.test)
    loss, figures = found.pop("loss"), {} if quality is None else quality.figures()
    classes, confusion = list[dict[str, Any]](), None
    if quality is not None:
        words = saved.vocabulary or data.vocabulary
        names = names_of(words.class_names if words else (), len(quality.support))
        parts = (quality.precision, quality.recall, quality.f1, quality.support, quality.predicted)
        rows = zip(names, *(part.tolist() for part in parts), strict=True)
        classes = [dict(zip(_COLUMNS, row, strict=True)) for row in rows]
        confusion = None if quality.confusion is None else quality.confusion.tolist()
    if config.json:
        content: dict[str, Any] = {f"test_{name}": v for name, v in {**figures, **found}.items()}
        content |= {"test_loss": loss, "examples": data.test.num_rows}
        content |= {"classes": classes, "confusion": confusion} if classes else {}
        print(json_text(content))
        return 0
    shown: dict[str, Any] = {FIGURES[name]: value for name, value in figures.items()}
    shown = shown | found if saved.kind == "multi_label" else found | shown
    facts = {
        "model": str(saved.path),
        "data": data.name,
        **{f"test {name}": f"{value:.4f}" for name, value in {**shown, "loss": loss}.items()},
        "rows": f"{data.test.num_rows:,}",
    }
    console.print(facts_table(facts))
    if classes:
        figures_of = (
            (_text(one["name"]), *(f"{one[n]:.4f}" for n in _COLUMNS[1:4]), f"{one['rows']:,}")
            for one in classes[:_MAX_LISTED]
        )
        console.print(table_of(("class", "precision", "recall", "F1", "rows"), figures_of))
    if len(classes) > _MAX_LISTED:
        console.print(f"{len(classes) - _MAX_LISTED:,} more classes; --json has them all")
    if confusion is not None and len(classes) <= _MAX_CONFUSED:
        console.print("rows of each class by predicted class:")
        named = [_text(one["name"]) for one in classes]
        counts = ([name, *map("{:,}".format, r)] for name, r in zip(named, confusion, strict=True))
        console.print(table_of(("class", *named), counts))
    return 0


def load_rows(
    config: HeldOutRows, saved: SavedModel, given: Set[str]
) -> tuple[harness.Dataset, DataConfig]:
    """Returns the data that the settings name, and the settings that it was loaded with."""
    from harness.data.sources import load_configured

    saved.require_classes()
    known = saved.vocabulary
    if config.data.data == OF_RUN:
        source = saved.data()
        if source.data not in ("imdb", "synthetic") and not os.path.exists(source.data):
            raise InputError(
                f"{source.data}, the data of {saved.path}, is not there; change to the folder that "
                "its training was started in, or name the data by --data"
            )
        data = load_configured(source)
        _require_unchanged(data, source.data, saved)
    else:  # other texts become ids as those of the run did
        source = DataConfig(**vars(config.data))
        is_read = known is not None and known.takes_texts
        if is_read and (wrong := [flag_of(name) for name in OF_WORDS if name in given]):
            raise InputError(
                f"texts become ids as those did that {saved.path} was trained on; leave out "
                f"{', '.join(wrong)}"
            )
        data = load_configured(source, known=known if is_read else None)
    if data.num_tokens > saved.num_tokens:
        raise InputError(
            f"{data.name} has ids below {data.num_tokens}, but {saved.path} knows those below "
            f"{saved.num_tokens}; load the data as for its training, as with --num-words"
        )
    has_several = saved.kind in ("multi_label", "multinomial")
    if saved.kind is not None and data.is_multi_label != has_several:
        are, were = ("one label", "several") if has_several else ("several labels", "one")
        raise InputError(
            f"a row of {data.name} has {are}, and one that {saved.path} was trained on {were}; "
            "--label-separator divides a cell into several"
        )
    words = data.vocabulary
    if known is not None and words is not None and (why := known.difference(words)):
        raise InputError(
            f"{data.name} has another vocabulary than {saved.path}: {why}; read its rows together "
            "with those that the model was trained on, as with --test-data, or use the run's data"
        )
    return data, source


def _require_unchanged(data: harness.Dataset, path: str, saved: SavedModel) -> None:
    from harness.trainer.run import dataset_info

    recorded = (saved.config or {}).get(RESOLVED, {}).get("dataset", {})
    of = harness.Examples.of
    validation = None if data.validation is None else of(data.validation)
    test = of(data.test) if recorded.get("test_rows") else None  # none with --test off
    info = dataset_info(of(data.train), validation, test, num_classes=data.num_classes)
    if info.fingerprint != recorded.get("fingerprint"):
        raise InputError(
            f"{path} has changed since {saved.path} was trained on it, so rows of its training may "
            "be among the test rows; restore it, or name the data to evaluate by --data"
        )


def _text(name: str) -> Text:
    return Text(printable(name, one_line=True), overflow="fold")
