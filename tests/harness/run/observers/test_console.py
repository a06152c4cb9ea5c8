"""The console's output: through the real rich, on text streams and on a real terminal."""

import dataclasses
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from harness.base.errors import as_command
from harness.run.observers.console import ConsoleObserver
from harness.run.records import Choice, Compilation
from tests.harness.run.observers.samples import (
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

    def __init__(
        self, *, terminal: bool, tensorboard_dir: Path | None = None, width: int = 100
    ) -> None:
        self.stream = io.StringIO()
        self.clock = Clock()
        console = Console(
            file=self.stream, force_terminal=terminal, force_interactive=terminal, width=width
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
        if name != "precision_watch":
            assert rows[shown] == f"{choice.name} ({choice.why})"
    assert rows["gradient checks"] == "off (not needed in float32)"


def test_windows_become_lines_in_measure(plain: Screen) -> None:
    plain.observer.tell(run_start(Path("r")))
    plain.lines()
    plain.observer.tell(run_start(Path("r"), start_step=80))
    steps = "160 of 500 rows: 2 epochs of 80; resumed after step 80"
    assert plain.rows()["steps"] == steps
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
    gpus = {"utilization_percent": 87.4, "memory_peak_bytes": 3 * 2**29, "power_watts": 251.0}, {}
    screen.observer.tell(summary(skipped_steps=2, gpus=gpus))
    rows = screen.rows()
    assert list(rows)[:3] == ["examples/s", "steps/s", "step time, ms"]
    quality = [name for name in rows if name.startswith("test ")]
    assert quality == ["test accuracy", "test macro F1", "test ROC-AUC", "test loss"]
    assert list(rows).index("GPU 1") < list(rows).index("test accuracy")
    assert rows["GPU 0"] == "87 % busy, 1.50 GiB at most, 251 W"
    assert rows["GPU 1"] == "no samples"
    assert (rows["test accuracy"], rows["data wait"]) == ("0.8850", "2.5%")
    assert rows["steps/s"] == "125.0 (median), 120.0 (mean)"
    assert rows["compilation"] == "1.50 s (1 training program)"
    assert rows["skipped steps"] == "2 (a gradient was not finite)"
    assert rows["curves"] == as_command("tensorboard 'runs/a b/tensorboard'")


def test_the_bar_shows_where_the_run_is() -> None:
    screen = Screen(terminal=True)
    screen.observer.tell(run_start(Path("r")))
    # It does not count for the time that is left.
    screen.observer.tell(Compilation(program="training step", capacity=9, seconds=60.0, step=0))
    screen.clock.now += 3
    screen.observer.tell(window(20))
    shown = screen.lines()[-1]
    assert re.match(
        r"[━┈]+ epoch 1/2  step 20/160  loss 0\.4800 .* examples/s  0:00:21 left", shown
    )
    assert len(shown) < 100
    screen.observer.close()
    assert screen.stream.getvalue() == f"\r{' ' * len(shown)}\r"


def test_a_narrow_terminal_loses_nothing() -> None:
    long = Choice(name="native", why=f"chosen without measuring: {'dense needs a matrix; ' * 6}end")
    start = run_start(Path("a folder " * 12), epochs=10, choices=choices(implementation=long))
    for width, kept in ((80, "loss 0.4600  "), (50, "")):
        screen = Screen(terminal=True, width=width)
        screen.observer.tell(start)
        lines = screen.lines()
        first = next(n for n, line in enumerate(lines) if line.startswith("implementation  "))
        wrapped = [line[17:] for line in lines[first : first + 9] if line[17:] and line[0] == " "]
        assert len(wrapped) > 1
        assert " ".join([lines[first][17:], *wrapped]) == f"native ({long.why})"
        assert max(map(len, lines[first:-2])) <= width
        assert f"run folder       {start.run_dir}" in lines, "a path is copied"
        screen.clock.now += 3
        screen.observer.tell(dataclasses.replace(window(40), examples=4_000_000))
        shown = screen.lines()[-1]
        assert len(shown) < width
        assert re.search(rf"epoch 1/10  {kept}.*,000 examples/s  0:00:57 left$", shown), shown

    tiny = Screen(terminal=True, width=20)
    tiny.observer.tell(start)
    tiny.clock.now += 3
    tiny.observer.tell(window(40))
    assert len(tiny.lines()[-1]) == 19


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
