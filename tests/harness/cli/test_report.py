"""`harness report` and `train --report on`."""

import re
import shutil
from pathlib import Path

from tests.harness.cli.runs import SMALL, call, summary


def test_a_run_gets_its_report(trained_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained_folder, folder)
    result = call("report", folder)
    assert (result.code, result.err) == (0, "")
    assert f"report written to {folder / 'report.html'}" in result.out
    page = (folder / "report.html").read_text()
    assert f"{summary(folder)['test_roc_auc']:.4g}" in page
    assert "examples/s, median" in page
    assert re.search(r"repeat it</th><td.*harness train --synthetic-rows", page)
    assert page.count("</svg>") >= 4  # loss, accuracy, ROC and precision-recall
    # What the command of a killed job does when it is repeated: all but the report is there.
    (folder / "report.html").unlink()
    flags = ("--precision", "float32", "--run-dir", folder, "--resume", "--report", "on")
    result = call("train", *SMALL, *flags)
    assert (result.code, result.err) == (0, "")
    assert "nothing is left to do" in result.out
    assert (folder / "report.html").exists()


def test_what_is_no_run_has_no_report(tmp_path: Path) -> None:
    for name, message in (("missing", "is not a folder"), ("", "no model at")):
        result = call("report", tmp_path / name)
        assert (result.code, result.out) == (2, "")
        assert message in result.err
