"""Information stays off the terminal; errors come through, also when the import fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


def stderr_of(inside: str, *, code: int = 0) -> str:
    script = (
        "import os, sys\nfrom harness.base.quiet import quiet_import\n"
        f"with quiet_import():\n    {inside}\n"
        "os.write(2, b'after\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert done.stdout == ""
    return done.stderr


def test_information_is_held_back_and_errors_come_through_in_order() -> None:
    lines = (
        b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
        b"I0000 00:00:1700000000.000000 1 port.cc:153] oneDNN custom operations are on.\n"
        b"E0000 00:00:1 1 cuda.cc:1] no driver\n"
        b"I1124 23:40:00.000000 1 cpu_feature_guard.cc:227] This binary is optimized.\n"
    )
    inside = (
        f"os.write(2, {lines!r}); print('from Python', file=sys.stderr); os.write(2, b'no newline')"
    )
    expected = "E0000 00:00:1 1 cuda.cc:1] no driver\nfrom Python\nno newlineafter\n"
    assert stderr_of(inside) == expected


def test_a_failed_import_shows_its_traceback_and_what_was_written() -> None:
    shown = stderr_of("os.write(2, b'F0000 fatal\\n'); import no_such_module", code=1)
    assert shown.startswith("F0000 fatal\nTraceback")
    assert "No module named 'no_such_module'" in shown


@pytest.mark.parametrize(
    ("before", "variables", "message"),
    [
        ("", {"KERAS_BACKEND": "jax"}, "KERAS_BACKEND is 'jax', but this harness trains with"),
        ("ulimit -v 400000; ", {}, "may map 0.4 GB of memory (ulimit -v), but TensorFlow needs"),
    ],
)
def test_what_tensorflow_could_not_work_with_is_refused(
    before: str, variables: dict[str, str], message: str
) -> None:
    done = subprocess.run(
        ["sh", "-c", f'{before}exec "$@"', "sh", sys.executable, "-m", "harness", "doctor"],
        cwd=REPOSITORY,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
