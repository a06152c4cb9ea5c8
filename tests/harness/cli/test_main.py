"""Help without TensorFlow, flags over a settings file, and one message for what is wrong."""

import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.help import options
from harness.cli.main import main
from harness.tools.experiment import TrainConfig

REPOSITORY = Path(__file__).resolve().parents[3]
COMMANDS = (
    *("", "train", "evaluate", "predict", "data", "data info", "data convert", "bench", "tune"),
    *("profile", "smoke", "train --help-all", "bench --help-all"),
)
# Every help in one process: its start costs more than all of them.
HELP = """
import sys
from harness.cli.main import main
for words in sys.argv[1:]:
    print("====", words)
    code = main([*words.split(), "--help"])
    assert code == 0, (words, code)
loaded = {"tensorflow", "keras", "numpy"} & set(sys.modules)
assert not loaded, loaded
"""


def test_help_fits_a_terminal_and_needs_no_tensorflow() -> None:
    """docs/options.md, which another test makes again, has every flag."""
    done = subprocess.run(
        [sys.executable, "-c", HELP, *COMMANDS],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    _, *texts = done.stdout.split("====")
    assert len(texts) == len(COMMANDS)
    for text in texts:
        lines = [line for line in text.splitlines() if "│" in line]
        assert lines
        assert all(len(line) <= 80 for line in lines)
    short, full = (texts[COMMANDS.index(words)] for words in ("train", "train --help-all"))
    listed = re.findall(r"^│ --([a-z-]+)", short, re.MULTILINE)
    assert 20 <= len(listed) <= 25
    assert {"data", "epochs", "run-dir"} <= set(listed)
    assert "--help-all" in short
    for words in ("train", "bench", "profile", "tune"):
        boxes = re.findall(r"^╭─ ([a-z.]+)", texts[COMMANDS.index(words)], re.MULTILINE)
        assert boxes[0] == "options"
        assert boxes[-2:] == ["data", "data.build"], "what describes the data comes last"
    assert "--label-separator" in texts[COMMANDS.index("bench --help-all")]
    assert texts[0].index("bench") < texts[0].index("evaluate")
    assert all(f"--{name.replace('_', '-')}" in full for name, _ in options(TrainConfig))


def test_the_short_help_has_the_values_of_a_settings_file_as_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.toml"
    path.write_text("epochs = 7\n")
    assert main(["train", "--config", str(path), "--help"]) == 0
    assert "Passes over the training rows. (default: 7)" in capsys.readouterr().out


def test_the_shell_completes_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tyro-print-completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("train", "convert", "--learning-rate"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"harness \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "train, bench, profile, smoke, doctor, tensorboard, evaluate"),
        (["fly"], "fly"),
        (["train", "--implementation", "magic"], "invalid choice 'magic'"),
        (["train", "--batch-size", "many"], "'many'"),
        (["train", "--overwrite", "--resume", "--run-dir", "r"], "exclude each other"),
        (["--config", "a.toml"], "--config belongs behind a command"),
        (["train", "--config", "missing.toml"], "missing.toml cannot be read"),
        (["smoke", "--precision"], "--precision is empty"),
        (["evaluate"], "--model"),
    ],
)
def test_wrong_arguments(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in " ".join(err.split())
    assert not list(tmp_path.iterdir())


def test_flags_stand_over_the_settings_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "info.toml"
    path.write_text('data = "synthetic"\n[synthetic]\nsynthetic_rows = 300\n')
    for flags, rows in (
        ([], "240 to train on, 60 to test on"),
        (["--synthetic-rows", "200"], "160 to train on, 40 to test on"),
    ):
        assert main(["data", "info", f"--config={path}", *flags]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert rows in out


def test_former_names_of_settings_work_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.toml"
    for command in ("bench", "profile", "tune"):
        path.write_text(f'{command}-dir = "{path}"')
        flag = f"--{command}-dir"
        for given in ([flag, path], [f"--{command}_dir={path}"], ["--config", path]):
            assert main([command, *map(str, given)]) == 2  # a file is no folder
            note, message = capsys.readouterr().err.splitlines()
            assert note == f"note: {flag} is now --run-dir"
            assert f"{path} cannot be written to" in message
    path.write_text('tune_dir = "a"\nrun_dir = "b"\n')
    assert main(["tune", "--config", str(path)]) == 2
    assert "tune_dir is now run_dir, and the settings file has both" in capsys.readouterr().err


def test_ctrl_c_outside_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            signal.raise_signal(signal.SIGINT)  # Ctrl-C is pressed
            return b"a text"

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Terminal()))
    assert main(["predict", "--model", str(tmp_path)]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command trian; did you mean train?"),
        (["data", "buld"], "there is no command data buld; did you mean data build?"),
        (["train", "--lr", "0.1"], "train has no flag --lr; did you mean --learning-rate?"),
        (["train", "--learning-rate", "0,01"], "--learning-rate is 0,01; write the number with a"),
        (["train", "--learning_rate=0,01"], "--learning-rate is 0,01; write the number with a"),
        (["train", "--dropout", "0.1", "0,3"], "--dropout is 0,3; write the number with a point"),
        (["train", "-v"], "train has no flag -v; train --help-all lists all"),
        (["evaluate", "--mdoel", "x"], "evaluate has no flag --mdoel; did you mean --model?"),
        (["profile", "--bench-dir=x"], "profile has no flag --bench-dir; did you mean --run-dir?"),
    ],
)
def test_what_was_meant(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_a_comma_behind_another_flag_is_not_blamed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--tensorboard", "1,5", "--batch-size", "x"]) == 2
    assert "is 1,5" not in capsys.readouterr().err
