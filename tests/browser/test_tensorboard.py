"""TensorBoard as a person sees it, in Debian's Chromium: the order and the names of what its pages
show, charts that have data, and the profile of a run."""

import re
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from kernels.multi_hot.native.build import find_compiler
from tests.harness.cli.runs import (
    CORPUS,
    LAYOUT,
    REPOSITORY,
    call,
    command_line,
    environment,
)
from tests.harness.run.observers.test_tensorboard_pages import write_run

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright, of the extra `test`"
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE_MS = 300_000
SEVERAL = re.compile(r"^0 of (8|[1-9]\d+)$")
"""The number of matches for the eight profiled steps; the end of a step is an event as well."""
IMPLEMENTATION = "gather" if find_compiler() is None else "native"


@pytest.fixture(scope="module")
def board(
    browser: "Browser", logical_devices: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, "Page"]]:
    """Starts `harness tensorboard` over a run of 32 steps in dispatches of 4, two of them profiled,
    and one with two GPUs; yields its address, and a page of the browser."""
    folder = tmp_path_factory.mktemp("browser") / "run"
    # A product of two hidden layers is an operation that the trace names.
    network = (*CORPUS, "--hidden-units", "8", "8", *LAYOUT, "--implementation", IMPLEMENTATION)
    flags = ("--histograms", 1, "--profile-steps", 8, 16, "--precision", "float32")
    result = call("train", "--run-dir", folder, *network, *flags)
    assert result.code == 0, result
    write_run(folder.with_name("gpus"), num_gpus=2)
    sync_api.expect.set_options(timeout=PATIENCE_MS)
    with subprocess.Popen(
        command_line("tensorboard", folder.parent, "--port", "0"),
        cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, process.wait(timeout=600)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        yield found[0], page
        process.terminate()
        assert process.wait(timeout=600) == 0


def test_it_opens_on_learning_throughput_and_gpus(board: tuple[str, "Page"]) -> None:
    address, page = board
    page.goto(address)
    view = page.locator("tf-custom-scalar-dashboard")
    expect = sync_api.expect
    expect(view.locator(".category-name")).to_have_text(["Learning", "Throughput", "GPUs"])
    charts = [
        *("loss", "accuracy", "learning rate", "gradient norm"),
        *("examples/s", "step time, ms", "data wait, share of the time"),
        *("utilization, %", "memory, GiB", "power, W"),
    ]
    expect(view.locator(".heading-label")).to_have_text(charts)
    some = re.compile(r"Matches \([1-9]\)")  # no chart is empty
    expect(view.get_by_text("Matches")).to_have_text([some] * len(charts))


def test_curves_of_the_training_come_before_those_of_gpus(board: tuple[str, "Page"]) -> None:
    address, page = board
    page.goto(f"{address}#scalars")
    groups = ["precision", "test", "throughput", "train", "validation"]
    groups += ["~gpu", "~host", "~summary"]
    found = page.locator("tf-scalar-dashboard .category-name")
    sync_api.expect(found).to_have_text(groups)


def test_hparams_begin_with_what_decides_throughput(board: tuple[str, "Page"]) -> None:
    address, page = board
    page.goto(f"{address}#hparams")
    settings = ["batch size", "precision", "implementation", "replicas", "learning rate"]
    shown = ["Trial ID", "Show Metrics", *settings, "examples/s", "step ms"]
    cells = page.locator("tf-hparams-table-view vaadin-grid-cell-content")
    for place, name in enumerate(shown):
        sync_api.expect(cells.nth(place)).to_have_text(name)


def test_settings_are_a_table_with_reasons(board: tuple[str, "Page"]) -> None:
    address, page = board
    page.goto(f"{address}#text")
    rows = page.locator("tf-text-dashboard tr", has=page.get_by_text("implementation", exact=True))
    cells = rows.filter(has_text="asked for").locator("td")
    sync_api.expect(cells).to_have_text(["implementation", IMPLEMENTATION, "asked for"])


def test_the_profile_of_a_run_opens(board: tuple[str, "Page"]) -> None:
    address, page = board
    page.goto(f"{address}#profile")
    frame = page.frame_locator("iframe")
    frame.get_by_text("Overview Page").wait_for()
    frame.get_by_text("A step on these pages is a dispatch of 4 optimizer steps").wait_for()
    frame.locator("mat-select", has_text="Overview Page").click()
    frame.locator("mat-option", has_text="Trace Viewer").click()
    viewer = frame.frame_locator("iframe")
    viewer.locator(".process-track-name", has_text="/host:CPU").wait_for()
    viewer.get_by_text("python", exact=True).first.wait_for()
    # A dispatch is found by its marker, and operations of the compiled program by their name.
    names = [("optimizer steps from 8", "0 of 1"), ("MatMul", SEVERAL)]
    if IMPLEMENTATION == "native":
        names += [(f"multi_hot_{kernel}", SEVERAL) for kernel in ("forward", "backward")]
    for name, found in names:
        viewer.get_by_placeholder("Find Events...").fill(name)
        sync_api.expect(viewer.locator("#hitCount")).to_have_text(found)
