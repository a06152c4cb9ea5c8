"""What is known of the implementations without TensorFlow."""

import subprocess
import sys
from pathlib import Path

from kernels.multi_hot import IMPLEMENTATIONS

ROOT = Path(__file__).resolve().parents[3]


def test_the_names_need_no_tensorflow() -> None:
    code = (
        "import sys, kernels.multi_hot as m; print('tensorflow' in sys.modules, *m.IMPLEMENTATIONS)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", *IMPLEMENTATIONS], done.stderr
