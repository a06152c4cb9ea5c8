"""Whole runs of `harness train`, each a process of its own, for the scripts beside this one."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def summary_of_run(
    data: str, *flags: str, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Trains two epochs at batch 500 in a folder that is thrown away; returns `summary.json`.

    Args:
        data: as for `harness train`.
        flags: further ones of it.
        environment: variables set for the process beside those that are.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "harness", "train", "--data", data, "--epochs", "2"]
        command += ["--batch-size", "500", "--run-dir", folder, *flags]
        subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        summary: dict[str, Any] = json.loads((Path(folder) / "summary.json").read_text())
        return summary
