"""Text that is safe to print; commands in messages, by the name that the user called them by."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.base.errors import (
    DivergenceError,
    InputError,
    as_command,
    in_python,
    own_words,
    printable,
)


def test_through_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_COMMAND", "./scripts/harness")
    assert as_command("doctor") == "./scripts/harness doctor"
    monkeypatch.setenv("HARNESS_COMMAND", "/my projects/scripts/harness")
    assert shlex.split(as_command("doctor")) == ["/my projects/scripts/harness", "doctor"]


def test_on_the_path_or_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HARNESS_COMMAND", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    words = shlex.split(as_command("--version"))
    assert words == [sys.executable, "-m", "harness", "--version"]
    assert subprocess.run(words, capture_output=True, check=True).stdout.startswith(b"harness ")
    (tmp_path / "harness").touch(mode=0o755)
    assert as_command("doctor") == "harness doctor"


def test_what_would_steer_a_terminal_is_escaped() -> None:
    assert printable("\x1b[31mred\x07\r\x7f\x9b0m") == "\\x1b[31mred\\x07\\r\\x7f\\x9b0m"
    assert printable("\ud800 and \udcff") == "\\ud800 and \\udcff"
    letters = "plain, ö, 漢字, 🙂, \xa0, two\n\tlines"
    assert printable(letters) == letters
    assert printable("two\n\tlines", one_line=True) == "two\\n\\tlines"


def test_every_message_is_safe_and_bounded() -> None:
    message = str(InputError(f"FILE holds \x1b[2J{'9' * 10**6}\ud800; name another"))
    assert message.startswith("FILE holds \\x1b[2J99")
    assert message.endswith("99\\ud800; name another")
    assert len(message) == 2000
    assert message.isprintable()


@pytest.mark.parametrize(
    ("flags", "arguments"),
    [
        ("--batch-size is 0; set --batch-size to 5", "batch_size is 0; set batch_size to 5"),
        ("set --table-optimizer=dense, or auto", 'set table_optimizer="dense", or auto'),
        ("--precision=float32, or --epochs", 'precision="float32", or epochs'),
        ("--implementation=native cannot be had", 'implementation="native" cannot be had'),
        ("train with --overwrite to start", "train with overwrite=True to start"),
        ("--all-reduce=on is not --xla_gpu_x=1", 'all_reduce="on" is not --xla_gpu_x=1'),
        ("a -- b, a--b, --cap-add=SYS", "a -- b, a--b, --cap-add=SYS"),
        ("`train --help-all` lists all", "`train --help-all` lists all"),
    ],
)
def test_python_is_told_of_arguments(flags: str, arguments: str) -> None:
    for kind in (InputError, DivergenceError):
        assert str(kind(flags)) == flags
        with pytest.raises(kind) as raised, in_python():
            raise kind(flags)
        assert str(raised.value) == arguments
        assert raised.value.args == (flags,), "what the command line prints"


def test_of_what_keras_wrote_around_a_message_nothing_is_left() -> None:
    told = "--batch-size is 0; set it to 5"
    around = f"Exception encountered when calling a layer.\n\n\x1b[1m{told}\x1b[0m\n\nArguments: 1"
    for message in (around, told, f"Error encountered:\n\n{told}"):
        with pytest.raises(InputError) as caught, own_words():
            raise InputError(message)
        assert str(caught.value) == told
