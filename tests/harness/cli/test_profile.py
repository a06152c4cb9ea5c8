"""`harness profile`: a real capture, and its step times beside those of xprof."""

import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from harness.run.profiling.profiler import STEP_MARKER, Capture, ProfilerObserver
from harness.run.profiling.report import print_profile
from harness.run.profiling.step_times import Event, StepTimes, divide, read
from kernels.multi_hot.native.build import NativeUnavailableError
from kernels.multi_hot.native.library import load
from tests.harness.cli.runs import (
    CORPUS,
    NETWORK,
    REPOSITORY,
    SMALL,
    Result,
    call,
    command_line,
    environment,
    run,
)
from tests.harness.run.profiling.gpu_trace import write_as_of_gpu

STEPS = 20
OVERVIEW = """
import sys
from xprof.convert import raw_to_tool_data
options = {"use_saved_result": False}
page, _ = raw_to_tool_data.xspace_to_tool_data(sys.argv[1:], "overview_page", options)
print(page.decode() if isinstance(page, bytes) else page)
"""


def native() -> tuple[str, ...]:
    try:
        load()
    except NativeUnavailableError as error:
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
    flags = (
        "--steps",
        STEPS,
        "--warm-up",
        "12",
        "--steps-per-dispatch",
        "4",
        "--batch-size",
        "100",
    )
    result = call("profile", *CORPUS, *NETWORK, *native(), *flags, "--profile-dir", folder)
    assert result.code == 0, result
    (path,) = profiles(folder)
    return path, result


@pytest.fixture(scope="module")
def events(profiled: tuple[Path, Result]) -> list[Event]:
    return read(profiled[0])


@pytest.fixture(scope="module")
def times(events: list[Event]) -> StepTimes:
    return divide(events)


def overview_ms(path: Path) -> dict[str, float]:
    """Milliseconds by step, such as `train 12`, of the overview page, in a process without
    TensorFlow."""
    done = subprocess.run(
        [sys.executable, "-c", OVERVIEW, str(path)], capture_output=True, text=True, check=True
    )
    for table in json.loads(done.stdout):
        labels = [column["label"] for column in table.get("cols", ())]
        if "Step time" in labels:
            cells = [[cell["v"] for cell in row["c"]] for row in table["rows"]]
            return {
                row[labels.index("Step number")]: row[labels.index("Step time")] for row in cells
            }
    return {}


def test_the_parts_add_up_to_the_step_time(
    profiled: tuple[Path, Result], events: list[Event], times: StepTimes
) -> None:
    # TensorBoard's overview page of the same steps; its step is a dispatch of four, and it leaves
    # out those that it finds incomplete.
    overview = overview_ms(profiled[0])
    markers = sorted((e for e in events if e.name == STEP_MARKER), key=lambda e: e.start_ns)
    left_out = [
        event
        for step, event in zip(range(12, 32, 4), markers, strict=True)
        if f"train {step}" not in overview
    ]
    assert len(left_out) < len(markers)
    shown = divide([event for event in events if event not in left_out])
    assert sum(shown.parts.values()) == pytest.approx(sum(overview.values()), rel=0.05)

    # And in the terminal, where figures are rounded to a microsecond.
    rows = re.findall(r"^ +([a-z][a-z, -]+?) +([\d.]+) +[\d.]+% ", profiled[1].out, re.MULTILINE)
    printed = {name: float(ms) for name, ms in rows}
    in_all = printed.pop("in all")
    parts = [ms for name, ms in printed.items() if name in times.parts]
    assert sum(parts) == pytest.approx(in_all, abs=0.001 * len(parts))
    assert in_all == pytest.approx(sum(times.parts.values()) / STEPS, abs=0.001)


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
    assert {event.name for event in events} >= {"train", "waiting for batches"}


def test_what_is_said(profiled: tuple[Path, Result]) -> None:
    path, result = profiled
    assert "profiled       20 steps, 12 to 32, in 5 dispatches (always whole" in result.out
    assert result.out.count("the 10 most expensive operations") == 1
    assert result.out.count("compiled training step") == 1
    assert f"harness tensorboard {path.parents[3]}" in result.out
    assert result.err == ""


def test_a_program_from_the_persistent_cache_has_lost_its_scopes(tmp_path: Path) -> None:
    flags = ["--steps", 4, "--warm-up", 4, "--steps-per-dispatch", 4, "--batch-size", 100]
    flags += ["--implementation", "gather"]  # measuring comes to another program the first time
    cache = tmp_path / "cache"
    env = environment() | {"TF_XLA_FLAGS": f"--tf_xla_persistent_cache_directory={cache}"}
    results = [
        run(
            command_line("profile", *CORPUS, *NETWORK, *flags, "--profile-dir", tmp_path / name),
            env=env,
        )
        for name in ("fills", "reads")
    ]
    assert len(list(cache.iterdir())) >= 1
    filled, read_from = results
    assert (filled.code, filled.err) == (0, "")
    assert "persistent cache" not in filled.out
    assert "drops them: profile without" in " ".join(read_from.out.split())
    assert read_from.code == 1


def test_several_replicas(tmp_path: Path) -> None:
    """Replicas on a CPU are shares of a batch in one program, which need not exchange anything."""
    flags = ("--replicas", "2", "--steps", "8", "--warm-up", "0", "--profile-dir", tmp_path)
    result = call("profile", *SMALL, *flags)
    assert result.code == 0, result
    assert "profiled       8 steps, 0 to 8, in 2 dispatches" in result.out
    assert re.search(r"replicas +2 \(", result.out)
    found = divide(read(*profiles(tmp_path)))
    assert found.parts["all-reduce"] == 0
    assert found.parts["optimizer"] > 0
    assert sum(found.parts.values()) == pytest.approx(found.ms)


def test_a_gpu_that_is_not_in_the_trace(profiled: tuple[Path, Result]) -> None:
    # What a GPU's profile looks like where CUPTI was refused: the host's events alone.
    console = Console(file=io.StringIO(), width=80)
    profiler = ProfilerObserver(profiled[0].parents[3], first=12, last=32)
    profiler.capture = Capture(path=profiled[0], first_step=12, last_step=32, num_dispatches=5)
    assert not print_profile(profiler, console, on_gpu=True)
    assert "NVreg_RestrictProfilingToAdminUsers=0" in out_of(console)


def test_operations_on_a_gpus_streams_are_divided_like_those_on_the_cpu(
    profiled: tuple[Path, Result], times: StepTimes, tmp_path: Path
) -> None:
    path = tmp_path / "of_gpu" / "host.xplane.pb"
    write_as_of_gpu(profiled[0], path)
    found = divide(read(path))
    assert found.on_gpu
    assert found.parts == pytest.approx(times.parts)
    assert [found[:2] for found in found.operations] == [one[:2] for one in times.operations]


def test_ctrl_c_keeps_what_was_captured(tmp_path: Path) -> None:
    flags = ("--steps", "1000000", "--warm-up", "0", "--profile-dir", tmp_path)
    process = subprocess.Popen(
        command_line("profile", *SMALL, *flags),
        cwd=REPOSITORY,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("compiled training step"):
            process.send_signal(signal.SIGINT)  # the dispatch that was compiled for is trained
            break
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 130, out
    assert re.search(r"profiled +\d+ steps, 0 to \d+, in ", out), out
    assert len(profiles(tmp_path)) == 1
