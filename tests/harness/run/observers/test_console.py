"""The console's output: through the real rich, on text streams and on a real terminal."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from harness.base.errors import as_command
from harness.run.observers.console import ConsoleObserver
from harness.run.records import Compilation
from tests.harness.run.observers.samples import (
    REPOSITORY,
    choices,
    epoch,
    run_start,
    summary,
    window,
)

CONTROL_CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A console on a text stream, and an observer that writes to it."""

    def __init__(self, *, terminal: bool, tensorboard_dir: Path | None = None) -> None:
        self.stream = io.StringIO()
        self.clock = Clock()
        console = Console(
            file=self.stream, force_terminal=terminal, force_interactive=terminal, width=100
        )
        self.observer = ConsoleObserver(console, tensorboard_dir=tensorboard_dir, clock=self.clock)

    def lines(self) -> list[str]:
        """Returns the lines written since the last call, without control codes."""
        text = CONTROL_CODES.sub("", self.stream.getvalue())
        self.stream.truncate(0)
        self.stream.seek(0)
        return re.split(r"[\r\n]+", text.strip())

    def rows(self) -> dict[str, str]:
        """Returns the lines since the last call as a table of two columns."""
        return dict(re.split(r" {2,}", line, maxsplit=1) for line in self.lines() if "  " in line)


@pytest.fixture
def plain() -> Screen:
    return Screen(terminal=False)


def test_the_start_says_what_is_trained_and_why_so(plain: Screen) -> None:
    plain.observer.tell(run_start(Path("runs/[bold]a b")))
    assert "\x1b" not in plain.stream.getvalue(), "a pipe gets no control code"
    rows = plain.rows()
    data = "synthetic: 40,000 rows for training, 10,000 for testing, 2 classes"
    assert next(iter(rows.items())) == ("data set", data)
    assert rows["token ids"] == "130.2 per row (repeated ids dropped), below 10,000"
    assert rows["steps"] == "160 of 500 rows: 2 epochs of 80"
    assert rows["run folder"] == "runs/[bold]a b"
    for name, choice in choices().items():
        shown = name.replace("_per_", "/").replace("_", " ")
        assert rows[shown] == f"{choice.name} ({choice.why})"


def test_windows_become_lines_in_measure(plain: Screen) -> None:
    plain.observer.tell(run_start(Path("r")))
    plain.lines()
    for number in range(8):
        plain.clock.now += 2
        plain.observer.tell(window(20 * (number + 1)))
    assert plain.lines() == [
        "epoch 1/2  step 60/160  loss 0.4400  accuracy 0.8000  62,500 examples/s",
        "epoch 2/2  step 120/160  loss 0.3800  accuracy 0.8000  62,500 examples/s",
    ]


def test_the_end_is_a_table() -> None:
    screen = Screen(terminal=False, tensorboard_dir=Path("runs/a b/tensorboard"))
    screen.observer.tell(run_start(Path("runs/a b")))
    screen.lines()
    screen.observer.tell(summary(skipped_steps=2))
    rows = screen.rows()
    assert list(rows)[:4] == ["test accuracy", "test macro F1", "test ROC-AUC", "test loss"]
    assert (rows["test accuracy"], rows["data wait"]) == ("0.8850", "2.5%")
    assert rows["steps/s"] == "125.0 in the median window, 120.0 on average"
    assert rows["compilation"] == "1.50 s (1 training program)"
    assert rows["skipped steps"] == "2 (a gradient was not finite)"
    assert rows["curves"] == as_command("tensorboard 'runs/a b/tensorboard'")


def test_an_interrupted_run_shows_dashes_for_what_it_lacks(plain: Screen) -> None:
    plain.observer.tell(run_start(Path("r")))
    plain.lines()
    none: dict[str, Any] = dict.fromkeys(("examples_per_second", "mean_examples_per_second"))
    test = {"accuracy": None, "loss": None}
    plain.observer.tell(summary(**none, test=test, interrupted=True, steps=60))
    first, *lines = plain.lines()
    assert first == "interrupted after step 60 of 160"
    rows = dict(line.split(maxsplit=1) for line in lines[2:])
    assert rows["examples/s"] == "-"
    assert [line.split()[-1] for line in lines[:2]] == ["-", "-"]
    assert "curves" not in rows, "there are no event files"


def test_the_bar_shows_where_the_run_is() -> None:
    screen = Screen(terminal=True)
    screen.observer.tell(run_start(Path("r")))
    screen.clock.now += 3
    screen.observer.tell(window(20))
    shown = screen.lines()[-1]
    assert re.match(
        r"[━┈]+ epoch 1/2  step 20/160  loss 0\.4800 .* examples/s  0:00:21 left", shown
    )
    assert len(shown) < 100
    screen.observer.close()
    assert screen.stream.getvalue() == f"\r{' ' * len(shown)}\r"


def test_the_remaining_time_leaves_out_a_compilation_before_the_start() -> None:
    screen = Screen(terminal=True)
    screen.observer.tell(run_start(Path("r")))
    screen.observer.tell(Compilation(program="training step", capacity=9, seconds=60.0, step=0))
    screen.clock.now += 3
    screen.observer.tell(window(20))
    assert screen.lines()[-1].endswith("0:00:21 left")


def test_a_notebook_gets_a_bar_that_is_redrawn_in_place() -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_jupyter=True)
    observer = ConsoleObserver(console, tensorboard_dir=None, clock=clock)
    observer.tell(run_start(Path("r")))
    for step in (40, 80):
        clock.now += 1
        observer.tell(window(step))
    observer.tell(epoch(80))
    assert "\x1b" not in stream.getvalue()
    redrawn, _, line = stream.getvalue().rstrip("\n").split("\n")[-1].split("\r")[-3:]
    assert re.match(r"[━┈]+ epoch 1/2  step 80/160  loss 0.42", redrawn)
    assert line.startswith("epoch 1/2  step 80/160  loss 0.4400")


SHOWING = """
from pathlib import Path
from rich.console import Console
from harness.run.observers.console import ConsoleObserver
from harness.run.records import Message
from tests.harness.run.observers.samples import epoch, run_start, summary, window
observer = ConsoleObserver(Console(), tensorboard_dir=None)
observer.tell(run_start(Path("r")))
observer.tell(window(80))
observer.tell(epoch(80))
observer.tell(Message(kind="warning", text="w"))
observer.tell(summary())
observer.close()
"""
# What rich takes from the environment is left out, so that the stream alone decides.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in {"FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
} | {"TERM": "xterm-256color"}


def test_a_terminal_gets_a_bar() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", SHOWING],
        stdout=theirs,
        stderr=theirs,
        env=ENVIRONMENT,
        cwd=REPOSITORY,
    ) as process:
        os.close(theirs)
        output = b""
        try:
            while chunk := os.read(ours, 4096):
                output += chunk
        except OSError:
            pass  # Linux says EIO when the last process has left the terminal
        os.close(ours)
    assert process.returncode == 0, output
    assert b"0/160" in output
    assert "┈ epoch 1/2  step 0/160".encode() in output
    assert b"run folder" in output
