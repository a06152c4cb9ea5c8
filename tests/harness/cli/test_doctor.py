"""`harness doctor` on this machine, and on one without a compiler."""

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from harness.cli.doctor import DoctorConfig, doctor
from harness.cli.doctor_machine import Finding, examine, kernels


@pytest.fixture(scope="module")
def findings(logical_devices: list[str]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine()}


def test_everything_that_runs_here_is_ok(findings: dict[str, Finding]) -> None:
    assert "tensorflow 2." in findings["software"].text
    for subject in ("software", "devices"):
        assert findings[subject].state == "ok", findings[subject]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_kernels_are_built_and_run_on_each_device(findings: dict[str, Finding]) -> None:
    assert findings["native kernels"].state == "ok"
    assert "g++" in findings["native kernels"].text
    assert findings["native kernels"].text.endswith(".so")
    assert kernels(["/CPU:0", "/CPU:1"]).text.startswith("run on /CPU:0, /CPU:1, built by ")


def test_without_a_compiler_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    native = next(finding for finding in examine() if finding.subject == "native kernels")
    assert native.state == "limited"
    assert "apt install g++" in native.text


def test_the_report_has_a_line_for_each_finding_and_cuts_none_short(
    findings: dict[str, Finding],
) -> None:
    console = Console(file=io.StringIO(), width=60)
    assert doctor(DoctorConfig(), console) == 0
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    lines = [line.split(maxsplit=1)[0] for line in shown.splitlines()]
    assert lines == [subject.split()[0] for subject in findings], "a pipe gets whole lines"
    assert all(finding.text in shown for finding in findings.values())


def test_the_same_as_json_and_what_was_asked_for(findings: dict[str, Finding]) -> None:
    console = Console(file=io.StringIO(), width=60)
    # No GPU is there for TensorFlow, whose CPU was split: asked for, that is an error.
    assert doctor(DoctorConfig(need=("gpu", "tensorboard"), json=True), console) == 1
    assert isinstance(console.file, io.StringIO)
    content = json.loads(console.file.getvalue())
    assert not content["ok"]
    assert set(content["missing"]) <= {"GPU", "NVIDIA driver", "GPUs that TensorFlow sees"}
    assert content["missing"]
    parts = {finding["subject"]: finding["part"] for finding in content["findings"]}
    assert parts["TensorBoard"] == "tensorboard"
    assert parts["native kernels"] == "native"
    assert [finding["subject"] for finding in content["findings"]] == list(findings)
