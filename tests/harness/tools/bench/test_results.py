"""The table of a sweep."""

import dataclasses

import pytest
from rich.console import Console

from harness.tools.bench.results import print_table
from tests.harness.tools.bench.samples import CELL, row


def test_a_sweep_is_a_table_of_medians(capsys: pytest.CaptureFixture[str]) -> None:
    native = dataclasses.replace(CELL, implementation="native")
    large = dataclasses.replace(CELL, batch_size=65_536)
    rows = [row(CELL, repeat, rate) for repeat, rate in enumerate((1e5, 3e5, 123_456.0))]
    on_gpu = row(native, 0, 200.0)
    on_gpu = dataclasses.replace(on_gpu, figures={**on_gpu.figures, "peak_device_bytes": 5e8})
    print_table([*rows, row(CELL, 3, None), on_gpu, row(large, 0, None)], Console(width=40))
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.startswith("batch size  implementation  examples/s")
    assert heading.endswith("GPU GB")
    assert len({len(line) for line in (heading, *lines)}) == 1, "no line is cut or wrapped"
    assert [line.split()[:3] for line in lines] == [
        ["500", "auto", "123,456"],
        ["500", "native", "200"],
        ["65536", "auto", "failed"],
    ]
    assert lines[1].endswith("0.50")
