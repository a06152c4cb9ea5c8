"""Wrong input: exit code 2, one message, nothing written, nothing removed."""

import json
from pathlib import Path

import pytest

from tests.harness.cli.runs import (
    SMALL,
    Result,
    call,
    command_line,
    contents,
    environment,
    run,
    summary,
    write_npz,
)

NPZ = ("--split", "standard", "--batch-size", "2")


def refused(result: Result, *parts: str) -> None:
    """Asserts exit code 2 and one message on standard error, which holds all `parts`."""
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("error: ") == 1
    assert "Traceback" not in result.err
    assert all(part in result.err for part in parts), result.err


@pytest.mark.parametrize("fact", ["No file or folder", "damaged, or not an .npz file"])
def test_a_broken_file_in_kerass_format(fact: str, tmp_path: Path) -> None:
    path = tmp_path / "reviews.npz"
    if "damaged" in fact:
        path.write_bytes(write_npz(path).read_bytes()[:1_000])
    before = contents(tmp_path)
    for command in (
        ("train", "--run-dir", tmp_path / "run", *NPZ),
        ("data", "info", "--split", "standard"),
        ("data", "convert", "--out", tmp_path / "out", "--split", "standard"),
    ):
        refused(call(*command, "--data", path), str(path), fact)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["already holds a run", "--overwrite", "--resume", "--run-dir"]),
        (["--resume", "--epochs", "1"], ["32 steps", "--epochs 1", "set --epochs to more"]),
        (
            ["--resume", "--batch-size", "200", "--seed", "3"],
            ["--batch-size was 100 and is now 200", "--seed was 0 and is now 3", "config.json"],
        ),
        (
            ["--resume", "--synthetic-seed", "1", "--precision", "mixed_bfloat16"],
            [
                "--synthetic-seed was 0 and is now 1",
                "--precision was float32 and is now mixed_bfloat16",
            ],
        ),
        # The flags are wrong as well, which is found before anything is removed.
        (["--overwrite", "--optimizer", "magic"], ["--optimizer is 'magic'"]),
    ],
)
def test_a_run_that_is_there_stays_as_it_is(
    flags: list[str], parts: list[str], trained_folder: Path
) -> None:
    before = contents(trained_folder)
    refused(call("train", *SMALL, "--run-dir", trained_folder, *flags), *parts)
    assert contents(trained_folder) == before


def test_a_run_is_not_resumed_with_other_data(tmp_path: Path) -> None:
    data, folder = tmp_path / "reviews.npz", tmp_path / "run"
    network = ("--hidden-units", "4", "--dropout", "0", "--implementation", "dense")
    source = ("--data", write_npz(data), "--run-dir", folder, "--tensorboard", "off")
    flags = ("train", *NPZ, *network, *source)
    assert call(*flags).code == 0
    trained_on = summary(folder)["dataset"]["fingerprint"]
    write_npz(data, x_test=[[7], [1, 1, 1], [2, 9]])  # of the same name, with as many rows
    before = contents(tmp_path)
    result = call(*flags, "--epochs", "3", "--resume")
    refused(result, "cannot be resumed with other data", f"trained on {trained_on[:12]};")
    assert contents(tmp_path) == before
    # The data that it was trained on is accepted, wherever it is cached: the run is over.
    write_npz(data)
    over = call(*flags, "--resume", "--data-cache", "off")
    assert (over.code, over.err) == (0, "")
    assert "holds a complete run of 4 steps" in over.out
    # By another path, and in another way, which the run says and records.
    data.rename(tmp_path / "elsewhere.npz")
    moved = ("--data", tmp_path / "elsewhere.npz", "--implementation", "gather")
    on = call("train", "--resume", "--run-dir", folder, *moved, "--epochs", "3")
    assert (on.code, on.err) == (0, "")
    assert "note: the run goes on with implementation gather (was dense): " in on.out
    config = json.loads((folder / "config.json").read_text())
    changed = {"implementation": {"was": "dense", "is": "gather"}}
    assert config["resolved"]["resumed"] == [{"step": 4, "changed": changed}]
    flags = (*flags, *moved)
    # A run of a version that knew no fingerprints.
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"fingerprint"', '"unknown"'))
    refused(call(*flags, "--epochs", "4", "--resume"), "other data", "was trained on -;")


def test_a_run_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    # The user may be root, whom no permission stops: but nobody makes files in these.
    for folder in (file, file / "run", Path("/proc/run")):
        result = call("train", *SMALL, "--run-dir", folder)
        refused(result, f"run folder {folder} cannot be written to")
    assert contents(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("limit", [8, 16])
def test_a_process_that_may_open_too_few_files(tmp_path: Path, limit: int) -> None:
    """The limit is met where a data set is mapped, or where TensorFlow is imported."""
    assert call("data", "convert", *SMALL[:4], "--out", tmp_path / "rows").code == 0
    before = contents(tmp_path)
    words = ("--data", tmp_path / "rows", "--recipe", "tutorial", "--run-dir", tmp_path / "run")
    limited = ("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh")
    result = run([*limited, *command_line("train", *words)])
    refused(result, f"this process may open {limit} files, which are too few; ulimit -n 1024")
    assert result.err.count("\n") == 1
    assert contents(tmp_path) == before


def test_a_path_that_the_locale_cannot_encode(tmp_path: Path) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = command_line("data", "info", "--data", tmp_path / "ü")
    result = run(command, env=environment() | ascii_only)
    refused(result, r"\udcc3\udcbc: not in ASCII, the encoding of paths", "or set PYTHONUTF8=1")
