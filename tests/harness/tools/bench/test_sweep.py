"""The grid and the order in which it is measured."""

import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import InputError
from harness.tools.bench.results import AXES
from harness.tools.bench.sweep import cells, remaining
from tests.harness.run.observers.samples import REPOSITORY
from tests.harness.run.telemetry.nvml import library
from tests.harness.run.telemetry.nvml.library import Nvml
from tests.harness.tools.bench.samples import CELL, pair, results, row

GRID = dict.fromkeys(AXES, ("auto",)) | {
    "batch_size": (100, 200),
    "implementation": ("gather", "dense"),
    "replicas": ("auto", 2),
}


def test_every_combination_is_a_cell() -> None:
    planned = cells(GRID, rows=200)
    assert len(planned) == len(set(planned)) == 8
    assert (planned[0].batch_size, planned[0].implementation, planned[0].replicas) == (
        100,
        "gather",
        "auto",
    )
    assert planned[-1] == dataclasses.replace(
        CELL, batch_size=200, implementation="dense", replicas="2"
    )


def test_a_batch_larger_than_the_data() -> None:
    with pytest.raises(InputError, match="names 200, but the data set has 199 rows"):
        cells(GRID, rows=199)


@given(num=st.integers(1, 6), repeats=st.integers(1, 6))
def test_the_order_alternates(num: int, repeats: int) -> None:
    planned = [dataclasses.replace(CELL, batch_size=n) for n in range(1, num + 1)]
    order = remaining(planned, repeats, results())
    assert len(set(order)) == num * repeats
    for repeat in range(repeats):
        of_repeat = [cell for cell, r in order if r == repeat]
        assert of_repeat == (planned if repeat % 2 == 0 else planned[::-1])
    if repeats % 2 == 0:  # every cell lies in the middle of the sweep, on average
        places = [[i for i, (c, _) in enumerate(order) if c == cell] for cell in planned]
        assert len({sum(p) for p in places}) == 1


def test_what_remains() -> None:
    other = dataclasses.replace(CELL, batch_size=8192)
    planned = (CELL, other)
    assert remaining(planned, 2, results()) == [(CELL, 0), (other, 0), (other, 1), (CELL, 1)]
    done = results(row(CELL, 0), row(other, 0, None))
    assert remaining(planned, 2, done) == [(CELL, 1)]  # the other would run out of memory again
    assert remaining(planned, 1, done) == []
    assert remaining((CELL,), 2, results(pair(0, (0.0,)))) == [(CELL, 1)]


def test_gpus_are_described_where_there_are_any(nvml: Nvml) -> None:
    program = (
        "import json; from harness.tools.bench import sweep\n"
        "print(json.dumps(sweep.describe_gpus()))"
    )
    lost = f"gpu1.* = error {library.ERROR_GPU_IS_LOST}"
    nvml.write(library.system(), library.modern(0), library.modern(1), [lost], library.old(2))
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=nvml.environment(),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        found.append(json.loads(done.stdout))
        nvml.write([f"system.init = error {library.ERROR_DRIVER_NOT_LOADED}"])
    uuid = "GPU-0f2c9b1e-0000-4000-8000-000000000000"
    assert found[0][0] == {"name": "NVIDIA Fake 100", "uuid": uuid, "driver": "580.65.06"}
    assert [gpu["name"] for gpu in found[0]] == ["NVIDIA Fake 100", "NVIDIA Old 10"]
    assert found[1] == []
