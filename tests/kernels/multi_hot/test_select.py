import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernels.multi_hot import IMPLEMENTATIONS
from kernels.multi_hot.native.build import CACHE_VARIABLE, find_compiler
from kernels.multi_hot.select import choose_implementation

ROOT = Path(__file__).resolve().parents[3]
SHAPES: dict[str, Any] = {"num_rows": 40, "num_values": 800, "num_tokens": 300, "units": 20}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
def test_takes_the_fastest_and_remembers_it(cache: Path) -> None:
    choice = choose_implementation(**SHAPES)
    assert set(choice.seconds_by_name) == set(IMPLEMENTATIONS)
    assert not choice.from_cache
    assert choice.seconds_by_name[choice.name] <= 1.1 * min(choice.seconds_by_name.values())
    assert all(f"{name} " in choice.why for name in IMPLEMENTATIONS)
    again = choose_implementation(**SHAPES)
    assert again.from_cache
    assert again.seconds_by_name == choice.seconds_by_name
    assert (again.name, again.why) == (choice.name, choice.why)
    other = choose_implementation(**SHAPES, unique=True, dtype="bfloat16")
    assert not other.from_cache
    assert len(list(cache.glob("choice-*.json"))) == 2


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"other": 1}'])
def test_a_damaged_answer_is_measured_again(cache: Path, damaged: str) -> None:
    choose_implementation(**SHAPES)
    (kept,) = cache.glob("choice-*.json")
    kept.write_text(damaged)
    assert not choose_implementation(**SHAPES).from_cache
    assert choose_implementation(**SHAPES).from_cache


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
def test_dense_is_no_candidate_where_its_matrix_is_huge() -> None:
    choice = choose_implementation(num_rows=64, num_values=99, num_tokens=2**22, units=1)
    assert set(choice.seconds_by_name) == {"native", "gather"}


def test_without_a_compiler_gather_and_the_reason(tmp_path: Path) -> None:
    code = f"""
import json
from kernels.multi_hot.select import choose_implementation
choice = choose_implementation(**{SHAPES})
print(json.dumps([choice.name, choice.why, choice.seconds_by_name]))
"""
    environment = {**os.environ, "PATH": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("CXX", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    name, why, seconds = json.loads(done.stdout)
    assert name == "gather"
    assert "apt install g++" in why
    assert seconds == {}
