"""`harness bench` and `harness compare` as their users call them."""

import dataclasses
import os
import signal
import subprocess
from pathlib import Path

import pytest

from harness.base.files import write_json
from harness.tools.bench.results import (
    RESULTS_FILE_NAME,
    Results,
    read_results,
)
from tests.harness.cli.runs import CORPUS, NETWORK, call, command_line, contents, environment
from tests.harness.tools.bench.samples import CELL, results, row

GRID = ("--batch-size", "50", "100", "--implementation", "gather", "--steps-per-dispatch", "2")
SWEEP = (*CORPUS, *NETWORK, *GRID, "--input", "stream", "--repeats", "1", "--seconds", "0.5")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Interrupts a sweep after the first of its two cells; returns its folder and output."""
    folder = tmp_path_factory.mktemp("bench") / "sweep"
    command = command_line("bench", *SWEEP, "--bench-dir", folder)
    # A group of its own: the interrupt is for it alone, as a terminal's is for all its processes.
    with subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("1/2  batch size 50: ")
        os.killpg(process.pid, signal.SIGINT)
        rest, errors = process.communicate()
    assert (process.returncode, errors) == (130, "")
    return folder, rest


def test_an_interrupted_sweep_keeps_what_was_measured(sweep: tuple[Path, str]) -> None:
    (one,) = read_results(sweep[0]).rows
    assert (one.cell.batch_size, one.repeat, one.note) == (50, 0, "")
    assert one.resolved["implementation"] == "gather"
    figures = one.figures
    assert 0 < figures["examples_per_second_p20"] <= figures["examples_per_second"]
    assert figures["examples_per_second"] <= figures["examples_per_second_p80"]
    assert 0 < figures["step_time_ms_p50"] <= figures["step_time_ms_p95"]
    assert figures["step_time_ms_p95"] <= figures["step_time_ms_p99"]
    assert figures["compile_seconds"] > 0
    assert figures["peak_rss_bytes"] > 10**8


def test_the_results_say_where_they_come_from(sweep: tuple[Path, str]) -> None:
    content = read_results(sweep[0])
    assert {"python", "harness", "tensorflow", "commit"} <= content.versions.keys()
    assert content.machine
    assert content.config["grid"]["batch_size"] == [50, 100]
    assert [path.name for path in sweep[0].iterdir()] == [RESULTS_FILE_NAME]
    lines = sweep[1].splitlines()
    assert str(sweep[0] / RESULTS_FILE_NAME) in lines[-1]
    assert [line for line in lines if line.lstrip().startswith("50 ")], "the table is there"


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["already holds results", "--overwrite", "--bench-dir"]),
        (["--overwrite", "--batch-size", "1601"], ["1601", "1600 rows"]),
        (["--overwrite", "--repeats", "3", "--against-set", "color=1"], ["color"]),
        (
            ["--overwrite", "--batch-size", "99", "--replicas", "2"],
            ["99, which does not divide over 2 replicas"],
        ),
    ],
)
def test_results_that_are_there_stay_as_they_are(
    flags: list[str], parts: list[str], sweep: tuple[Path, str]
) -> None:
    before = contents(sweep[0])
    result = call("bench", *SWEEP, "--bench-dir", sweep[0], *flags)
    assert (result.code, result.out) == (2, "")
    assert all(part in result.err for part in parts), result.err
    assert contents(sweep[0]) == before


def test_two_settings_in_turn(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    # So much work that no machine misses it.
    path.write_text("[model]\nhidden_units = [256, 256]\ndropout = [0.0]\n")
    grid = ("--batch-size", "200", "--implementation", "gather", "--steps-per-dispatch", "1")
    flags = (*CORPUS, "--hidden-units", "8", "--dropout", "0", *grid, "--input", "stream")
    how = ("--seconds", "0.1", "--repeats", "3", "--bench-dir", tmp_path / "bench")
    result = call("bench", *flags, *how, "--against", path, "--fail-if-slower", "5%")
    assert (result.code, result.err) == (0, "")
    assert "failed: " not in result.out  # on a busy machine it may be inconclusive
    rows = read_results(tmp_path / "bench").rows
    order = [(repeat, side) for repeat in range(3) for side in "AB"]
    assert [(one.repeat, one.side) for one in rows] == order
    assert all(one.ratio is not None and one.ratio > 1 for one in rows if one.side == "B")


def measured(rate: float) -> Results:
    other = dataclasses.replace(CELL, batch_size=1000)
    return results(
        *(row(CELL, r, 1e5 + 100 * r) for r in range(5)),
        *(row(other, r, rate + 100 * r) for r in range(5)),
    )


@pytest.mark.parametrize(
    ("rate", "flags", "code"),
    [
        (0.9e5, ["5%"], 1),
        (0.9e5, ["15%"], 0),
        (1.2e5, ["5%"], 0),
        (1e5, ["0%", "--fail-if-inconclusive"], 3),
        (0.9e5, ["0%", "--fail-if-inconclusive"], 1),
    ],
)
def test_the_exit_code_of_a_gate(rate: float, flags: list[str], code: int, tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    write_json(a, dataclasses.asdict(measured(1e5)))
    write_json(b, dataclasses.asdict(measured(rate)))
    result = call("compare", a, b, "--fail-if-slower", *flags)
    assert (result.code, result.err) == (code, "")
    assert ("failed: B is slower than A by more than" in result.out) == (code == 1)
    assert call("compare", a, b).code == 0


def test_what_else_differs_is_told(tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    first = measured(1e5)
    write_json(a, dataclasses.asdict(first))
    config = {**first.config, "model": {"hidden_units": [8]}}
    second = dataclasses.replace(first, machine="another, 64 cores", config=config)
    write_json(b, dataclasses.asdict(second))
    told = call("compare", a, b).out
    assert "machine is a processor, 2 cores in A and another, 64 cores in B" in told
    assert "hidden_units is [50] in A and [8] in B" in told
