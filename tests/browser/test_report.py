"""A report as a person sees it on a phone, in a light and in a dark color scheme."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from tests.harness.cli.runs import IMPLEMENTATION, LAYOUT, NETWORK, call

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NUM_CLASSES = 24
LONG_NAME = "comp.sys.ibm.pc.hardware.controllers_and_disks"
WIDTH, MOST_HEIGHT = 390, 12_000  # pixels
SEEN = """() => ({
    width: document.documentElement.scrollWidth,
    height: document.documentElement.scrollHeight,
    background: getComputedStyle(document.body).backgroundColor,
    color: getComputedStyle(document.body).color,
    plotted: getComputedStyle(document.querySelector("main svg text")).fill,
    first: document.querySelector("main > section > h2").textContent,
    text: document.body.innerText,
    without_scope: document.querySelectorAll("th:not([scope])").length,
})"""


@pytest.fixture(scope="module")
def report(logical_devices: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trains on long texts of many classes, one with a long name; returns the report."""
    folder = tmp_path_factory.mktemp("report")
    names = [LONG_NAME, *(f"class {number}" for number in range(1, NUM_CLASSES))]
    lines = (
        f"{' '.join(f'word{n * place % 997}' for place in range(300))},{names[n % NUM_CLASSES]}"
        for n in range(40 * NUM_CLASSES)
    )
    (folder / "texts.csv").write_text("\n".join(["text,label", *lines]))
    flags = ("--recipe", "tutorial", "--precision", "float32", "--epochs", 2, "--report", "on")
    settings = (*NETWORK, *LAYOUT, *IMPLEMENTATION, "--profile-steps", 8, 12)
    data, run = folder / "texts.csv", folder / "run"
    result = call("train", "--data", data, "--run-dir", run, *settings, *flags)
    assert result.code == 0, result
    return run / "report.html"


def seen(browser: "Browser", report: Path, scheme: Literal["light", "dark"]) -> dict[str, Any]:
    page = browser.new_page(viewport={"width": WIDTH, "height": 844}, color_scheme=scheme)
    page.goto(report.as_uri())
    found: dict[str, Any] = page.evaluate(SEEN)
    page.close()
    return found


def test_it_fits_a_phone_in_both_color_schemes(browser: "Browser", report: Path) -> None:
    light, dark = (seen(browser, report, scheme) for scheme in ("light", "dark"))
    for found in (light, dark):
        assert found["width"] <= WIDTH
        assert found["height"] <= MOST_HEIGHT
        assert found["first"] == "Throughput"
        assert found["without_scope"] == 0
        assert LONG_NAME in found["text"]
        assert found["plotted"] == found["color"], "a plot has the page's color"
    for part in ("background", "color"):
        assert light[part] != dark[part]
    assert "Where the time of a profiled step goes" in report.read_text()
