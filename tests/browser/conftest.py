"""Debian's Chromium, for tests of pages."""

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="needs Playwright, of the extra `test`"
    )
    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with (
        sync_api.sync_playwright() as playwright,
        # Root, as in CI, may not have Chromium's sandbox; it only sees our own pages.
        playwright.chromium.launch(executable_path=path, args=["--no-sandbox"]) as browser,
    ):
        yield browser
