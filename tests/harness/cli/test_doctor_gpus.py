"""The doctor's lines about GPUs, from a scripted NVML library; TensorFlow itself sees none."""

import json
import subprocess
import sys

import pytest

from tests.emulated_gpu import device
from tests.emulated_gpu.nvml import (
    ERROR_GPU_IS_LOST,
    ERROR_LIB_RM_VERSION_MISMATCH,
    Nvml,
    modern,
    system,
)
from tests.harness.cli.runs import REPOSITORY

SCENARIOS: dict[str, tuple[list[str], dict[str, str]]] = {
    "two": ([*system(), *modern(0), *modern(1)], {}),
    "too new": ([*system(), *modern(0, compute_capability="12.0")], {}),
    "hidden": ([*system(), *modern(0)], {"CUDA_VISIBLE_DEVICES": ""}),
    "lost": (
        [*system(), *modern(0), "gpu1.uuid = GPU-lost", f"gpu1.* = error {ERROR_GPU_IS_LOST}"],
        {},
    ),
    "mismatch": ([f"system.* = error {ERROR_LIB_RM_VERSION_MISMATCH}"], {}),
}

# Runs the checks for one script after another.
EXAMINE = """
import json, os, sys
from pathlib import Path
from harness.cli.doctor_machine import gpus
from harness.program.devices import set_up_devices

devices = set_up_devices("auto")
found = []
for text, variables in json.load(sys.stdin):
    Path(os.environ["FAKE_NVML_SCRIPT"]).write_text(text)
    os.environ.update(variables)
    found.append([finding._asdict() for finding in gpus(devices)])
    for name in variables:
        del os.environ[name]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, str]]]:
    """Returns the findings of each scenario, by subject, from one process, since TensorFlow starts
    slowly."""
    nvml = Nvml(device.build(), tmp_path_factory.mktemp("doctor"))
    asked = [["\n".join(lines) + "\n", variables] for lines, variables in SCENARIOS.values()]
    done = subprocess.run(
        [sys.executable, "-c", EXAMINE],
        input=json.dumps(asked),
        env=nvml.environment(TF_CPP_MIN_LOG_LEVEL="3"),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return {
        name: {finding["subject"]: finding for finding in findings}
        for name, findings in zip(SCENARIOS, found, strict=True)
    }


def test_why_tensorflow_sees_none(reports: dict[str, dict[str, dict[str, str]]]) -> None:
    hidden = reports["hidden"]["GPUs that TensorFlow sees"]
    assert (hidden["state"], hidden["part"]) == ("limited", "gpu")
    assert "CUDA_VISIBLE_DEVICES is '', which hides all" in hidden["text"]
    too_new = reports["too new"]["GPUs that TensorFlow sees"]
    assert too_new["state"] == "limited"
    assert "compiles for compute capability 9.x and below" in too_new["text"]


def test_a_lost_card_and_a_mismatch_are_broken(
    reports: dict[str, dict[str, dict[str, str]]],
) -> None:
    lost = reports["lost"]["NVML's GPU 1"]
    assert lost["state"] == "broken"
    assert "Xid" in lost["text"]
    assert reports["lost"]["GPU 0"]["state"] == "ok"
    (mismatch,) = reports["mismatch"].values()
    assert (mismatch["state"], mismatch["part"]) == ("broken", "gpu")
    assert "reboot" in mismatch["text"]
