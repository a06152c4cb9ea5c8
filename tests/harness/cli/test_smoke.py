"""Smoke runs: real ones, of as many combinations as the time allows."""

import re

from harness.cli.smoke import why_skipped
from tests.harness.cli.runs import call


def test_a_table_and_its_verdict() -> None:
    flags = ("--implementations", "gather", "--precisions", "mixed_bfloat16", "--replicas", 1, 2)
    result = call("smoke", *flags)
    assert (result.code, result.err) == (0, "")
    rows = re.findall(
        r"^ *gather +mixed_bfloat16 +(\d) +([\d.]+) -> ([\d.]+) .* ok *$", result.out, re.MULTILINE
    )
    assert [replicas for replicas, _, _ in rows] == ["1"]
    assert "skipped: 2 replicas need as many GPUs, and there are 0" in result.out
    assert all(float(first) > float(last) for _, first, last in rows)
    assert result.out.rstrip().endswith("1 passed, 0 failed")
    assert max(map(len, result.out.splitlines())) <= 80


def test_gpus_where_there_are_none() -> None:
    result = call("smoke", "--devices", "gpu")
    assert (result.code, result.out) == (2, "")
    assert "--devices is gpu, but TensorFlow finds none" in result.err


def test_what_is_skipped_on_gpus() -> None:
    assert "CUDA kernels need a GPU" in (why_skipped("native", 1, num_gpus=2) or "")
    assert why_skipped("gather", 4, num_gpus=2) is not None
    assert why_skipped("gather", 2, num_gpus=2) is None
    assert why_skipped("gather", 2, num_gpus=0) is not None  # a CPU trains them as one
    assert why_skipped("gather", 1, num_gpus=0) is None
