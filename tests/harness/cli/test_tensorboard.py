"""`harness tensorboard` as a process: what it serves, and how it ends."""

import contextlib
import gzip
import json
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cli.runs import REPOSITORY, call, command_line, environment, run


@contextlib.contextmanager
def serving(*folders: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on a free port, and its address."""
    process = subprocess.Popen(
        command_line("tensorboard", *folders, "--port", "0"),
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if said.startswith("note: "):
            said = process.stdout.readline()
        found = re.fullmatch(
            r"TensorBoard is at (http://localhost:\d+/) \(Ctrl-C ends it\)\n", said
        )
        assert found, (said, process.communicate())
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def get(address: str, route: str) -> str:
    with urllib.request.urlopen(f"{address}{route}", timeout=120) as response:
        body = response.read()
    # The profiler's pages are compressed whatever the browser takes.
    return (gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body).decode()


def runs(address: str) -> list[str]:
    while not (names := json.loads(get(address, "data/runs"))):
        time.sleep(0.05)  # it reads the event files in the background
    return names


def test_serves_until_ctrl_c(trained_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(trained_folder / "tensorboard", tmp_path / "run" / "tensorboard")
    profile = tmp_path / "mine" / "plugins" / "profile" / "2026_01_01_00_00_00"
    profile.mkdir(parents=True)
    (profile / "host.xplane.pb").touch()
    with serving(tmp_path) as (process, address):
        assert runs(address) == ["run/tensorboard"]
        profiles = json.loads(get(address, "data/plugin/profile/runs"))
        assert profiles == ["mine/2026_01_01_00_00_00"]

        port = address.rpartition(":")[2].rstrip("/")
        taken = run(command_line("tensorboard", tmp_path, "--port", port))
        assert taken.code == 2
        assert f"port {port}" in taken.err
        assert "name another --port" in taken.err

        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 0


def test_several_folders(trained_folder: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    for folder in folders:
        shutil.copytree(trained_folder / "tensorboard", folder / "tensorboard")
    with serving(*folders) as (_, address):
        assert set(runs(address)) == {"a/run/tensorboard", "b/run/tensorboard"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("no/such/folder",), "no/such/folder is not a folder"),
        ((), "name at least one run folder"),
        ((".", "--port", "70000"), "--port is 70000"),
    ],
)
def test_wrong_settings(arguments: tuple[str, ...], part: str) -> None:
    result = call("tensorboard", *arguments)
    assert (result.code, result.out) == (2, "")
    assert part in result.err, result.err
