"""Saved models: what refuses to load one."""

import json

import pytest

from harness.base.errors import InputError
from harness.cli.saved_model import load_saved_model


def test_one_of_several_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"worker": ["a:1", "b:1"]}
    config = {"cluster": cluster, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(InputError, match="names 2 workers, which only train together"):
        load_saved_model("runs/any")
