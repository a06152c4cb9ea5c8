"""Whole runs of `harness train`, each in a separate process."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def summary_of_run(data: str, *flags: str) -> dict[str, Any]:
    """Trains two epochs at batch 500 in a temporary folder; returns `summary.json`.

    Args:
        data: the --data of `harness train`.
        flags: further flags of `harness train`.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "harness", "train", "--data", data, "--epochs", "2"]
        command += ["--batch-size", "500", "--run-dir", folder, *flags]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        summary: dict[str, Any] = json.loads((Path(folder) / "summary.json").read_text())
        return summary
