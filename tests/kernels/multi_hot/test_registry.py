"""The descriptions of the implementations, and what is known without TensorFlow."""

import subprocess
import sys
from pathlib import Path

from kernels.multi_hot import IMPLEMENTATIONS, takes_rowids
from kernels.multi_hot.registry import product

ROOT = Path(__file__).resolve().parents[3]


def test_capabilities() -> None:
    known = ("dense", "gather", "native")
    assert [takes_rowids(name) for name in known] == [True, True, False]
    assert [product(name).deterministic_on_gpu for name in known] == [True, False, True]
    assert not product("dense").fits(2**14, 2**14)


def test_the_names_need_no_tensorflow() -> None:
    code = (
        "import sys, kernels.multi_hot as m; print('tensorflow' in sys.modules, *m.IMPLEMENTATIONS)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", *IMPLEMENTATIONS], done.stderr
