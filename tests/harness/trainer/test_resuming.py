"""The settings that may differ in a resumed run, and those that are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.base.errors import InputError
from harness.trainer.resuming import (
    asked_settings,
    changed_note,
    changes,
    check_resumable,
    complete_note,
    settled,
)


def config(**changed: Any) -> dict[str, Any]:
    """Returns the content of config.json."""
    flat = {"data": "a.npz", "num_words": 100, "batch_size": 5, "precision": "float32", **changed}
    flat = {"input": "stream", "learning_rate_schedule": "constant", "epochs": 2, **flat}
    flat = {"implementation": "native", "replicas": 1, "keep": 2, "run_dir": "here", **flat}
    groups = {
        "data": ("data", "num_words"),
        "execution": ("batch_size", "precision", "input", "implementation", "replicas"),
        "optimizer": ("learning_rate_schedule",),
        "output": ("keep", "run_dir"),
    }
    return {
        **{group: {name: flat[name] for name in names} for group, names in groups.items()},
        "epochs": flat["epochs"],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path)
    return tmp_path


def write(folder: Path, **changed: Any) -> None:
    resolved = {
        "implementation": {"name": "native", "why": "the fastest of three"},
        "precision": {"name": "float32", "why": "asked for"},
        "input": {"name": "stream", "why": "as in the run resumed"},
        "replicas": 1,
        "replicas_why": "no GPU",
        "devices": ["/CPU:0"],
        "versions": {"tensorflow": "2.21.0"},
    }
    (folder / "config.json").write_text(json.dumps({**config(**changed), "resolved": resolved}))


def test_what_decides_no_loss_may_be_changed(folder: Path) -> None:
    other = config(
        data="moved/a.npz", epochs=9, keep=5, implementation="gather", replicas=2, input="resident"
    )
    assert check_resumable(folder, other)["data"]["data"] == "a.npz"
    check_resumable(folder, config(input="auto", precision="auto"))


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({}, {"num_words": 50}, "--num-words was 100 and is now 50"),
        ({}, {"input": "mapped"}, "--input was stream or resident and is now mapped"),
        (
            {"learning_rate_schedule": "cosine"},
            {"learning_rate_schedule": "cosine", "epochs": 3},
            "--epochs was 2 and is now 3",
        ),
    ],
    ids=str,
)
def test_what_decides_losses_is_refused_by_name(
    folder: Path, before: dict[str, Any], now: dict[str, Any], told: str
) -> None:
    write(folder, **before)
    check_resumable(folder, config(**before))
    with pytest.raises(InputError, match="cannot be resumed with other settings") as refused:
        check_resumable(folder, config(**now))
    assert told in str(refused.value)
    # More --epochs are refused under a schedule: the note on a complete run says what to do.
    assert "schedule" in complete_note(folder, 2)


def test_what_was_chosen_is_chosen_again_and_what_was_asked_for_is_kept(folder: Path) -> None:
    asked = asked_settings(folder)
    assert (asked["implementation"], asked["input"], asked["replicas"]) == ("auto",) * 3
    assert (asked["precision"], asked["batch_size"], asked["epochs"]) == ("float32", 5, 2)
    assert "run_dir" not in asked
    (folder / "config.json").write_text('{"execution": {}, "resolved": {}, "task": {}}')
    with pytest.raises(InputError, match="was started from Python"):
        asked_settings(folder)


def test_what_changes_the_last_bits_is_told(folder: Path) -> None:
    recorded = check_resumable(folder, config())
    assert changes(recorded, recorded | {"execution": recorded["execution"] | {"seed": 1}}) == {}
    resolved = recorded["resolved"] | {"versions": {"tensorflow": "2.22.0"}}
    changed = changes(recorded, config(implementation="gather") | {"resolved": resolved})
    assert changed == {
        "implementation": {"was": "native", "is": "gather"},
        "tensorflow": {"was": "2.21.0", "is": "2.22.0"},
    }
    assert "implementation gather (was native), tensorflow 2.22.0" in changed_note(changed)


def test_what_auto_comes_to(folder: Path) -> None:
    assert settled(folder / "none", "auto", overwrite=False) == (False, False)
    assert settled(folder, "auto", overwrite=False) == (False, True)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / ".partial-1").mkdir()
    assert settled(folder, "auto", overwrite=False) == (False, True)
    (folder / "checkpoints" / "ckpt-8.npz").touch()
    assert settled(folder, "auto", overwrite=False) == (True, False)
    for resume, overwrite in ((True, False), (False, True)):
        assert settled(folder, resume, overwrite=overwrite) == (resume, overwrite)
