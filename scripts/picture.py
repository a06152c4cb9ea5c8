"""Draws README's picture: a real run's console as SVG.

.venv/bin/python scripts/picture.py
"""

import io
import os
import tempfile
from pathlib import Path

from rich.console import Console

from harness.cli.train import OutputConfig, TrainConfig, train
from kernels.cache import CACHE_VARIABLE

_PICTURE = Path(__file__).resolve().parent.parent / "docs" / "train.svg"


def main() -> None:
    console = Console(record=True, width=110, file=io.StringIO(), force_terminal=False)
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as folder:
        os.environ[CACHE_VARIABLE] = cache  # as a reader's first run finds it
        os.environ["HARNESS_COMMAND"] = "./scripts/harness"
        train(TrainConfig(output=OutputConfig(run_dir=folder)), console)
        svg = console.export_svg(title="./scripts/harness train --data synthetic")
    # The folder was a temporary one; a reader's run has a name like this.
    _PICTURE.write_text(svg.replace(folder, "runs/2026-11-24_23-50-00"), encoding="utf-8")


if __name__ == "__main__":
    main()
