"""`harness tensorboard` as a process: what it serves, and how it ends."""

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

from harness.base.errors import InputError
from harness.cli.tensorboard import places
from tests.harness.cli.runs import REPOSITORY, command_line, environment, run


@pytest.fixture
def server(trained_folder: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts TensorBoard over a folder around a run and a profile, on a free port."""
    shutil.copytree(trained_folder, tmp_path / "run")
    profile = tmp_path / "mine" / "plugins" / "profile" / "2026_01_01_00_00_00"
    profile.mkdir(parents=True)
    (profile / "host.xplane.pb").touch()
    process = subprocess.Popen(
        command_line("tensorboard", tmp_path, "--port", "0"),
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
    assert runs == ["run"]
    assert json.loads(get("data/plugin/profile/runs")) == ["mine/2026_01_01_00_00_00"]

    taken = run(command_line("tensorboard", tmp_path, "--port", found[2]))
    assert taken.code == 2
    assert f"port {found[2]}" in taken.err
    assert "name another --port" in taken.err
    assert "Traceback" not in taken.err

    server.send_signal(signal.SIGINT)
    assert server.wait(timeout=600) == 0
    assert server.stderr is not None
    assert "Traceback" not in server.stderr.read()


def test_several_folders_have_a_name_each(tmp_path: Path) -> None:
    one, other, third = (tmp_path / name for name in ("a/run", "b/run", "c/sweep"))
    assert places([tmp_path]) == {"logdir": str(tmp_path)}
    one.mkdir(parents=True)
    (one / "events.out.tfevents.1").touch()
    assert places([one]) == {"logdir_spec": f"run:{one}"}
    assert places([one, third]) == {"logdir_spec": f"run:{one},sweep:{third}"}
    alike = "_".join(tmp_path.parts[1:])  # two of them have the same last name
    assert places([one, other]) == {
        "logdir_spec": f"{alike}_a_run:{one},{alike}_b_run:{other}",
    }
    with pytest.raises(InputError, match="has a comma or a colon in its name; open it alone"):
        places([one, tmp_path / "a:b"])
