"""What GitHub shows of a command in a workflow: its job's summary page, and annotations."""

import os
import sys


def step_summary(markdown: str) -> None:
    """Appends Markdown to the summary page of the job; does nothing outside of GitHub's workflows.
    A page that cannot be written is a note on standard error: it is no reason to fail."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{markdown}\n\n")
    except OSError as error:
        print(f"note: no summary on GitHub's page: {path}: {error.strerror}", file=sys.stderr)


def error(title: str, message: str) -> None:
    """Prints an error that GitHub shows beside the job; does nothing outside of GitHub's workflows.
    It goes to standard error, which GitHub reads, too."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        title = _escaped(title).replace(":", "%3A").replace(",", "%2C")
        print(f"::error title={title}::{_escaped(message)}", file=sys.stderr)


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
