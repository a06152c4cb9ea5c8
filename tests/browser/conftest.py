"""The fixtures of the tests in a browser, each made once: a run with a profile,
TensorBoard over it, and Debian's Chromium, driven by Playwright."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kernels.multi_hot.native.build import NativeUnavailableError
from kernels.multi_hot.native.library import load
from tests.harness.cli.runs import (
    CORPUS,
    LAYOUT,
    NETWORK,
    REPOSITORY,
    call,
    command_line,
    environment,
)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PROFILED_STEPS = "8:16"
PATIENCE_MS = 300_000


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """Starts a headless Chromium; skips the test without it or Playwright."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs Playwright, of the extra `test`"
    )
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    sync_api.expect.set_options(timeout=PATIENCE_MS)
    with sync_api.sync_playwright() as playwright:
        # Root, as in CI, may not have Chromium's sandbox; it only sees our own pages.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def implementation() -> str:
    """Returns the native implementation if available, so that tests can look for its names."""
    try:
        load()
    except NativeUnavailableError:
        return "gather"
    return "native"


@pytest.fixture(scope="session")
def run_folder(
    browser: "Browser",
    logical_devices: list[str],
    implementation: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Returns the folder of a run of 32 steps in windows of 4, two of them profiled."""
    folder = tmp_path_factory.mktemp("browser") / "run"
    flags = ("--precision", "float32", "--run-dir", folder, "--profile-steps", PROFILED_STEPS)
    layout = (*LAYOUT, "--implementation", implementation)
    result = call("train", *CORPUS, *NETWORK, *layout, *flags)
    assert result.code == 0, result
    return folder


@pytest.fixture(scope="session")
def board(run_folder: Path) -> Iterator[str]:
    """Starts `harness tensorboard` over the run; yields its address."""
    process = subprocess.Popen(
        command_line("tensorboard", run_folder.parent, "--port", "0"),
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found, process.wait(timeout=600)
    yield found[0]
    process.terminate()
    assert process.wait(timeout=600) == 0
    process.stdout.close()


@pytest.fixture
def page(browser: "Browser", board: str) -> Iterator["Page"]:
    """Opens a new page, for addresses under `board`."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    yield page
    page.close()
