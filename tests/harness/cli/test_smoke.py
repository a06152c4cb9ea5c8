"""Smoke runs: real ones, of as many combinations as the time allows."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from harness.cli.smoke import why_skipped
from tests.harness.cli.runs import call


def test_a_line_for_each_combination_and_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    junit, summary = tmp_path / "new" / "junit.xml", tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    flags = ("--implementation", "gather", "--precision", "mixed_bfloat16", "--replicas", 1, 2)
    result = call("smoke", *flags, "--batch-size", 32, "--junit", junit)
    assert (result.code, result.err) == (0, "")
    ok = re.findall(r"gather +mixed_bfloat16 +x 1 +([\d.]+) -> ([\d.]+) .* ok", result.out)
    assert len(ok) == 1
    assert float(ok[0][0]) > float(ok[0][1])
    why = "2 replicas need as many GPUs, and there are 0"
    assert f"skipped 1 of 2: {why}\n1 passed, 0 failed, 1 skipped\n" in result.out
    suite = ET.parse(junit).getroot()
    assert [suite.get(name) for name in ("tests", "failures", "skipped")] == ["2", "0", "1"]
    tried, skipped = suite.iter("testcase")
    assert (tried.get("name"), len(tried)) == ("gather mixed_bfloat16 x 1", 0)
    assert float(tried.get("time", 0)) > 0
    assert skipped[0].attrib == {"message": why}
    assert "### harness smoke: 1 passed, 0 failed, 1 skipped\n\n| comb" in summary.read_text()


def test_nothing_tried_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    result = call("smoke", "--replicas", 4, "--implementations=gather")
    note, error = result.err.splitlines()
    assert (result.code, note) == (1, "note: --implementations is now --implementation")
    assert error.startswith("::error title=harness smoke::no combination could be tried: 0 passed")
    assert "skipped 3 of 3: 4 replicas need" in result.out
    assert result.out.rstrip().endswith("0 passed, 0 failed, 3 skipped")


def test_what_is_skipped_on_gpus() -> None:
    assert "CUDA kernels need a GPU" in (why_skipped("native", 1, num_gpus=2) or "")
    assert why_skipped("gather", 4, num_gpus=2) is not None
    assert why_skipped("gather", 2, num_gpus=2) is None
    assert why_skipped("gather", 2, num_gpus=0) is not None  # a CPU trains them as one
    assert why_skipped("gather", 1, num_gpus=0) is None
