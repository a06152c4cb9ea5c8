"""The pytest-benchmark suites, as scripts/benchmark runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.multi_hot import why_unavailable

ROOT = Path(__file__).resolve().parents[2]
CASES = "500-native-float32 or narrow-gather-forward-float32"


def test_kernels_and_steps_are_timed(tmp_path: Path) -> None:
    # The script installs first; what it runs then is its last command.
    script = (ROOT / "scripts" / "benchmark").read_text()
    flags = ["--benchmark-enable", "--benchmark-autosave", f"--benchmark-storage={tmp_path}"]
    assert all(flag.partition("=")[0] in script for flag in flags)
    command = [sys.executable, "-m", "pytest", "benchmarks", *flags, "-k", CASES]
    # Beside other processes of one pytest, pytest-benchmark measures nothing.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    saved = [json.loads(path.read_text()) for path in tmp_path.glob("*/*.json")]
    found = {one["name"].partition("[")[0]: one for each in saved for one in each["benchmarks"]}
    if why_unavailable("native", "CPU") is None:
        steps = found["test_training_steps"]["extra_info"]
        assert steps["steps_per_second"] * 500 == pytest.approx(steps["examples_per_second"])
        assert found["test_multi_hot"]["extra_info"]["step_ms"] > 0
