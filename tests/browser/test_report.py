"""The report as a browser shows it: every section and picture, and nothing of a text that runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.data import store, vocabulary
from harness.data.ragged import RaggedSets
from harness.data.vocabulary import Vocabulary
from tests.harness.cli.runs import call

if TYPE_CHECKING:
    from playwright.sync_api import Browser

EVIL = "<script>document.title='hit'</script>"
HEADINGS = [
    *("Run", "Learning curves", "ROC and precision-recall", "Calibration", "Confusion"),
    *("Throughput", "Words", "Mistakes"),
]


def save_texts(folder: Path) -> None:
    """Saves rows whose words and classes are HTML."""
    rng = np.random.default_rng()
    labels = rng.integers(0, 2, 400, dtype=np.int32)
    ids = 2 * rng.integers(0, 20, [400, 5]) + (labels[:, None] ^ (rng.random([400, 5]) < 0.3))
    sets = RaggedSets(
        values=ids.reshape(-1),
        row_splits=np.arange(401) * 5,
        labels=labels,
        num_tokens=40,
        name=EVIL,
    )
    store.save(sets, folder, held_out_rows=100)
    words = {f"<img src=x onerror=\"document.title='{token}'\">": token for token in range(40)}
    names = (EVIL, '"><b onclick="x">$')
    Vocabulary(ids=words, num_tokens=40, class_names=names).save(folder / vocabulary.FILE_NAME)


def test_the_report(browser: "Browser", logical_devices: list[str], tmp_path: Path) -> None:
    save_texts(tmp_path / "data")
    flags = ("--batch-size", "50", "--hidden-units", "4", "--dropout", "0", "--report", "on")
    folder = tmp_path / "run"
    result = call("train", "--data", tmp_path / "data", *flags, "--run-dir", folder)
    assert (result.code, result.err) == (0, "")

    page = browser.new_page()
    problems: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((folder / "report.html").as_uri())
    assert page.title() == "run"  # as it was
    assert page.locator("h2").all_inner_texts() == HEADINGS
    assert page.locator("script, b, [onerror], [onclick]").count() == 0
    images = page.locator("img")
    assert images.count() == 4
    sizes = images.evaluate_all("all => all.map(one => one.complete && one.naturalWidth)")
    assert all(size > 100 for size in sizes), sizes
    text = page.locator("body").inner_text()
    assert EVIL in text
    assert "<img src=x onerror=" in text
    assert not problems
    assert [url for url in requests if not url.startswith("data:")] == [page.url]
    page.close()
