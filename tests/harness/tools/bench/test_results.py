"""The results file is read back as it was written, and no other file is taken for one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.base.errors import InputError
from harness.tools.bench.results import (
    RESULTS_FILE_NAME,
    Results,
    read_results,
    write_results,
)
from tests.harness.tools.bench.samples import CELL, pair, results, row


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Results]:
    content = results(
        row(CELL, 0, marks=("busy",)), row(CELL, 1, None), row(CELL, 2, 1 / 3), pair(0, (0.1, 1e-9))
    )
    path = tmp_path / RESULTS_FILE_NAME
    write_results(path, content)
    return path, content


def test_it_reads_back_exactly(written: tuple[Path, Results]) -> None:
    path, content = written
    assert read_results(path) == content
    assert read_results(path.parent) == content  # the folder stands for the file in it
    assert content.cells == (CELL,)
    assert [p.name for p in path.parent.iterdir()] == [RESULTS_FILE_NAME]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file(written: tuple[Path, Results], share: float) -> None:
    path, _ = written
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"not a JSON object: .* Name a results file"):
        read_results(path)


def change(where: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def changed(content: dict[str, Any]) -> None:
        *above, last = where.split(".")
        for name in above:
            content = content[int(name) if name.isdigit() else name]  # type: ignore[index]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (change("format", "another"), "not a results file of this version: its format is another"),
        (change("version", 3), "version 3, not harness-bench"),
        (change("version", None), "version None, not harness-bench"),
        (change("rows", None), "rows is missing"),
        (change("colour", "red"), "colour is unknown"),
        (change("rows.0.repeat", "one"), r"rows\[0\].repeat is 'one'"),
        (change("rows.0.repeat", True), r"rows\[0\].repeat is True"),
        (change("rows.0.status", "great"), r"rows\[0\].status is 'great'"),
        (change("rows.0.cell", [1]), r"rows\[0\].cell is \[1\]"),
        (change("rows.0.windows.seconds", ["x"]), r"windows.seconds\[0\] is 'x'"),
        (change("rows.0.figures.step_time_ms_p50", None), r"rows\[0\].figures is "),
        (change("pairs.0.log_ratios", {}), r"pairs\[0\].log_ratios is {}"),
    ],
)
def test_a_file_that_is_not_ours(
    written: tuple[Path, Results], changed: Callable[[dict[str, Any]], None], message: str
) -> None:
    path, _ = written
    content = json.loads(path.read_text())
    changed(content)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "fact"),
    [
        (("provenance", "host"), {}, "memory_bytes"),
        (("provenance", "host", "memory_bytes"), "7", "unsupported operand"),
        (("provenance", "gpus"), [{}], "name"),
    ],
)
def test_a_machine_that_is_none_is_one_message(
    tmp_path: Path, place: tuple[str, ...], value: object, fact: str
) -> None:
    path = tmp_path / "results.json"
    write_results(path, results())
    content = json.loads(path.read_text())
    holder = content
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"is damaged, or not a results file: .*{fact}"):
        read_results(path)
