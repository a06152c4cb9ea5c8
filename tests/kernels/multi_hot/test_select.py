import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernels.cache import CACHE_VARIABLE
from kernels.multi_hot import IMPLEMENTATIONS, select
from kernels.multi_hot.native.build import find_compiler
from kernels.multi_hot.select import Choice, choose_implementation

ROOT = Path(__file__).resolve().parents[3]
SHAPES: dict[str, Any] = {"num_rows": 40, "num_values": 800, "num_tokens": 300, "units": 20}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def measured(choice: Choice) -> dict[str, float]:
    """Returns the milliseconds of each implementation that was measured."""
    return {name: float(ms) for name, ms in re.findall(r"(\w+) ([\d.]+) ms", choice.why)}


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
def test_takes_the_fastest_and_remembers_it(cache: Path) -> None:
    choice = choose_implementation(**SHAPES)
    times = measured(choice)
    assert set(times) == {"native", "dense"}, "gather is none beside native"
    assert choice.why.startswith("measured in")
    assert times[choice.name] <= 1.1 * min(times.values()) + 0.02, "the times are rounded"
    again = choose_implementation(**SHAPES)
    assert again.why.startswith("measured before")
    assert again.name == choice.name
    assert again.why.partition(": ")[2] == choice.why.partition(": ")[2]
    same = choose_implementation(**SHAPES, deterministic=True)
    assert same == again, "a CPU repeats itself with any of them"
    (kept,) = cache.glob("choice-*.json")
    kept.write_text(kept.read_text()[:-1])
    assert choose_implementation(**SHAPES).why.startswith("measured in"), "the file was damaged"
    assert choose_implementation(**SHAPES).why.startswith("measured before")
    other = choose_implementation(**SHAPES, unique=True, dtype="bfloat16")
    assert other.why.startswith("measured in")
    assert len(list(cache.glob("choice-*.json"))) == 2


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
def test_dense_is_no_candidate_where_its_matrix_is_huge() -> None:
    # As many elements as 64 rows of 2**22 tokens have, and a table that takes no time.
    choice = choose_implementation(num_rows=2**13, num_values=99, num_tokens=2**15, units=1)
    assert (choice.name, measured(choice)) == ("native", {})


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
def test_dense_is_no_candidate_where_its_matrix_is_nearly_empty() -> None:
    sparse = {"num_rows": 64, "num_values": 4_000, "num_tokens": 4_000, "units": 600}
    choice = choose_implementation(**sparse)
    assert choice.name == "native"
    assert choice.why == (
        "chosen without measuring: dense would need a matrix of 64 numbers for each id; gather "
        "cannot update single rows of a table on a CPU"
    )
    told: list[str] = []
    in_16_bits = choose_implementation(**sparse, dtype="bfloat16", tell=told.append)
    assert set(measured(in_16_bits)) == set(IMPLEMENTATIONS)
    assert told == ["native (1 of 3)", "gather (2 of 3)", "dense (3 of 3)"]


@pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")
def test_candidates_beyond_the_limit_of_time_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_LIMIT_SECONDS", 0.0)
    told: list[str] = []
    choice = choose_implementation(**SHAPES, dtype="bfloat16", tell=told.append)
    assert (choice.name, told) == ("native", ["native (1 of 3)"])
    assert choice.why.endswith(": native only; gather, dense not measured within 0 s")
    assert choose_implementation(**SHAPES, dtype="bfloat16").why.startswith("measured before")


def test_a_gpu_that_must_repeat_itself_gets_dense_where_its_matrix_fits() -> None:
    """`gather` adds there in any order. There is one candidate, so no GPU is needed to choose."""
    choice = choose_implementation(**SHAPES, device="GPU:0", deterministic=True)
    assert (choice.name, measured(choice)) == ("dense", {})
    assert choice.why.endswith("gather does not add in a fixed order")
    huge = SHAPES | {"num_tokens": 2**22}
    choice = choose_implementation(**huge, device="GPU:0", deterministic=True)
    assert (choice.name, measured(choice)) == ("gather", {})


def test_without_a_compiler_the_others_and_the_reason(tmp_path: Path) -> None:
    code = f"""
import json
from kernels.multi_hot import why_unavailable
from kernels.multi_hot.select import choose_implementation
choice = choose_implementation(**{SHAPES})
reasons = [why_unavailable(name, "GPU") for name in ("dense", "gather", "native")]
print(json.dumps([choice.name, choice.why, reasons]))
"""
    environment = {**os.environ, "PATH": str(tmp_path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("CXX", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    name, why, reasons = json.loads(done.stdout)
    times = measured(Choice(name, why))
    assert set(times) == {"dense", "gather"}
    assert name in times
    assert "; native is unavailable: " in why
    assert "apt install g++" in why
    assert reasons[:2] == [None, None]
    assert reasons[2] in why
