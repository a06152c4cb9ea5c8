"""metrics.jsonl as other programs meet it, also after a crash and on a full disk."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest

from harness.base.errors import InputError
from harness.run.observers.jsonl import JsonlObserver
from tests.harness.run.observers.samples import epoch, run_start, window


def lines(run_dir: Path) -> list[dict[str, Any]]:
    content = (run_dir / "metrics.jsonl").read_text()
    assert content == "" or content.endswith("\n")
    return [json.loads(line) for line in content.splitlines()]


def write(run_dir: Path, *steps: int, start_step: int = 0) -> None:
    observer = JsonlObserver()
    observer.tell(run_start(run_dir, start_step=start_step))
    for step in steps:
        observer.tell(window(step))
    observer.close()


def write_two_epochs(run_dir: Path) -> Path:
    """Four windows and an evaluation in each; returns the file."""
    observer = JsonlObserver()
    observer.tell(run_start(run_dir))
    for step in range(20, 180, 20):
        observer.tell(window(step))
        if step % 80 == 0:
            observer.tell(epoch(step))
    observer.close()
    return run_dir / "metrics.jsonl"


def test_a_window_and_an_evaluation_are_a_line_each(tmp_path: Path) -> None:
    observer = JsonlObserver()
    observer.tell(run_start(tmp_path))
    observer.tell(window(80))
    assert len(lines(tmp_path)) == 1, "a line is there as soon as its window is"
    observer.tell(epoch(80))
    observer.close()
    assert lines(tmp_path) == [
        {
            "step": 80,
            "epoch": 0,
            "num_steps": 20,
            "examples": 10_000,
            "tokens": 1_302_000,
            "seconds": 0.16,
            "data_wait_seconds": 0.004,
            "loss": 0.42,
            "accuracy": 0.8,
            "steps_per_second": 125.0,
            "examples_per_second": 62_500.0,
            "skipped_steps": 0,
        },
        {
            "step": 80,
            "epoch": 0,
            "validation_loss": 0.29,
            "validation_accuracy": 0.885,
            "examples": 10_000,
            "seconds": 0.3,
        },
    ]


@pytest.mark.parametrize("torn", ["", '{"step": 60, "epo'])
def test_a_resumed_run_goes_on_after_its_start_and_drops_a_torn_line(
    tmp_path: Path, torn: str
) -> None:
    write(tmp_path, 40, 60, 80, start_step=20)  # the lines before were removed
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    write(tmp_path, 60, 80, 100, start_step=40)
    assert [line["step"] for line in lines(tmp_path)] == [40, 60, 80, 100]


def test_the_evaluation_of_the_step_it_starts_from_is_there_already(tmp_path: Path) -> None:
    before = write_two_epochs(tmp_path).read_bytes()
    observer = JsonlObserver()
    observer.tell(run_start(tmp_path, start_step=160))
    observer.tell(epoch(160))
    observer.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("foreign", ["hello\n", '{"step": "x"}\n'])
def test_a_file_that_no_run_wrote_is_refused_and_left(tmp_path: Path, foreign: str) -> None:
    write(tmp_path, 20)
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write(foreign)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 2 is damaged, or not a record of"):
        JsonlObserver().tell(run_start(tmp_path, start_step=40))
    assert path.read_bytes() == before


def test_a_disk_that_fills_within_a_line_leaves_whole_lines(tmp_path: Path) -> None:
    observer = JsonlObserver()
    observer.tell(run_start(tmp_path))
    observer.tell(window(20))
    path = tmp_path / "metrics.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 30, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            observer.tell(window(40))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    observer.close()
    assert [line["step"] for line in lines(tmp_path)] == [20]
