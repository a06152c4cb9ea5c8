"""The launcher of workers, with small programs in their place."""

import io
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from harness.base.errors import InputError
from harness.workers import launcher
from harness.workers.launcher import (
    Job,
    Place,
    command_at,
    local_places,
    reachable,
    remote_places,
    run_job,
)

WHO = "import json, os, sys, time; i = json.loads(os.environ['TF_CONFIG'])['task']['index']; "


def program(text: str) -> list[str]:
    return [sys.executable, "-c", WHO + text]


def run(text: str, *, workers: int = 2, restarts: int = 0) -> tuple[int, list[str], list[str]]:
    """Runs a job; returns the exit code, and the lines printed to both streams."""
    out, errors = io.StringIO(), io.StringIO()
    code = run_job(
        lambda: local_places(workers),
        lambda start: [*program(text), str(start)],
        restarts=restarts,
        out=out,
        errors=errors,
    )
    return code, sorted(out.getvalue().splitlines()), errors.getvalue().splitlines()


def test_lines_get_the_number_of_their_worker() -> None:
    code, out, errors = run("print('line'); print('no end', end='')", workers=3)
    assert (code, errors) == (0, [])
    assert out == [f"[{i}] {line}" for i in range(3) for line in ("line", "no end")]


def test_one_that_fails_ends_all_and_what_all_say_is_said_once() -> None:
    start = time.monotonic()
    code, out, errors = run(
        "print('error: the same', file=sys.stderr, flush=True); "
        "sys.exit(3) if i else time.sleep(99)"
    )
    assert (code, out) == (3, [])
    assert [line.partition(" ")[2] for line in errors[:1]] == ["error: the same"]
    assert errors[1:] == ["worker 1 ended with exit code 3, and so the job"]
    assert time.monotonic() - start < 90  # of the 99 that the other would sleep


def test_after_a_failure_all_start_again_but_not_after_wrong_input() -> None:
    again = "print(sys.argv[1]); os.kill(os.getpid(), 9) if i and sys.argv[1] < '2' else 0"
    code, out, errors = run(again, restarts=5)
    assert code == 0
    assert {"[0] 0", "[0] 2", "[1] 2"} <= set(out)
    assert errors == [
        f"worker 1 ended with signal 9, and so the job; starting again ({left} of 5 left)"
        for left in (5, 4)
    ]
    code, out, errors = run("print('x'); sys.exit(2)", restarts=5, workers=1)
    assert (code, out, errors) == (2, ["[0] x"], [])


def test_a_signal_reaches_the_workers() -> None:
    text = (
        "import signal; signal.signal(15, lambda *_: sys.exit(143)); "
        "[(os.kill(os.getppid(), 15), time.sleep(0.2)) for _ in range(500 if i else 0)]; "
        "time.sleep(99)"
    )
    # One that comes before the job listens must not end this process.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        code, _, errors = run(text, restarts=3)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (code, errors) == (143, [])


@pytest.fixture
def ssh_to_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes an ssh that runs a command on this machine, in a terminal as with -tt; the host `gone`
    does not answer."""
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f"#!{sys.executable}\nimport os, pty, sys\n"
        "if sys.argv[-2] == 'gone': sys.exit(255)\n"
        "sys.exit(os.waitstatus_to_exitcode(pty.spawn(['/bin/sh', '-c', sys.argv[-1]])))\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.usefixtures("ssh_to_here")
def test_hosts_that_do_not_answer_are_left_out() -> None:
    places = remote_places(["a", "gone", "b"], None)
    assert reachable(places) == [places[0], places[2]]


@pytest.mark.usefixtures("ssh_to_here")
def test_a_signal_reaches_workers_on_other_hosts() -> None:
    """ssh itself does not pass signals on."""
    text = "import signal; signal.signal(2, lambda *_: sys.exit(130)); print('up', flush=True); "
    out = io.StringIO()
    job = Job(remote_places(["a", "b"], None), program(text + "time.sleep(99)"), out, io.StringIO())
    while out.getvalue().count("up") < 2:
        time.sleep(0.05)
    job.pass_on(signal.SIGTERM)
    assert job.wait()[0] == 130


def test_all_workers_get_one_cluster_and_their_own_place() -> None:
    places = local_places(3)
    assert len({place.address for place in places}) == 3
    configs = []
    for index, place in enumerate(places):
        command, own = command_at(place, index, places, ["x", "y z"])
        assert command == ["x", "y z"]
        configs.append(json.loads(own["TF_CONFIG"]))
    assert {json.dumps(config["cluster"]) for config in configs} == {
        json.dumps({"worker": [place.address for place in places]})
    }
    assert [config["task"]["index"] for config in configs] == [0, 1, 2]


def test_hosts_by_ssh() -> None:
    lines = ["# ours", "", "node1", "me@node2:7000", "node1"]
    places = remote_places(lines, None)
    assert places == [
        Place(host="node1", address="node1:23456"),
        Place(host="me@node2", address="node2:7000"),
        Place(host="node1", address="node1:23457"),
    ]
    assert remote_places(lines, 2) == places[:2]
    command, own = command_at(places[1], 1, places, ["python", "a b"])
    assert own == {}
    assert command[:2] == ["ssh", "-tt"]
    assert command[-2] == "me@node2"
    assert f"cd {Path.cwd()} && TF_CONFIG='" in command[-1]
    assert command[-1].endswith("exec python 'a b'")


@pytest.mark.parametrize(
    ("lines", "workers", "message"),
    [
        (["a"], 2, "--workers is 2, but --hosts names 1 hosts"),
        (["-oProxyCommand=x"], None, "holds the line '-oProxyCommand=x'"),
        (["a:b"], None, "whose port is no number"),
        (["a b"], None, "holds the line 'a b'"),
    ],
)
def test_wrong_hosts(lines: list[str], workers: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        remote_places(lines, workers)


def test_a_worker_that_ignores_signals_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_GRACE_SECONDS", 0.5)
    text = "import signal; signal.signal(15, signal.SIG_IGN); print(i, flush=True); "
    job = Job(
        local_places(2),
        program(text + "time.sleep(1); sys.exit(1) if i else time.sleep(99)"),
        io.StringIO(),
        io.StringIO(),
    )
    assert job.wait() == (1, 1)
