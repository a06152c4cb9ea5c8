"""The formats that the harness reads: a small valid file of each, and the code that reads it.

A whole command would take too long for ten thousand files, so a reader calls the functions that the
command calls. The worker passes some of the files to the command itself.
"""

import contextlib
import importlib.util
import io
import itertools
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from rich.console import Console

from harness.base.decoding import from_mapping
from harness.base.reading import read_toml
from harness.cli.compare import CompareConfig, compare
from harness.cli.data import DataInfoConfig, info
from harness.cli.settings import TrainConfig
from harness.data import store
from harness.data.options import DataConfig, ImdbOptions
from harness.data.ragged import RaggedSets
from harness.data.sources import load_configured
from harness.data.vocabulary import Vocabulary
from harness.run.observers.jsonl import kept_bytes, validation_losses
from harness.tools.bench.results import read_results
from harness.trainer.resuming import is_complete

Reader = Callable[[Path], str]
"""A function that reads a folder as a command does; returns the command's results as text."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file."""

    targets: tuple[str, ...]
    """The files to damage, one at a time."""
    write: Callable[[Path], None]
    """Writes a valid input into an empty folder."""
    reader: Callable[[Path], Reader]
    """Makes the reader, which may keep something of the valid folder."""
    command: Callable[[Path], list[str]] | None = None
    """Returns the arguments of the command that reads the folder."""
    is_checked: bool = False
    """Whether the files have checksums, so that no damage to their bytes may change the answer."""
    has_seal: bool = False
    """Whether the files have a checksum over the whole, which archives that are rebuilt lack."""


ROWS = [[1, 2, 3], [4, 5], [], [9, 9, 1, 30], [7], [1, 1, 1], [2, 8], [3, 300, 5]]


def _sets() -> RaggedSets:
    return RaggedSets(
        values=np.array(list(itertools.chain(*ROWS)), np.int32),
        row_splits=np.cumsum([0, *map(len, ROWS)]),
        labels=np.array([0, 1] * 4, np.int32),
        num_tokens=301,
        name="rows",
        weights=np.linspace(-1, 1, sum(map(len, ROWS)), dtype=np.float32),
    )


def _write_npz(path: Path, *, kind: int = ZIP_STORED) -> None:
    def part(rows: list[list[int]]) -> np.ndarray:
        array = np.empty(len(rows), object)
        array[:] = rows
        return array

    halves = {"train": ROWS[:4], "test": ROWS[4:]}
    arrays = {f"x_{name}": part(rows) for name, rows in halves.items()}
    arrays |= {f"y_{name}": np.array([0, 1, 1, 0]) for name in halves}
    with ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with io.BytesIO() as stream:
                np.save(stream, array)
                # `np.savez` would record the time of day.
                archive.writestr(ZipInfo(f"{name}.npy"), stream.getvalue(), kind)


def write_store(folder: Path) -> None:
    store.save(_sets(), folder / "rows", held_out_rows=3)
    ids = {f"word{token}": token for token in range(3, 40)}
    words = Vocabulary(ids=ids, num_tokens=301, start_id=1, unknown_id=2, class_names=("no", "yes"))
    words.save(folder / "rows" / "vocabulary.json")


def _write_word_index(folder: Path) -> None:
    _write_npz(folder / "reviews.npz")
    ranks = {f"word{rank}": rank for rank in range(1, 40)}
    (folder / "words.json").write_text(json.dumps(ranks))


def _data(folder: Path, name: str) -> DataConfig:
    imdb = ImdbOptions(held_out_rows=2) if name.endswith(".npz") else ImdbOptions()
    words = folder / "words.json"
    index = str(words) if words.is_symlink() or words.exists() else None
    return DataConfig(data=str(folder / name), imdb=imdb, word_index=index, data_cache="off")


def _data_reader(name: str) -> Callable[[Path], Reader]:
    def read(folder: Path) -> str:
        config = _data(folder, name)
        with io.StringIO() as printed, contextlib.redirect_stderr(printed):  # there are notes
            info(DataInfoConfig(data=config), Console(file=printed, width=80))
            found = load_configured(config)
            return printed.getvalue() + "".join(part.fingerprint for part in found.parts)

    return lambda _: read


def _data_command(name: str) -> Callable[[Path], list[str]]:
    def command(folder: Path) -> list[str]:
        config = _data(folder, name)
        flags = ["data", "info", "--data", config.data, "--data-cache", "off"]
        flags += ["--held-out-rows", "2"] if name.endswith(".npz") else []
        return flags + (["--word-index", config.word_index] if config.word_index else [])

    return command


def _metrics_reader(_: Path) -> Reader:
    def read(folder: Path) -> str:
        path = folder / "metrics.jsonl"
        return (
            f"{[kept_bytes(path, step) for step in (4, 8)]} {validation_losses(path, up_to_step=8)}"
        )

    return read


def _write_metrics(folder: Path) -> None:
    lines = []
    for step in (2, 4, 6, 8):
        epoch = (step - 1) // 4
        window = {"step": step, "epoch": epoch, "num_steps": 2, "examples": 20, "tokens": 50}
        lines.append(window | {"seconds": 0.5, "loss": 0.7, "accuracy": 0.5, "loss_scale": 8.0})
        if step % 4 == 0:
            lines.append({"step": step, "epoch": epoch, "validation_loss": 0.6, "examples": 8})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def _write_summary(folder: Path) -> None:
    summary = {"steps": 8, "interrupted": False, "diverged": False, "test_loss": 0.5, "devices": []}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "model.keras").write_bytes(b"")


def _write_toml(folder: Path) -> None:
    lines = []
    for group, settings in asdict(TrainConfig()).items():
        if isinstance(settings, dict):
            lines.append(f"[{group}]")
            lines += [
                f"{name} = {json.dumps('None' if value is None else value)}"
                for name, value in settings.items()
                if not isinstance(value, dict)
            ]
    (folder / "settings.toml").write_text("\n".join(lines) + "\n")


def _toml_reader(_: Path) -> Reader:
    def read(folder: Path) -> str:
        path = folder / "settings.toml"
        return repr(from_mapping(TrainConfig, read_toml(path), where=str(path)))

    return read


def _write_results(folder: Path) -> None:
    quantiles = {"median": 100.0, "p20": 90.0, "p80": 110.0}
    host = {"cpu": "a processor", "cores": 2, "memory_bytes": 2**34, "system": "a system"}
    axes = {"implementation": "gather", "precision": "float32", "input": "resident"}
    cell = {"batch_size": 500, "replicas": "1", "steps_per_dispatch": "auto", **axes}
    windows = {"seconds": [0.5] * 3, "num_steps": [2] * 3, "examples": [1000] * 3}
    times = {f"step_time_ms_p{share}": 5.0 for share in (50, 95, 99)}
    rates = {"steps_per_second": quantiles, "examples_per_second": quantiles}
    row = {
        "cell": cell,
        "status": "ok",
        "marks": ["busy"],
        "resolved": {"devices": ["CPU"]},
    }
    row |= {"windows": {**windows, "data_wait_seconds": [0.0] * 3}}
    row |= {"figures": {**rates, **times, "data_wait_fraction": 0.1}, "peak_rss_bytes": 10**9}
    source = {"versions": {"harness": "1"}, "host": host, "gpus": [], "commit": "0123abc"}
    source |= {"dirty": False, "dataset": {"name": "rows"}, "started": "2026-01-01T00:00:00+00:00"}
    content = {
        "format": "harness-bench-results",
        "version": 2,
        "provenance": source,
        "config": {"data": {}, "model": {}, "optimizer": {}},
        "rows": [row | {"repeat": repeat} for repeat in range(3)],
        "pairs": [],
    }
    for name in ("a.json", "b.json"):
        (folder / name).write_text(json.dumps(content))


def _results_reader(_: Path) -> Reader:
    def read(folder: Path) -> str:
        if importlib.util.find_spec("scipy") is None:  # of the extra `bench`; no comparison then
            return repr(read_results(folder / "b.json"))
        config = CompareConfig(baseline=str(folder / "a.json"), candidate=str(folder / "b.json"))
        with io.StringIO() as printed, contextlib.redirect_stdout(printed):
            code = compare(config, Console(file=printed, width=80))
            return f"{code} {printed.getvalue()}"

    return read


_TEXTS = {
    "texts.csv": 'text,label\n"a good, ""nice"" film",yes\nbad film,no\n' * 4,
    "texts.tsv": "text\tlabel\na good film\tyes\nbad film\tno\n" * 4,
    "texts.jsonl": '{"text": "a good film", "labels": ["yes"]}\n{"text": "b", "labels": ["no"]}\n'
    * 4,
    "rows.svm": "1 3:1 7:0.5 # a row\n0 2:1 3:1\n" * 4,
}


def _write_texts(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(_TEXTS[name]) and None


def _write_archive(name: str) -> Callable[[Path], None]:
    """Returns a function that writes an archive of text files, without the time of day."""

    def write(folder: Path) -> None:
        texts = {f"{label}/{row}.txt": f"{label} film".encode() for label in "yn" for row in "1234"}
        if name.endswith(".zip"):
            with ZipFile(folder / name, "w") as archive:
                for member, text in texts.items():
                    archive.writestr(ZipInfo(member), text, ZIP_DEFLATED)
            return
        with tarfile.open(folder / name, "w") as tar:
            for member, text in texts.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))

    return write


def _of_texts(name: str, write: Callable[[Path], None]) -> Callable[[], Format]:
    """Returns a format without a command, since its notes on standard error would count as
    failures."""
    return lambda: Format(targets=(name,), write=write, reader=_data_reader(name))


def _of_models(name: str) -> Callable[[], Format]:
    """Returns a format whose reader needs TensorFlow, which takes seconds to import."""
    return lambda: getattr(importlib.import_module("benchmarks.faults.hostile_models"), name)


def format_named(name: str) -> Format:
    """Returns one of `FORMATS`, or of another mapping, given as `package.module:MAPPING:name`."""
    if ":" not in name:
        return FORMATS[name]()
    module, mapping, key = name.split(":")
    return cast(Format, getattr(importlib.import_module(module), mapping)[key]())


FORMATS: dict[str, Callable[[], Format]] = {
    "npz": lambda: Format(
        targets=("reviews.npz",),
        write=lambda folder: _write_npz(folder / "reviews.npz"),
        reader=_data_reader("reviews.npz"),
        command=_data_command("reviews.npz"),
        is_checked=True,
    ),
    "npz-compressed": lambda: Format(
        targets=("reviews.npz",),
        write=lambda folder: _write_npz(folder / "reviews.npz", kind=ZIP_DEFLATED),
        reader=_data_reader("reviews.npz"),
        command=_data_command("reviews.npz"),
        is_checked=True,
    ),
    "store": lambda: Format(
        targets=tuple(
            f"rows/{name}"
            for name in ("values.npy", "row_splits.npy", "labels.npy", "weights.npy", "meta.json")
        ),
        write=write_store,
        reader=_data_reader("rows"),
        command=_data_command("rows"),
        is_checked=True,
        has_seal=True,
    ),
    "vocabulary": lambda: Format(
        targets=("rows/vocabulary.json",),
        write=write_store,
        reader=_data_reader("rows"),
        command=_data_command("rows"),
    ),
    "word-index": lambda: Format(
        targets=("words.json",),
        write=_write_word_index,
        reader=_data_reader("reviews.npz"),
        command=_data_command("reviews.npz"),
    ),
    "metrics": lambda: Format(
        targets=("metrics.jsonl",), write=_write_metrics, reader=_metrics_reader
    ),
    "summary": lambda: Format(
        targets=("summary.json",),
        write=_write_summary,
        reader=lambda _: lambda folder: str(is_complete(folder, num_steps=8)),
    ),
    "toml": lambda: Format(
        targets=("settings.toml",),
        write=_write_toml,
        reader=_toml_reader,
        command=lambda folder: ["data", "info", "--config", str(folder / "settings.toml")],
    ),
    "results": lambda: Format(
        targets=("b.json",),
        write=_write_results,
        reader=_results_reader,
        command=lambda folder: ["compare", str(folder / "a.json"), str(folder / "b.json")],
    ),
    **{name: _of_texts(name, _write_texts(name)) for name in _TEXTS},
    **{name: _of_texts(name, _write_archive(name)) for name in ("texts.tar", "texts.zip")},
    "checkpoint": _of_models("CHECKPOINT"),
    "keras": _of_models("KERAS"),
    "config": _of_models("CONFIG"),
}
