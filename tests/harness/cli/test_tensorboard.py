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

from harness.cli.tensorboard import joined
from tests.harness.cli.runs import REPOSITORY, call, command_line, environment, run


@pytest.fixture
def server(trained_folder: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts TensorBoard over a run and a folder with a profile, on a free port."""
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
        with urllib.request.urlopen(f"{found[1]}{route}", timeout=600) as response:
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
    assert server.wait(timeout=600) == 0


def test_one_folder_of_several(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a/run", "b/run", "c/sweep")]
    for folder in folders:
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "events.out.tfevents.1").write_text(str(folder))
        (folder / "model.keras").touch()
    (tmp_path / "one").mkdir()
    assert joined(folders[:1], tmp_path / "one") == folders[0]
    assert list((tmp_path / "one").iterdir()) == []

    (tmp_path / "all").mkdir()
    assert joined(folders, tmp_path / "all") == tmp_path / "all"
    profile = folders[2] / "plugins" / "profile" / "now" / "host.xplane.pb"
    profile.parent.mkdir(parents=True)
    profile.write_text("new")
    joined(folders, tmp_path / "all")
    found = {
        path.relative_to(tmp_path / "all").as_posix(): path.read_text()
        for path in (tmp_path / "all").rglob("*")
        if path.is_file()
    }
    alike = "_".join(tmp_path.parts[1:])  # two of them have the same last name
    assert found == {
        f"{alike}_a_run/deep/events.out.tfevents.1": str(folders[0]),
        f"{alike}_b_run/deep/events.out.tfevents.1": str(folders[1]),
        "sweep/deep/events.out.tfevents.1": str(folders[2]),
        "sweep/plugins/profile/now/host.xplane.pb": "new",
    }


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
