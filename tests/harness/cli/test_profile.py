"""`harness profile`: a real capture, and its step times."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from harness.run.profiling import Event, ProfilerObserver, StepTimes, divide, print_profile, read
from kernels.multi_hot.native.build import load
from kernels.multi_hot.registry import UnavailableError
from tests.harness.cli.runs import (
    CORPUS,
    LAYOUT,
    NETWORK,
    Result,
    call,
)

STEPS = 20


def native() -> tuple[str, ...]:
    try:
        load()
    except UnavailableError as error:
        pytest.skip(f"needs the native kernels: {error}")
    return ("--implementation", "native")


def out_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def profiles(folder: Path) -> list[Path]:
    return sorted(folder.glob("plugins/profile/*/*.xplane.pb"))


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Returns the file of a profile of 20 steps with the native kernels, and the command's
    result."""
    folder = tmp_path_factory.mktemp("profiled")
    layout = ("--warm-up", "12", "--steps-per-dispatch", "4", "--batch-size", "100")
    flags = ("--steps", STEPS, *layout)
    result = call("profile", *CORPUS, *NETWORK, *native(), *flags, "--run-dir", folder)
    assert result.code == 0, result
    (path,) = profiles(folder)
    return path, result


@pytest.fixture(scope="module")
def events(profiled: tuple[Path, Result]) -> list[Event]:
    return read(profiled[0])


@pytest.fixture(scope="module")
def times(events: list[Event]) -> StepTimes:
    return divide(events)


def test_every_part_has_its_time(times: StepTimes) -> None:
    without = {part for part, ms in times.parts.items() if ms == 0}
    assert without <= {"all-reduce", "other operations"}
    # Gradients stand outside all scopes unless they open one.
    products = {
        part
        for name, part, _ in times.operations
        if name.startswith(("multi_hot", "MatMul", "dot"))
    }
    assert "other operations" not in products
    assert len(products) == 5  # the input's rows; each layer forward and backward


def test_the_report_names_the_profiled_steps(profiled: tuple[Path, Result]) -> None:
    path, result = profiled
    assert "20 optimizer steps, 12 to 32, in 5 dispatches (always whole" in result.out
    page = r"\(a step on TensorBoard's Profile page is a dispatch of 4 optimizer steps\)"
    assert re.search(rf"step time +\d+\.\d+ ms {page}", result.out)
    assert f"harness tensorboard {path.parents[3]}\n" in result.out


def test_native_kernels_appear_by_name(
    profiled: tuple[Path, Result], events: list[Event], times: StepTimes
) -> None:
    for kernel, part in (
        ("multi_hot_take_rows", "input"),
        ("multi_hot_forward", "first layer, forward"),
        ("multi_hot_backward", "first layer, backward"),
    ):
        (found,) = (part for name, part, _ in times.operations if name.startswith(f"{kernel}."))
        assert found == part
        assert sum(event.name.startswith(f"{kernel}.") for event in events) == STEPS
        assert re.search(rf"{kernel}\.\d+ +[\d.]+ +[\d.]+% +{part} ", profiled[1].out)
    assert {event.name for event in events} >= {"optimizer steps from", "waiting for batches"}


def test_a_run_is_profiled_without_a_stop(tmp_path: Path) -> None:
    flags = ("--profile-steps", 5, 13, "--epochs", 1, "--run-dir", tmp_path, *LAYOUT)
    result = call("train", *CORPUS, *NETWORK, *native(), *flags)
    assert result.code == 0, result
    assert "note: the steps 8 to 16 were profiled" in result.out
    (path,) = profiles(tmp_path)
    found = [event.name.split(".")[0] for event in read(path)]
    assert found.count("multi_hot_forward") == 8
    assert found.count("optimizer steps from") == 2


def test_a_gpu_that_is_not_in_the_trace(profiled: tuple[Path, Result]) -> None:
    # What a GPU's profile looks like where CUPTI was refused: the host's events alone.
    console = Console(file=io.StringIO(), width=80)
    profiler = ProfilerObserver(profiled[0].parents[3], 12, 20)
    profiler.path, profiler.first_step, profiler.last_step = profiled[0], 12, 32
    assert not print_profile(profiler, console, on_gpu=True)
    assert "NVreg_RestrictProfilingToAdminUsers=0" in out_of(console)
    assert "training replays CUDA graphs" in out_of(console)
