"""`harness bench` and `harness compare` as their users call them."""

import dataclasses
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from harness.base.errors import InputError
from harness.cli import main as command_line_module
from harness.cli.bench import BenchConfig, GridConfig, settings_of
from harness.cli.settings import ModelConfig
from harness.data.sources import load_configured
from harness.tools.bench.results import (
    RESULTS_FILE_NAME,
    Results,
    read_results,
    write_results,
)
from harness.tools.bench.sweep import begin, cells
from tests.harness.cli.runs import CORPUS, NETWORK, call, command_line, contents, environment
from tests.harness.tools.bench.samples import CELL, pair, results, row

GRID = ("--batch-size", "50", "100", "--implementation", "gather", "--steps-per-dispatch", "2")
SWEEP = (*CORPUS, *NETWORK, *GRID, "--input", "stream", "--repeats", "1", "--steps", "24")
IN_TURN = ("--steps", "None", "--repeats", "3")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Interrupts a sweep by Ctrl-C after its first row, and resumes it; returns its folder, and the
    output of both commands."""
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
        interrupted, errors = process.communicate()
    assert (process.returncode, errors) == (130, "")
    assert len(read_results(folder).rows) == 1
    again = call("bench", *SWEEP, "--bench-dir", folder, "--resume")
    assert (again.code, again.err) == (0, "")
    return folder, interrupted, again.out


def test_an_interrupted_sweep_says_how_to_go_on(sweep: tuple[Path, str, str]) -> None:
    folder, interrupted, _ = sweep
    again = f"to go on, add --bench-dir {folder} --resume to the command"
    assert f"interrupted with 1 of 2 measurements left; {again}" in interrupted


def test_every_cell_is_measured_in_turn(sweep: tuple[Path, str, str]) -> None:
    folder, _, _ = sweep
    content = read_results(folder)
    order = [(r.cell.batch_size, r.repeat, r.status) for r in content.rows]
    assert order == [(50, 0, "ok"), (100, 0, "ok")]
    for measured in content.rows:
        assert sum(measured.windows.num_steps) >= 24
        assert measured.resolved["implementation"] == "gather"
        figures = measured.figures
        assert figures is not None
        rate = figures.examples_per_second
        assert 0 < rate.p20 <= rate.median <= rate.p80
        assert 0 < figures.step_time_ms_p50 <= figures.step_time_ms_p95 <= figures.step_time_ms_p99
        assert measured.compile_seconds > 0
        assert measured.peak_rss_bytes > 10**8


def test_the_results_carry_their_provenance(sweep: tuple[Path, str, str]) -> None:
    provenance = read_results(sweep[0]).provenance
    assert {"python", "harness", "tensorflow"} <= provenance.versions.keys()
    assert provenance.host["cpu"]
    assert provenance.dataset["rows"] == 1600
    assert read_results(sweep[0]).config["grid"]["batch_size"] == [50, 100]


def test_the_table(sweep: tuple[Path, str, str]) -> None:
    _, _, out = sweep
    lines = out.splitlines()
    for size in ("50", "100"):
        (line,) = (li for li in lines if re.match(rf" *{size} +[\d,]+ ", li))
        assert re.search(r" \d\.\d\d +\d+\.\d$", line)  # the last columns are there
    assert "implementation gather, precision auto, input stream" in " ".join(out.split())
    assert str(sweep[0] / RESULTS_FILE_NAME) in out


def test_what_lies_in_the_folder(sweep: tuple[Path, str, str]) -> None:
    folder, _, out = sweep
    names = {path.name for path in folder.iterdir()}
    assert names == {RESULTS_FILE_NAME, "throughput.png", "tensorboard"}
    assert len(list((folder / "tensorboard").iterdir())) == 2, "a folder for each cell"
    assert f"harness tensorboard {folder / 'tensorboard'}" in out
    assert str(folder / "throughput.png") in out


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["already holds results", "--resume", "--overwrite", "--bench-dir"]),
        (["--resume", "--steps", "12"], ["cannot be resumed", "steps was 24 and is now 12"]),
        (["--resume", "--seed", "3"], ["cannot be resumed", "seed was 0 and is now 3"]),
        (["--overwrite", "--batch-size", "1601"], ["1601", "1600 rows"]),
        (["--overwrite", "--batch-size", "100", "100"], ["100 more than once"]),
        (["--overwrite", *IN_TURN, "--against-set", "color=1"], ["color"]),
        (
            ["--overwrite", "--batch-size", "99", "--replicas", "2"],
            ["99, which does not divide over 2 replicas"],
        ),
    ],
)
def test_results_that_are_there_stay_as_they_are(
    flags: list[str], parts: list[str], sweep: tuple[Path, str, str]
) -> None:
    before = contents(sweep[0])
    result = call("bench", *SWEEP, "--bench-dir", sweep[0], *flags)
    assert (result.code, result.out) == (2, "")
    assert all(part in result.err for part in parts), result.err
    assert contents(sweep[0]) == before


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--against", "missing.toml"], ["missing.toml cannot be read"]),
        (["--against", "."], ["has no harness.cli.measured"]),
        (["--against", "no-such-branch"], ["not a folder, a file, or a git revision"]),
        (["--against-set", "colour"], ["'colour'; write name=value"]),
        (["--against-set", "colour=red"], ["unknown setting 'colour'"]),
        (["--against-set", "batch-size=0"], ["--batch-size is 0"]),
        (["--against-set", "optimizer=magic", "--implementation", "gather"], ["'magic'"]),
    ],
)
def test_nothing_to_compare_with(
    flags: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = ("--batch-size", "100", "--input", "stream", "--seconds", "0.1", "--repeats", "3")
    result = call("bench", *CORPUS, *NETWORK, *grid, "--bench-dir", tmp_path / "b", *flags)
    assert (result.code, result.out) == (2, "")
    assert all(part in result.err for part in parts), result.err


def test_two_settings_in_turn(tmp_path: Path) -> None:
    """This starts the last of three pairs of processes, after two of an earlier call, which the
    other tests of pairs start."""
    path = tmp_path / "other.toml"
    # So much work that no machine misses it.
    path.write_text("[model]\nhidden_units = [256, 256]\ndropout = [0.0]\n")
    grid = ("--batch-size", "200", "--implementation", "gather", "--steps-per-dispatch", "1")
    flags = (*CORPUS, "--hidden-units", "8", "--dropout", "0", *grid, "--input", "stream")
    folder = tmp_path / "bench"
    words = [
        *("bench", *flags, "--seconds", "0.1", "--repeats", "3", "--bench-dir", str(folder)),
        *("--against", str(path), "--fail-if-slower", "5%"),
    ]
    config = command_line_module._parse(words)
    (cell,) = cells(vars(config.grid), rows=1600)
    folder.mkdir()
    done = begin(folder, load_configured(config.data), dataclasses.asdict(config), resume=False)
    for repeat in range(2):
        one = pair(repeat, (1.0,) * 24)
        done = done.plus(dataclasses.replace(one, cell=cell, examples_per_second_b=2.7e5))
    write_results(folder / RESULTS_FILE_NAME, done)
    result = call(*words, "--resume")
    assert (result.code, result.err) == (0, "")
    assert "failed: " not in result.out  # on a busy machine it may be inconclusive
    pairs = read_results(folder).pairs
    assert [p.repeat for p in pairs] == [0, 1, 2]
    assert all(p.examples_per_second_b > p.examples_per_second_a for p in pairs)


def measured(rate: float) -> Results:
    other = dataclasses.replace(CELL, batch_size=1000)
    return results(
        *(row(CELL, r, 1e5 + 100 * r) for r in range(5)),
        *(row(other, r, rate + 100 * r) for r in range(5)),
    )


@pytest.mark.parametrize(
    ("rate", "flags", "code"),
    [
        (1e5, ["1%"], 0),
        (0.9e5, ["5%"], 1),
        (0.9e5, ["15%"], 0),
        (1.2e5, ["5%"], 0),
        (1e5, ["0%"], 0),
        (1e5, ["0%", "--fail-if-inconclusive"], 3),
        (0.9e5, ["0%", "--fail-if-inconclusive"], 1),
    ],
)
def test_the_exit_code_of_a_gate(rate: float, flags: list[str], code: int, tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    write_results(a, measured(1e5))
    write_results(b, measured(rate))
    result = call("compare", a, b, "--fail-if-slower", *flags)
    assert (result.code, result.err) == (code, "")
    assert ("B is slower than A by more than" in result.out) == (code == 1)
    assert call("compare", a, b).code == 0


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    write_results(a, measured(1e5))
    content = json.loads(a.read_text())
    content["provenance"]["host"]["cores"] = 64
    b.write_text(json.dumps(content))
    refused = call("compare", a, b)
    assert (refused.code, refused.out) == (2, "")
    assert "64 cores" in refused.err
    assert call("compare", a, b, "--across-machines").code == 0
    b.write_text(a.read_text()[:1000])
    assert "not a JSON object" in call("compare", a, b).err


def test_a_process_is_told_what_differs_from_the_defaults_by_bare_names(tmp_path: Path) -> None:
    config = BenchConfig(
        model=ModelConfig(hidden_units=(8,), dropout=(0.0,)),
        grid=GridConfig(replicas=(2,), batch_size=(500,)),
    )
    (cell,) = cells(vars(config.grid), rows=500)
    told = {"data": str(tmp_path), "hidden_units": (8,), "dropout": (0.0,), "replicas": 2}
    assert settings_of(config, cell, tmp_path) == told
    over = {"batch_size": 7, "hidden_units": [9]}
    expected = {**told, "batch_size": 7, "hidden_units": (9,)}
    assert settings_of(config, cell, tmp_path, over=over) == expected
    with pytest.raises(InputError, match="the settings to compare with: unknown setting 'colour'"):
        settings_of(config, cell, tmp_path, over={"colour": "red"})
