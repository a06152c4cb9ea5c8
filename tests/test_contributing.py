"""CONTRIBUTING's recipe for a new implementation of the multi-hot product, followed literally."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kernels.multi_hot.native.build import find_compiler, load

PROJECT_ROOT = Path(__file__).resolve().parent.parent
SECTION = (
    (PROJECT_ROOT / "CONTRIBUTING.md")
    .read_text(encoding="utf-8")
    .partition("## Add an implementation")[2]
    .partition("\n## ")[0]
)
TRY = """
import tensorflow as tf
from harness.model.layers import MultiHotDense
from harness.trainer.settings import Settings
from kernels.multi_hot import choose_implementation

def test_auto_and_the_layer_know_cast():
    Settings(implementation="cast")
    choice = choose_implementation(num_rows=40, num_values=800, num_tokens=300, units=20)
    assert "dense " in choice.why
    assert "cast " in choice.why
    layer = MultiHotDense(2, 3, implementation="cast", kernel_initializer="ones")
    sums = layer({"values": tf.constant([0, 2, 2]), "row_splits": tf.constant([0, 1, 3])})
    assert sums.numpy().tolist() == [[1, 1], [1, 1]]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Copies the project, and adds an implementation called `cast` as the section says."""
    for name in ("harness", "kernels", "tests/kernels"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT_ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(PROJECT_ROOT / name, tmp_path / name)
    module, registration, test = (
        re.sub(r"^ {3}", "", block, flags=re.MULTILINE)
        for block in re.findall(r"^ *```python\n(.*?)^ *```", SECTION, re.MULTILINE | re.DOTALL)
    )
    (tmp_path / "kernels/multi_hot/cast.py").write_text(module)
    registry = tmp_path / "kernels/multi_hot/registry.py"
    lines, count = re.subn(
        r"^Implementation = .*\n", registration, registry.read_text(), flags=re.M
    )
    assert count == 1
    registry.write_text(lines)
    (tmp_path / "tests/kernels/multi_hot/test_cast.py").write_text(test)
    (tmp_path / "tests/kernels/multi_hot/test_use.py").write_text(TRY)
    (tmp_path / "cache").mkdir(mode=0o700)
    if find_compiler() is not None:  # the kernels are the same, so their library is
        shutil.copy(load()[0], tmp_path / "cache")
    return tmp_path


def run_python(project: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=os.environ
        | {
            "MULTI_HOT_CACHE": str(project / "cache"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": "",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_implementation_is_judged_by_the_contract_and_known_to_all(project: Path) -> None:
    """One process tests all of this, since TensorFlow takes seconds to import."""
    # Some of the contract: TestDense and TestGather run all of it.
    names = ("cast", "registry", "use")
    tests = [f"tests/kernels/multi_hot/test_{name}.py" for name in names]
    chosen = "cast and (wrong_data or loop or registry or auto)"
    told = run_python(project, "-m", "pytest", "-n", "0", "-rA", "-k", chosen, *tests)
    assert re.search(r"^PASSED .*::test_auto_and_the_layer_know_cast$", told, re.MULTILINE)
    assert int(re.findall(r"(\d+) passed", told)[0]) >= 20
