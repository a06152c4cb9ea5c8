"""Terminals and pipes that go away under a command, streams that are closed, odd characters."""

import fcntl
import io
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from harness.base import terminal
from harness.base.terminal import lasting, markdown_table, progress_line
from tests.harness.cli.runs import SMALL, command_line, environment, losses, names_in, run


def own_terminal() -> None:
    """Makes standard input the terminal of this process, which is told when it is closed."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """The run gets SIGHUP, and EIO from each write; and the terminal cannot show every letter."""
    folder = tmp_path / "läufe"
    mine, its = pty.openpty()
    with subprocess.Popen(
        command_line("train", *SMALL, "--run-dir", folder),
        stdin=its,
        stdout=its,
        stderr=its,
        env=environment() | {"PYTHONIOENCODING": "ascii"},
        start_new_session=True,
        preexec_fn=own_terminal,
    ) as process:
        os.close(its)
        shown = b""
        while b"run folder" not in shown:  # the last line before the training
            shown += os.read(mine, 4096)
        os.close(mine)
        assert process.wait(600) == 0
    assert rb"l\xe4ufe" in shown
    assert names_in(folder) == {
        *("config.json", "metrics.jsonl", "checkpoints", "events", "model.keras", "summary.json"),
    }
    assert [step for step, _ in losses(folder)] == [4, 8, 12, 16, 16, 20, 24, 28, 32, 32]


def test_a_reader_that_ends(tmp_path: Path) -> None:
    """Besides, neither standard input nor standard error is open."""
    script = (
        "import sys; from harness.base.terminal import prepare_standard_streams;"
        "prepare_standard_streams(); [print(sys.stdin.read(), 'a' * 99_999) for _ in range(9)];"
        "print('said', file=sys.stderr); open(sys.argv[1], 'w').close()"
    )
    command = ["sh", "-c", '"$0" -c "$@" <&- 2>&- | head -c 3', sys.executable, script]
    assert run([*command, str(tmp_path / "done")], env=environment()).out == " aa"
    assert (tmp_path / "done").exists()


def test_results_that_cannot_be_printed() -> None:
    command = command_line("data", "info", "--synthetic-rows", "100")
    result = run(["sh", "-c", 'exec "$@" >/dev/full', "sh", *command])
    said = "error: the output is not complete: No space left on device; free space\n"
    assert (result.code, result.out, result.err) == (2, "", said)


def test_text_in_no_known_encoding() -> None:
    script = (
        "import sys; from harness.base.terminal import prepare_standard_streams;"
        "prepare_standard_streams(); print(ascii(sys.stdin.read()), '\\udc80\\u2588')"
    )
    result = run(
        ["sh", "-c", 'printf "a\\377b" | "$0" -c "$1"', sys.executable, script],
        env=environment() | {"PYTHONIOENCODING": "utf-8"},
    )
    assert (result.code, result.out, result.err) == (0, "'a\\ufffdb' \\udc80█\n", "")


def test_a_console_of_the_users() -> None:
    """What the trainer prints with goes quiet; the user's own does not."""
    with open("/dev/full", "wb", buffering=0) as full:
        console = Console(file=io.TextIOWrapper(full, write_through=True))
        lasting(console).print("one")
        with pytest.raises(OSError, match="No space left"):
            console.print("two")


def test_progress_moves_in_a_terminal_and_is_printed_now_and_then_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for seconds, expected in ((1e9, ""), (0.0, "10 [bold] rows (0 s)\n20 rows (0 s)\n")):
        monkeypatch.setattr(terminal, "_SECONDS_BETWEEN_LINES", seconds)
        with progress_line(console := Console(file=io.StringIO())) as progress:
            progress("10 [bold] rows")
            progress("20 rows")
        assert cast(io.StringIO, console.file).getvalue() == expected
    with progress_line(console := Console(file=io.StringIO(), force_terminal=True)) as progress:
        progress("10 [bold] rows")
        progress("20 rows")
    shown = cast(io.StringIO, console.file).getvalue()
    assert "20 rows" in shown
    assert "0:00:00" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased


def test_a_markdown_table_shows_any_text_as_it_is() -> None:
    rows = (["1", "a|b\nc"], ["2", "<b>_x_"], ["skipped"])
    head, rule, *shown = markdown_table(("size", "note"), rows).splitlines()
    assert (head, rule) == ("| size | note |", "| ---: | --- |")
    assert shown == ["| 1 | a\\|b c |", "| 2 | &lt;b&gt;\\_x\\_ |", "| skipped |"]
