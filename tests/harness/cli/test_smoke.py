"""Smoke runs: real ones, of as many combinations as the time allows."""

import re

from harness.cli.smoke import why_skipped
from tests.harness.cli.runs import call


def test_a_line_for_each_combination_and_the_verdict() -> None:
    flags = ("--implementations", "gather", "--precisions", "mixed_bfloat16", "--replicas", 1, 2)
    result = call("smoke", *flags)
    assert (result.code, result.err) == (0, "")
    ok = re.findall(r"gather +mixed_bfloat16 +x 1 +([\d.]+) -> ([\d.]+) .* ok", result.out)
    assert len(ok) == 1
    assert float(ok[0][0]) > float(ok[0][1])
    assert "x 2  skipped: 2 replicas need as many GPUs, and there are 0" in result.out
    assert result.out.rstrip().endswith("1 passed, 0 failed")


def test_nothing_tried_is_no_success() -> None:
    result = call("smoke", "--replicas", 4)
    assert (result.code, result.err) == (1, "")
    assert result.out.rstrip().endswith("0 passed, 0 failed")


def test_what_is_skipped_on_gpus() -> None:
    assert "CUDA kernels need a GPU" in (why_skipped("native", 1, num_gpus=2) or "")
    assert why_skipped("gather", 4, num_gpus=2) is not None
    assert why_skipped("gather", 2, num_gpus=2) is None
    assert why_skipped("gather", 2, num_gpus=0) is not None  # a CPU trains them as one
    assert why_skipped("gather", 1, num_gpus=0) is None
