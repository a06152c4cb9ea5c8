"""`harness bench` as its users call it."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.base.errors import InputError
from harness.cli.measured import own_model
from harness.tools.bench import measure
from harness.tools.bench.measure import Side
from harness.tools.bench.results import RESULTS_FILE_NAME, Cell, Row
from tests.harness.cli.runs import CORPUS, NETWORK, call, command_line, contents, environment

GRID = ("--batch-size", "50", "100", "--implementation", "gather", "--steps-per-dispatch", "2")
SWEEP = (*CORPUS, *NETWORK, *GRID, "--input", "stream", "--repeats", "1", "--seconds", "0.5")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Interrupts a sweep after the first of its two cells; returns its folder and output."""
    folder = tmp_path_factory.mktemp("bench") / "sweep"
    command = command_line("bench", *SWEEP, "--run-dir", folder)
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


def read(folder: Path) -> Any:
    return json.loads((folder / RESULTS_FILE_NAME).read_text())


def test_an_interrupted_sweep_keeps_what_was_measured(sweep: tuple[Path, str]) -> None:
    (one,) = read(sweep[0])["rows"]
    assert (one["cell"]["batch_size"], one["repeat"], one["note"]) == (50, 0, "")
    assert one["resolved"]["implementation"] == "gather"
    figures = one["figures"]
    assert 0 < figures["examples_per_second_p20"] <= figures["examples_per_second"]
    assert figures["examples_per_second"] <= figures["examples_per_second_p80"]
    assert figures["step_time_ms_p50"] > 0
    assert figures["compile_seconds"] > 0
    assert figures["peak_rss_bytes"] > 10**8


def test_the_results_say_where_they_come_from(sweep: tuple[Path, str]) -> None:
    content = read(sweep[0])
    assert {"python", "harness", "tensorflow", "commit"} <= content["versions"].keys()
    assert content["machine"]
    assert content["config"]["grid"]["batch_size"] == [50, 100]
    assert {path.name for path in sweep[0].iterdir()} == {
        *(RESULTS_FILE_NAME, "results.csv", "results.png", "tensorboard")
    }
    lines = sweep[1].splitlines()
    assert str(sweep[0] / RESULTS_FILE_NAME) in lines[-1]
    assert [line for line in lines if line.lstrip().startswith("50 ")], "the table is there"


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["already holds results", "--overwrite", "--run-dir"]),
        (["--overwrite", "--batch-size", "1601"], ["1601", "1600 rows"]),
        (["--resume", "--seconds", "9"], ["another sweep", "--seconds was 0.5 and is 9.0"]),
        (["--overwrite", "--repeats", "3", "--against", "{other}"], ["color"]),
        (
            ["--overwrite", "--batch-size", "99", "--replicas", "2"],
            ["99, which does not divide over 2 replicas"],
        ),
    ],
)
def test_results_that_are_there_stay_as_they_are(
    flags: list[str], parts: list[str], sweep: tuple[Path, str], tmp_path: Path
) -> None:
    before, other = contents(sweep[0]), tmp_path / "other.toml"
    other.write_text("color = 1")
    flags = [flag.format(other=other) for flag in flags]
    result = call("bench", *SWEEP, "--run-dir", sweep[0], *flags)
    assert (result.code, result.out) == (2, "")
    assert all(part in result.err for part in parts), result.err
    assert contents(sweep[0]) == before


def test_a_sweep_goes_on_and_skips_what_cannot_be_measured(
    sweep: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a model of one's own lies
    folder = tmp_path / "sweep"
    shutil.copytree(sweep[0], folder)
    result = call("bench", *SWEEP, "--run-dir", folder, "--resume", "--markdown")
    assert (result.code, "2/2  batch size 100: " in result.err) == (0, True)
    assert "\n| batch size | examples/s |" in result.out
    assert "2/2" not in result.out, "the table stands alone"
    rows = read(folder)["rows"]
    assert rows[0] == read(sweep[0])["rows"][0], "what was there was not measured again"
    assert [one["cell"]["batch_size"] for one in rows] == [50, 100]
    for one in rows:  # the clock of the process that asked has seen all of the training
        _, seconds, waits = map(sum, zip(*one["stretches"], strict=True))
        assert 0 <= waits < seconds < one["clock_seconds"]
        rates = one["figures"]["steps_per_second"], one["figures"]["examples_per_second"]
        assert rates[0] * one["cell"]["batch_size"] == pytest.approx(rates[1])
    flags = ("--batch-size", "50", "1601", "--replicas", "1", "2", "--overwrite")
    (tmp_path / "own.py").write_text(
        "import harness\n"
        "def wide(inputs):\n"
        "    return harness.MultiHotDense(1, num_tokens=1000)(inputs)\n"
    )
    own = ("--own-model", "own:wide", "--run-dir", folder)
    again = call("bench", *SWEEP, *flags, *own)
    assert (again.code, again.err) == (0, "")
    found = {(r["cell"]["batch_size"], r["cell"]["replicas"]): r for r in read(folder)["rows"]}
    assert found[50, 1]["figures"]
    assert found[50, 2]["same_as"]["replicas"] == 1, "on a CPU it is one program"
    assert found[1601, 1]["note"].startswith("skipped: --batch-size is 1601")
    monkeypatch.syspath_prepend(tmp_path)
    for wrong in ("bad", "own:wider"):
        with pytest.raises(InputError, match="MODULE:FUNCTION"):
            own_model(wrong)


def test_two_settings_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair of processes is measured; the others have its figures."""
    taken: list[Row] = []
    real = measure.measure

    def once(cell: Cell, sides: Sequence[Side], *, repeat: int, **how: Any) -> list[Row]:
        taken[:] = taken or real(cell, sides, repeat=1, **how)
        return [replace(row, repeat=repeat) for row in taken]

    monkeypatch.setattr(measure, "measure", once)
    path = tmp_path / "other.toml"
    # So much work that no machine misses it.
    path.write_text("[model]\nhidden_units = [256, 256]\ndropout = [0.0]\n")
    grid = ("--batch-size", "200", "--implementation", "gather", "--steps-per-dispatch", "1")
    flags = (*CORPUS, "--hidden-units", "8", "--dropout", "0", *grid, "--input", "stream")
    how = ("--seconds", "0.1", "--repeats", "3", "--run-dir", tmp_path / "bench")
    result = call("bench", *flags, *how, "--against", path, "--fail-if-slower", "5%")
    assert (result.code, result.err) == (0, "")
    assert "failed: " not in result.out  # on a busy machine it may be inconclusive
    rows = read(tmp_path / "bench")["rows"]
    order = [(repeat, side) for repeat in range(3) for side in "AB"]
    assert [(one["repeat"], one["side"]) for one in rows] == order
    assert all(one["ratio"] > 1 for one in rows if one["side"] == "B")
