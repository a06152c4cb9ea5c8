"""Draws README's picture: a real run's console as SVG.

.venv/bin/python scripts/picture.py
"""

import io
import os
import tempfile
from pathlib import Path

from rich.console import Console

from harness.cli.train import train
from harness.tools.experiment import OutputConfig, TrainConfig
from kernels.cache import CACHE_VARIABLE

_RUN_FOLDER = "runs/2026-11-24_23-50-00"
"""As a reader's run has one."""
_PICTURE = Path(__file__).resolve().parent.parent / "docs" / "train.svg"


def main() -> None:
    console = Console(record=True, width=110, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = cache  # as a reader's first run finds it
        os.environ["HARNESS_COMMAND"] = "./scripts/harness"
        own = os.path.join(folder, "").ljust(
            len(_RUN_FOLDER), "r"
        )  # the picture gives it its width
        train(TrainConfig(output=OutputConfig(run_dir=own)), console)
        svg = console.export_svg(title="./scripts/harness train --data synthetic")
    _PICTURE.write_text(svg.replace(own, _RUN_FOLDER), encoding="utf-8")


if __name__ == "__main__":
    main()
