"""The number of threads is counted on a machine of any speed."""

import re
import runpy
import sys

import pytest


def test_threads(
    logical_devices: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test takes fewer steps than the benchmark's own 20,000."""
    monkeypatch.setattr(sys, "argv", ["threads", "--steps", "400"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("benchmarks.threads", run_name="__main__")
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert re.search(r"\d+ threads at first, \d+ at last, \d+ at most$", out, re.MULTILINE)
