"""`harness tensorboard` as a process: what it serves, and how it ends."""

import gzip
import json
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.commands.runs import REPOSITORY, call, command_line, environment, run


@pytest.fixture
def server(trained_folder: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Over a run and a folder with a profile, on a free port."""
    profile = tmp_path / "mine" / "plugins" / "profile" / "2026_01_01_00_00_00"
    profile.mkdir(parents=True)
    (profile / "host.xplane.pb").touch()
    process = subprocess.Popen(
        command_line("tensorboard", trained_folder, tmp_path / "mine", "--port", "0"),
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_serves_until_ctrl_c(server: subprocess.Popen[str], tmp_path: Path) -> None:
    assert server.stdout is not None
    said = server.stdout.readline()
    found = re.fullmatch(r"TensorBoard is at (http://localhost:(\d+)/) \(Ctrl-C ends it\)\n", said)
    assert found, (said, server.communicate())

    def get(route: str) -> str:
        with urllib.request.urlopen(f"{found[1]}{route}", timeout=30) as response:
            body = response.read()
        # The profiler's pages are compressed whatever the browser takes.
        return (gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body).decode()

    while (runs := json.loads(get("data/runs"))) == []:
        time.sleep(0.05)  # it reads the event files in the background
    assert runs == ["run/tensorboard"]
    assert json.loads(get("data/plugin/profile/runs")) == ["mine/2026_01_01_00_00_00"]

    taken = run(command_line("tensorboard", tmp_path, "--port", found[2]))
    assert taken.code == 2
    assert f"port {found[2]}" in taken.err
    assert "name another --port" in taken.err
    assert "Traceback" not in taken.err

    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("no/such/folder",), "no/such/folder is no folder"),
        ((), "name at least one run folder"),
        ((".", "--port", "70000"), "--port is 70000"),
    ],
)
def test_wrong_settings(arguments: tuple[str, ...], part: str) -> None:
    result = call("tensorboard", *arguments)
    assert (result.code, result.out) == (2, "")
    assert part in result.err, result.err
