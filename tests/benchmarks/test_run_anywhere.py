"""The benchmarks that CONTRIBUTING names run to their end on a machine of any speed."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from harness.data import store
from harness.data.options import SyntheticOptions
from harness.data.synthetic import synthetic_corpus


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, logical_devices: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("data") / "corpus"
    options = SyntheticOptions(synthetic_rows=2_000, synthetic_tokens=1_000)
    store.save(synthetic_corpus(options), folder, held_out_rows=400)
    return folder


def run(module: str, *flags: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """`python -m benchmarks.MODULE FLAGS` in this process: its exit code."""
    monkeypatch.setattr(sys, "argv", [module, *flags])
    try:
        runpy.run_module(f"benchmarks.{module}", run_name="__main__")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_what_checkpoints_cost(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--data", str(data), "--rounds", "2", "--epochs", "1")
    assert run("checkpoint_cost", *flags, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert re.search(r"^held_up_ms: -?[\d.]+ ms a checkpoint", out, re.MULTILINE)


def test_threads(
    logical_devices: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over fewer steps than the benchmark's own 20,000."""
    assert run("threads", "--steps", "400", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert re.search(r"\d+ threads at first, \d+ at last, \d+ at most$", out, re.MULTILINE)
