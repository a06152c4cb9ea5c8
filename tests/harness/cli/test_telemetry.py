"""Telemetry of a run, as TensorBoard reads it and in its records."""

from pathlib import Path

from tests.harness.cli.runs import call, records, summary
from tests.harness.run.observers.test_tensorboard import curves


def test_the_host_is_sampled_drawn_and_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # A window an epoch, each of half a second or more.
    layout = ("--batch-size", "500", "--steps-per-dispatch", "50", "--implementation", "dense")
    data = ("--synthetic-rows", "10000", "--epochs", "2")
    flags = (*data, *layout, "--telemetry-hz", "100", "--run-dir", folder)
    done = call("train", *flags)
    assert (done.code, done.err) == (0, "")
    read = curves(folder)
    assert {tag for tag in read if tag.startswith(("~gpu/", "~host/"))} == {
        *("~host/cpu_percent", "~host/rss_gib")
    }
    for line in records(folder):
        if "loss" in line:
            sampled = line["telemetry"]["host/rss_bytes"]
            assert 1e8 < sampled["min"] <= sampled["mean"] <= sampled["max"]
            assert sampled["samples"] > 1
    assert all(0.1 < value < 16 for _, value in read["~host/rss_gib"])
    assert all(0 <= value <= 100 for _, value in read["~host/cpu_percent"])
    assert summary(folder)["joules_per_1000_examples"] is None
    assert summary(folder)["gpu_hours"] is None
