"""A report in Debian's Chromium, as a phone and a desk show it."""

import shutil
from pathlib import Path

import pytest

from tests.harness.cli.runs import IMPLEMENTATION, NETWORK, call

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
WIDTH, MOST_HEIGHT = 390, 12_000
SIZE = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
COLORS = (
    "[getComputedStyle(document.body).color, matchMedia('(prefers-color-scheme: dark)').matches]"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run on long texts of many classes."""
    folder = tmp_path_factory.mktemp("report")
    words = [f"word{n}{'long' * (n % 9)}" for n in range(300)]
    lines = ["text,label"]
    for n in range(600):
        text = " ".join(words[(7 * n + k * k) % 300] for k in range(120))
        lines.append(f"{text} mark{n % 23},a class with the number {n % 23}")
    data, run = folder / "texts.csv", folder / "run"
    data.write_text("\n".join(lines))
    how = ("--recipe", "tutorial", "--epochs", "2", "--batch-size", "50")
    done = call("train", "--data", data, "--run-dir", run, *how, *NETWORK, *IMPLEMENTATION)
    assert done.code == 0, done.err
    assert call("report", run).code == 0
    return run / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(report: Path, scheme: str) -> None:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 844}, color_scheme=scheme)
        page.goto(report.as_uri())
        width, height = page.evaluate(SIZE)
        assert width <= WIDTH
        assert height <= MOST_HEIGHT
        assert page.locator("main section h2").first.inner_text() == "Throughput"
        assert page.locator("th:not([scope])").count() == 0
        text, is_dark = page.evaluate(COLORS)
        assert (text == "rgb(255, 255, 255)") == is_dark == (scheme == "dark")
        plotted = page.locator("svg text").first.evaluate("e => getComputedStyle(e).fill")
        assert plotted == text, "a plot has the page's color"
        browser.close()
