"""A sweep as a plot, and as TensorBoard's HParams page, as the plugin itself reads it."""

import dataclasses
from pathlib import Path

import pytest

from harness.bench.charts import draw, write_hparams
from tests.harness.bench.samples import CELL, results, row
from tests.harness.observe.tensorboard_app import TensorBoardApp

LARGE = dataclasses.replace(CELL, batch_size=4096)
NATIVE = dataclasses.replace(CELL, implementation="native")


@pytest.mark.parametrize(
    "rows",
    [
        [row(CELL, 0)],
        [row(CELL, 0), row(LARGE, 0, 3e5), row(LARGE, 1, 4e5)],
        [row(CELL, 0), row(LARGE, 0, None), row(NATIVE, 0)],
        [row(CELL, 0, None)],
    ],
)
def test_it_is_drawn(rows: list, tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    draw(results(*rows), path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]


def test_every_measured_cell_is_a_run_with_its_figures(tmp_path: Path) -> None:
    native = dataclasses.replace(CELL, implementation="native")
    too_large = dataclasses.replace(CELL, batch_size=8192)
    sweep = results(row(CELL, 0, 1e5), row(CELL, 1, 2e5), row(native, 0, 3e5))
    write_hparams(dataclasses.replace(sweep, rows=(*sweep.rows, row(too_large, 0, None))), tmp_path)

    experiment, cells = TensorBoardApp(tmp_path).hparams("STATUS_SUCCESS")
    columns = {info["name"]: info.get("differs", False) for info in experiment["hparamInfos"]}
    assert columns == {name: name == "implementation" for name in dataclasses.asdict(CELL)}
    # What `auto` came to, not `auto`.
    rates = {
        cell["hparams"]["implementation"]: cell["metrics"]["throughput/examples_per_second"]
        for cell in cells
    }
    assert rates == {"gather": pytest.approx(1.5e5), "native": pytest.approx(3e5)}
    for cell in cells:
        assert (cell["hparams"]["steps_per_dispatch"], cell["hparams"]["batch_size"]) == (20, 500)
        assert {"throughput/step_time_ms_p99", "host/rss_bytes"} < set(cell["metrics"])


def test_without_a_measured_cell_there_is_no_run(tmp_path: Path) -> None:
    write_hparams(results(row(CELL, 0, None)), tmp_path)
    assert list(tmp_path.iterdir()) == []
