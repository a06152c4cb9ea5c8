"""The descriptions of the implementations, and what is known without TensorFlow."""

import subprocess
import sys
from pathlib import Path

import pytest

from kernels.multi_hot import IMPLEMENTATIONS, takes_rowids
from kernels.multi_hot.registry import Product, product

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_each_name_is_an_implementation(name: str) -> None:
    assert isinstance(product(name), Product)
    assert product(name).fits(1, 1)


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


def test_an_unknown_name_of_the_package() -> None:
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from kernels.multi_hot import nothing  # noqa: F401
