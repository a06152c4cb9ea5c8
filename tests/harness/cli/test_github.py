"""What a workflow of GitHub reads: by files and lines of the forms that it documents."""

from pathlib import Path

import pytest

from harness.cli import github


def test_an_error_is_one_line_whatever_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    github.error("title", "not shown")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    github.error("smoke: a, b", "50%\r\n::x")
    expected = "::error title=smoke%3A a%2C b::50%25%0D%0A::x\n"
    assert capsys.readouterr() == ("", expected)


def test_the_summary_grows_and_a_page_that_cannot_be_written_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    github.step_summary("a")
    github.step_summary("b")
    assert page.read_text() == "a\n\nb\n\n"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    github.step_summary("c")
    assert f"note: no summary on GitHub's page: {tmp_path}: Is a dir" in capsys.readouterr().err
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    github.step_summary("d")
    assert capsys.readouterr() == ("", "")
