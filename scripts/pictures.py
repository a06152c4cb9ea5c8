"""Takes README's pictures of TensorBoard from a real run, in Debian's Chromium.

.venv/bin/python scripts/pictures.py
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, Route, sync_playwright

_ROOT = Path(__file__).resolve().parent.parent
_SCALARS = _ROOT / "docs" / "scalars.png"
_PROFILE = _ROOT / "docs" / "profile.png"
_TRAIN = ("--epochs", "6", "--steps-per-dispatch", "5", "--profile-steps", "40", "45")
_MOST_BYTES = 200_000


def _harness(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "harness", *arguments]


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The address of TensorBoard over `folder`."""
    process = subprocess.Popen(
        _harness("tensorboard", str(folder), "--port", "0"),
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None, "TensorBoard did not start"
        yield found[0]
    finally:
        process.terminate()
        process.communicate()


def _as_in_runs(route: Route) -> None:
    """The folder is a temporary one; a reader's has a name like this."""
    route.fulfill(json={**route.fetch().json(), "data_location": "runs/a"})


def _take_scalars(page: Page, board: str) -> None:
    page.goto(f"{board}#custom_scalars")
    page.get_by_text("examples/s", exact=True).wait_for()
    page.get_by_text("Matches").first.wait_for()
    for chart in page.locator("vz-line-chart2").all():
        chart.hover()  # the axes fit the data once it is drawn
    page.mouse.move(1_450, 740)
    page.wait_for_timeout(2_000)
    page.screenshot(path=_SCALARS)


def _take_profile(page: Page, board: str) -> None:
    page.goto(f"{board}#profile")
    frame = page.frame_locator("iframe")
    frame.locator("mat-select", has_text="Overview Page").click()
    frame.locator("mat-option", has_text="Trace Viewer").click()
    viewer = frame.frame_locator("iframe")
    viewer.locator(".process-track-name", has_text="/host:CPU").wait_for()
    page.wait_for_timeout(3_000)  # until it has drawn what it got
    page.screenshot(path=_PROFILE)


def main() -> None:
    chromium = shutil.which("chromium")
    assert chromium is not None, "needs Chromium (Debian: apt-get install chromium)"
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary) / "a"
        command = _harness("train", *_TRAIN, "--run-dir", str(folder))
        subprocess.run(command, cwd=_ROOT, check=True)
        with _served(folder.parent) as board:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            for take in (_take_scalars, _take_profile):
                page = browser.new_page(viewport={"width": 1500, "height": 760})
                page.route("**/data/environment", _as_in_runs)
                take(page, board)
                page.close()
            browser.close()
    for path in (_SCALARS, _PROFILE):
        assert path.stat().st_size < _MOST_BYTES, f"{path} is too large for README"


if __name__ == "__main__":
    main()
