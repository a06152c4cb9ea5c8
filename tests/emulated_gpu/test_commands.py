"""The command line on emulated devices: what it records, says of cards, and refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from harness.model.saved import load_model
from tests.emulated_gpu import device, nvml
from tests.harness.cli.runs import Result, call, losses, summary
from tests.harness.run.observers.test_tensorboard import curves

pytestmark = pytest.mark.usefixtures("logical_devices")
# 64 rows to train on: no batch is smaller and has programs of its own, whose kernels take long.
TRAIN = (
    *("train", "--data", "synthetic", "--synthetic-rows", "80", "--synthetic-tokens", "101"),
    *("--batch-size", "16", "--implementation", "native", "--precision", "float32"),
)

# Several commands in one process, since TensorFlow starts slowly.
SEVERAL = """
import json, sys
from harness.cli.main import main
for words in json.loads(sys.argv[1]):
    code = main(words)
    if code:
        sys.exit(code)
"""

# What the doctor misses, what `auto` takes, and a training by name.
REFUSED = """
import contextlib, io, json, sys
from harness.cli.main import main
from kernels.multi_hot import choose_implementation
with contextlib.redirect_stdout(io.StringIO()) as printed:
    main(["doctor", "--need", "native", "--json"])
print(json.dumps(json.loads(printed.getvalue())["missing"]))
shapes = {"num_rows": 4, "num_values": 9, "num_tokens": 9, "units": 2}
name, why = choose_implementation(**shapes, device="GPU:0", deterministic=True)
print(f"{name}: {why}")
sys.exit(main(sys.argv[1:]))
"""


# A training that gives up waiting for a GPU after seconds, not minutes.
IMPATIENT = """
import sys
from harness.cli.main import main
from harness.program import model_programs
model_programs.PATIENCE_SECONDS = 5
sys.exit(main(sys.argv[1:]))
"""


def harness(environment: dict[str, str], *commands: tuple[str, ...]) -> Result:
    return device.run(environment, "-c", SEVERAL, json.dumps(commands))


def succeeds(environment: dict[str, str], *commands: tuple[str, ...]) -> str:
    done = harness(environment, *commands)
    assert done.code == 0, done.out[-3000:] + done.err[-3000:]
    return done.out


def on_cpu(*words: str) -> str:
    """Runs a command in this process, which sees no GPU."""
    done = call(*words)
    assert done.code == 0, done
    return done.out


def test_a_run_is_measured_resumed_evaluated_and_exported(tmp_path: Path) -> None:
    environment, run = device.environment(tmp_path), tmp_path / "run"
    train = (*TRAIN, "--run-dir", str(run))
    succeeds(
        environment,
        (*train, "--epochs", "1", "--telemetry-hz", "50"),
        (*train, "--epochs", "2", "--resume", "--telemetry-hz", "50"),
        ("evaluate", "--model", str(run)),
        ("export", "--model", str(run), "--out", str(tmp_path / "exported")),
        ("smoke", "--implementation", "native", "--precision", "float32", "--replicas", "1"),
    )
    figures = summary(run)
    assert figures["joules_per_1000_examples"] > 0
    assert figures["gpu_hours"] > 0
    drawn = {tag: points for tag, points in curves(run).items() if tag.startswith("~gpu/0/")}
    assert len(drawn) == 7  # every metric
    assert {value for _, value in drawn["~gpu/0/utilization_percent"]} == {50.0}
    assert (figures["resumes"], figures["epochs"]) == (1, 1)
    on_cpu(*TRAIN, "--epochs", "2", "--run-dir", str(tmp_path / "cpu"))
    np.testing.assert_allclose(losses(run), losses(tmp_path / "cpu"), rtol=1e-6)
    served = tf.saved_model.load(tmp_path / "exported").signatures["serve"]
    rows = {"values": tf.constant([3, 7, 100]), "row_splits": tf.constant([0, 2, 2, 3])}
    expected = load_model(run / "model.keras")(rows)
    np.testing.assert_allclose(served(**rows)["outputs"], expected, rtol=1e-6)


def test_a_slice_of_a_gpu_trains(tmp_path: Path) -> None:
    script = ["gpu0.mig_mode = 1", *nvml.slice_of(0, 0)]
    environment = device.environment(tmp_path, *script) | {"CUDA_VISIBLE_DEVICES": "MIG-0"}
    run = ("--epochs", "1", "--telemetry-hz", "50", "--run-dir", str(tmp_path / "run"))
    printed = harness(environment, (*TRAIN, *run), ("doctor",)).out
    assert "/GPU:0" in printed
    assert "MIG" in printed  # says the doctor
    on_cpu(*TRAIN, "--epochs", "1", "--run-dir", str(tmp_path / "cpu"))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "cpu"), rtol=1e-6)


def test_a_saved_model_predicts_as_on_a_cpu(tmp_path: Path) -> None:
    """Predictions use TensorFlow's own kernels, without XLA."""
    table = tmp_path / "train.csv"
    rows = [f"good {n % 7},yes\nbad {n % 5},no\n" for n in range(40)]
    table.write_text("text,label\n" + "".join(rows))
    texts = ("--data", str(table), "--batch-size", "16", "--epochs", "1", "--recipe", "tutorial")
    on_cpu("train", *texts, "--run-dir", str(tmp_path / "run"))
    predict = ("predict", "--model", str(tmp_path / "run"), "--texts", "good 3", "bad 4", "new")
    assert succeeds(device.environment(tmp_path), predict) == on_cpu(*predict)


def test_two_jobs_tune(tmp_path: Path) -> None:
    search = ("tune", *TRAIN[1:], "--epochs", "1", "--trials", "2", "--jobs", "2")
    environment = device.environment(tmp_path, devices=2)
    printed = succeeds(environment, (*search, "--run-dir", str(tmp_path / "search")))
    assert "2/2" in printed


def test_the_first_gpu_is_too_new(tmp_path: Path) -> None:
    environment = device.environment(tmp_path, devices=2, cc_0=120)
    train = (*TRAIN, "--epochs", "1", "--run-dir", str(tmp_path / "run"))
    printed = harness(environment, train, ("doctor",)).out
    assert "TensorFlow can use 1 of 2 GPUs" in printed
    assert (tmp_path / "run" / "model.keras").exists()
    assert "NVIDIA Fake 100" in printed  # says the doctor
    assert "12.0" in printed


def test_a_gpu_is_lost(tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    environment = device.environment(tmp_path, devices=2, lost=checkpoints / "ckpt-4.npz")
    train = (*TRAIN, "--epochs", "1000", "--replicas", "2", "--run-dir", str(tmp_path / "run"))
    done = device.run(environment, "-c", IMPATIENT, *train)
    assert done.code == 1, done.out[-3000:] + done.err[-3000:]
    assert "the GPUs may be waiting for one that is lost" in done.err


@pytest.mark.parametrize("num_gpus", [1, 2])
def test_two_workers_train_as_one_cpu(num_gpus: int, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    environment = device.environment(tmp_path, devices=2 * num_gpus, trace=trace)
    options = (*TRAIN, "--epochs", "1", "--dropout", "0", "--activation", "gelu")
    each = ("--replicas", str(num_gpus), "--all-reduce", "ring")
    both = ("launch", "--workers", "2", "--", *options, *each)
    succeeds(environment, (*both, "--run-dir", str(tmp_path / "both")))
    on_cpu(*options, "--run-dir", str(tmp_path / "one"))
    np.testing.assert_allclose(losses(tmp_path / "both"), losses(tmp_path / "one"), rtol=1e-6)
    # The loop's condition is computed on the host: each step would wait for a GPU's answer.
    assert "run Less_" not in trace.read_text()


def test_workers_that_would_share_a_gpu(tmp_path: Path) -> None:
    launch = ("launch", "--workers", "2", "--", *TRAIN, "--run-dir", str(tmp_path / "run"))
    done = harness(device.environment(tmp_path), launch)
    assert done.code == 2
    assert "several workers would train on the GPU" in done.out + done.err


def test_a_driver_that_refuses_the_kernels(tmp_path: Path) -> None:
    environment = device.environment(tmp_path, refuses="multi_hot_forward")
    done = device.run(environment, "-c", REFUSED, *TRAIN, "--run-dir", str(tmp_path / "run"))
    assert done.code == 2
    why = (
        "/GPU:0 does not run the kernels (CUDA's driver failed in cuModuleLoadData: CUDA error 200"
    )
    assert f"cannot be had on /GPU:0: {why}" in done.err
    missing, choice = done.out.splitlines()
    assert "native kernels" in json.loads(missing)
    assert choice.startswith(f"dense: chosen without measuring: native is unavailable: {why}")
