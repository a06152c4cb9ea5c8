"""TensorBoard as a person sees it: the charts it opens on, curves, a run's settings, a profile."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.cli.runs import records

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright, of the extra `test`"
)

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Page

RUN = "run"
SEVERAL = re.compile(r"^0 of (8|[1-9]\d+)$")
"""The number of matches for the eight profiled steps; the end of a step is an event as well."""


def windows(folder: Path) -> list[dict[str, Any]]:
    return [record for record in records(folder) if "num_steps" in record]


def test_scalar_charts(page: "Page", board: str, run_folder: Path) -> None:
    tag = "train/loss"
    page.goto(f"{board}#scalars")
    with page.expect_response(
        lambda answer: "scalars_multirun" in answer.url and tag in (answer.request.post_data or "")
    ) as answer:
        page.locator("tf-tag-filterer input").fill(f"^{tag}$")
    drawn = json.loads(answer.value.text())[RUN]
    expected = windows(run_folder)
    assert [point[1] for point in drawn] == [record["step"] for record in expected]
    assert [p[2] for p in drawn] == pytest.approx([r["loss"] for r in expected], rel=1e-6)

    # Drawn, not only sent: the point nearest to the pointer is named, with its step.
    page.locator("tf-runs-selector input").first.fill(f"^{RUN}$")
    chart = page.locator("tf-scalar-card", has=page.get_by_text(f"tag: {tag}")).first
    tooltip = page.locator("table:visible", has_text="Smoothed")
    shown = ""
    for attempt in range(500):  # the line is drawn after the answer, and the chart may move
        box = chart.locator("vz-line-chart2").bounding_box()
        assert box is not None
        across, down = 0.3 + 0.05 * (attempt % 12), 0.2 + 0.05 * (attempt % 13)
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"], steps=5)
        shown = " ".join(tooltip.all_inner_texts())
        if RUN in shown:
            break
        page.wait_for_timeout(100)
    assert RUN in shown
    assert any(re.search(rf"\b{record['step']}\b", shown) for record in expected), shown


def test_it_opens_on_loss_accuracy_and_throughput(page: "Page", board: str) -> None:
    page.goto(board)
    for title in ("loss", "accuracy", "throughput, examples/s", "data wait, share of the time"):
        page.get_by_text(title, exact=True).wait_for()
    some = re.compile(r"Matches \([1-9]\)")  # no chart is empty: there is no GPU, and none of it
    sync_api.expect(page.get_by_text("Matches")).to_have_text([some] * 4)


def opened(page: "Page", board: str) -> "FrameLocator":
    """Opens the first of the profiler's pages, which are in a frame."""
    page.goto(f"{board}#profile")
    frame = page.frame_locator("iframe")
    frame.get_by_text("Overview Page").wait_for()
    return frame


def test_trace_viewer(page: "Page", board: str, implementation: str) -> None:
    frame = opened(page, board)
    frame.locator("mat-select", has_text="Overview Page").click()
    frame.locator("mat-option", has_text="Trace Viewer").click()
    viewer = frame.frame_locator("iframe")
    viewer.locator(".process-track-name", has_text="/host:CPU").wait_for()
    viewer.get_by_text("python", exact=True).first.wait_for()
    # A dispatch is found by its marker, and operations of the compiled program by their name.
    names = [("train 8", "0 of 1"), ("MatMul", SEVERAL)]
    if implementation == "native":
        names += [(f"multi_hot_{kernel}", SEVERAL) for kernel in ("forward", "backward")]
    for name, found in names:
        viewer.get_by_placeholder("Find Events...").fill(name)
        sync_api.expect(viewer.locator("#hitCount")).to_have_text(found)
