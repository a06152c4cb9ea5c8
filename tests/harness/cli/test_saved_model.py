"""A checkpoint as a model: what its run's config.json says is checked before anything is built."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.base.errors import InputError
from harness.cli.saved_model import load_saved_model


def checkpoint(run: Path) -> str:
    return str(max(run.glob("checkpoints/*.npz"), key=lambda path: int(path.stem[5:])))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("resolved", "dataset", "num_tokens"), "7", "num_tokens is '7'; it must be a whole"),
        (("resolved", "dataset", "num_tokens"), 2**31 - 1, r"is damaged: .* does not fit its"),
        (("resolved", "dataset", "num_tokens"), 999, r"of multi_hot_dense/kernel it holds"),
        (("resolved", "dataset", "num_classes"), 2**40, "num_classes is 1099511627776; choose"),
        (("model",), 7, "7 stands there; give a table"),
        (("model", "hidden_units"), [10**6, 8], r"is damaged: .* does not fit its"),
    ],
)
def test_a_damaged_config_is_one_message(
    trained_folder: Path, tmp_path: Path, place: tuple[str, ...], value: Any, message: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_folder, run)
    config = json.loads((run / "config.json").read_text())
    holder = config
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        load_saved_model(checkpoint(run))


def test_one_of_several_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"worker": ["a:1", "b:1"]}
    config = {"cluster": cluster, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(InputError, match="names 2 workers, which only train together"):
        load_saved_model("runs/any")
