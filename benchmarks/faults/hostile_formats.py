"""The formats that the harness reads: a small valid file of each, and the code that reads it."""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np

from harness.base.decoding import from_mapping
from harness.base.quiet import quiet_import
from harness.base.reading import read_toml
from harness.cli.data import DataInfoConfig, info
from harness.data import store
from harness.data.options import DataConfig, ImdbOptions
from harness.data.ragged import RaggedSets
from harness.data.sources import load_configured
from harness.data.vocabulary import Vocabulary
from harness.run.observers.jsonl import kept_bytes, validation_losses
from harness.tools.experiment import TrainConfig

ROWS = [[1, 2, 3], [4, 5], [], [9, 9, 1, 30], [7], [1, 1, 1], [2, 8], [3, 300, 5]]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file."""

    targets: tuple[str, ...]  # The files to damage, one at a time
    write: Callable[[Path], object]  # Writes a valid input into an empty folder
    read: Callable[[Path], str]
    """Reads a folder as a command does; returns the command's results as text."""
    is_checked: bool = False
    """Whether the files have checksums, so that no damage to their bytes may change the answer."""
    seal: Callable[[Path], object] | None = None
    """Gives a folder of which a field or an array was changed a checksum that is right."""


def _write_npz(folder: Path) -> None:
    def part(rows: list[list[int]]) -> np.ndarray:
        array = np.empty(len(rows), object)
        array[:] = rows
        return array

    halves = {"train": ROWS[:4], "test": ROWS[4:]}
    arrays = {f"x_{name}": part(rows) for name, rows in halves.items()}
    arrays |= {f"y_{name}": np.array([0, 1, 1, 0]) for name in halves}
    with ZipFile(folder / "reviews.npz", "w") as archive:
        for name, array in arrays.items():
            # `np.savez` would record the time of day.
            with archive.open(ZipInfo(f"{name}.npy"), "w") as file:
                np.save(file, array)


def _write_store(folder: Path) -> None:
    sets = RaggedSets(
        values=np.array(list(itertools.chain(*ROWS)), np.int32),
        row_splits=np.cumsum([0, *map(len, ROWS)]),
        labels=np.array([0, 1] * 4, np.int32),
        num_tokens=301,
        name="rows",
        weights=np.linspace(-1, 1, sum(map(len, ROWS)), dtype=np.float32),
    )
    store.save(sets, folder / "rows", held_out_rows=3)
    ids = {f"word{token}": token for token in range(3, 40)}
    words = Vocabulary(ids=ids, num_tokens=301, start_id=1, unknown_id=2, class_names=("no", "yes"))
    words.save(folder / "rows" / "vocabulary.json")


def _seal_store(folder: Path) -> None:
    path = folder / "rows" / "meta.json"
    meta = json.loads(path.read_text())
    parts: dict[str, Any] = {Path(name).stem: np.load(folder / name) for name in _STORE[:-1]}
    parts |= {name: meta[name] for name in ("num_tokens", "num_classes")}
    sets = object.__new__(RaggedSets)  # without the checks of its values
    sets.__setstate__(parts)
    path.write_text(json.dumps(meta | {"checksum": store.checksum(meta, sets)}))


def _data(folder: Path, *, name: str) -> str:
    imdb = ImdbOptions(held_out_rows=2) if name.endswith(".npz") else ImdbOptions()
    config = DataConfig(data=str(folder / name), imdb=imdb, data_cache="off")
    with contextlib.redirect_stderr(io.StringIO()):  # there are notes
        found = load_configured(config)
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(shown):
        info(DataInfoConfig(data=config))
    parts = "".join(part.fingerprint for part in found.parts)
    return f"{found.vocabulary} {parts} {shown.getvalue().replace(str(folder), '')}"


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


def _metrics(folder: Path) -> str:
    path = folder / "metrics.jsonl"
    return f"{[kept_bytes(path, step) for step in (4, 8)]} {validation_losses(path, up_to_step=8)}"


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


def _toml(folder: Path) -> str:
    path = folder / "settings.toml"
    return repr(from_mapping(TrainConfig, read_toml(path), where=str(path)))


_TEXTS = {
    "texts.csv": 'text,label\n"a good, ""nice"" film",yes\nbad film,no\n' * 4,
    "texts.jsonl": '{"text": "a good film", "labels": ["yes"]}\n{"text": "b", "labels": ["no"]}\n'
    * 4,
    "rows.svm": "1 3:1 7:0.5 # a row\n0 2:1 3:1\n" * 4,
}


def _write_text(folder: Path, *, name: str) -> None:
    (folder / name).write_text(_TEXTS[name])


def _write_archive(folder: Path, *, name: str) -> None:
    """Writes an archive of text files, without the time of day."""
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


# TensorFlow takes seconds to import, so the formats of models import what they need themselves.


def _model(seed: int) -> Any:
    """Makes a small network with dropout, and so with a random state."""
    with quiet_import():
        from harness.data.examples import Examples
        from harness.model.network import DefaultNetwork, build_model
    network = DefaultNetwork(
        hidden_units=(3, 2), dropout=(0.2, 0.0), num_tokens=301, num_classes=2, seed=seed
    )
    row = RaggedSets(values=np.zeros(0, np.int32), row_splits=np.zeros(2, np.int64), num_tokens=301)
    return build_model(network, Examples.of(row), dtype="float32", device="/CPU:0", seed=seed)


@functools.cache
def _state(seed: int) -> Any:
    model = _model(seed)
    import keras

    from harness.program.devices import set_up_devices
    from harness.program.state import State

    return State(model, keras.optimizers.Adam(), set_up_devices(1))


def _digest(arrays: Any) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def _checkpoints(folder: Path, state: Any, background: Any = None) -> Any:
    from harness.run.checkpoints import Checkpoints

    return Checkpoints(folder, state, background)


def _write_checkpoint(folder: Path) -> None:
    from harness.run.background import Background

    with Background() as background:
        _checkpoints(folder, _state(1), background).save(8)


def _checkpoint(folder: Path) -> str:
    state = _state(2)
    step = _checkpoints(folder, state).restore().step
    return f"{step} {_digest(state.save().values())}"


def _write_keras(folder: Path) -> None:
    _model(1).save(folder / "model.keras")


def _keras(folder: Path) -> str:
    import keras

    from harness.model.saved import load_model

    try:
        model = load_model(folder / "model.keras")
        return f"{model.to_json()} {_digest(model.get_weights())}"
    finally:
        model = None
        keras.backend.clear_session(free_memory=False)


def _write_run(folder: Path) -> None:
    from harness.cli.main import main

    flags = ["--data", "synthetic", "--synthetic-rows", "250", "--run-dir", str(folder / "run")]
    flags += ["--hidden-units", "3", "2", "--dropout", "0", "--implementation", "gather"]
    flags += ["--tensorboard", "off", "--telemetry-hz", "0", "--batch-size", "50"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", *flags]) == 0


def _config(folder: Path) -> str:
    import keras

    from harness.cli.saved_model import load_saved_model
    from harness.trainer.resuming import asked_settings

    run = folder / "run"
    asked = from_mapping(TrainConfig, asked_settings(run), where="the run's config.json")
    saved = load_saved_model(str(run))
    answer = f"{asked} {saved.data()} {_digest(saved.trainer.model.get_weights())}"
    del saved
    keras.backend.clear_session(free_memory=False)
    return answer


def _data_file(name: str, write: Callable[[Path], object], *, is_checked: bool = False) -> Format:
    read = functools.partial(_data, name=name)
    return Format(targets=(name,), write=write, read=read, is_checked=is_checked)


_STORE = tuple(
    f"rows/{name}"
    for name in ("values.npy", "row_splits.npy", "labels.npy", "weights.npy", "meta.json")
)
_read_store = functools.partial(_data, name="rows")
FORMATS: dict[str, Format] = {
    "npz": _data_file("reviews.npz", _write_npz, is_checked=True),
    "store": Format(targets=_STORE, write=_write_store, read=_read_store, is_checked=True),
    "sealed store": Format(
        targets=(*_STORE, *3 * _STORE[-1:]), write=_write_store, read=_read_store, seal=_seal_store
    ),
    "vocabulary": Format(targets=("rows/vocabulary.json",), write=_write_store, read=_read_store),
    "metrics": Format(targets=("metrics.jsonl",), write=_write_metrics, read=_metrics),
    "toml": Format(targets=("settings.toml",), write=_write_toml, read=_toml),
    **{name: _data_file(name, functools.partial(_write_text, name=name)) for name in _TEXTS},
    **{
        name: _data_file(name, functools.partial(_write_archive, name=name))
        for name in ("texts.tar", "texts.zip")
    },
    "checkpoint": Format(
        targets=("ckpt-8.npz",), write=_write_checkpoint, read=_checkpoint, is_checked=True
    ),
    "keras": Format(targets=("model.keras",), write=_write_keras, read=_keras, is_checked=True),
    "config": Format(targets=("run/config.json",), write=_write_run, read=_config),
}
