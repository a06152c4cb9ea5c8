"""The results file is read back as it was written, and no other file is taken for one."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.base.errors import InputError
from harness.base.files import write_json
from harness.tools.bench.results import (
    RESULTS_FILE_NAME,
    Results,
    print_table,
    read_results,
)
from tests.harness.tools.bench.samples import CELL, results, row


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Results]:
    content = results(
        row(CELL, 0), row(CELL, 1, None), dataclasses.replace(row(CELL, 2, 1 / 3), ratio=1e-9)
    )
    path = tmp_path / RESULTS_FILE_NAME
    write_json(path, dataclasses.asdict(content))
    return path, content


def test_it_reads_back_exactly(written: tuple[Path, Results]) -> None:
    path, content = written
    assert read_results(path) == content
    assert read_results(path.parent) == content  # the folder stands for the file in it
    assert [p.name for p in path.parent.iterdir()] == [RESULTS_FILE_NAME]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            lambda c: c.update(format="harness-bench-results"),
            'it must be "harness-bench-results 3"',
        ),
        (lambda c: c["rows"][0].pop("cell"), r"rows\[0\].cell is missing"),
        (lambda c: c["rows"][0].update(figures=[1]), r"rows\[0\].figures is \[1\]"),
        (lambda c: c["rows"][0]["figures"].update(examples_per_second=0), "a rate is not positive"),
    ],
)
def test_a_file_that_is_not_ours(
    written: tuple[Path, Results], changed: Callable[[dict[str, Any]], object], message: str
) -> None:
    path, _ = written
    content = json.loads(path.read_text())
    changed(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


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
