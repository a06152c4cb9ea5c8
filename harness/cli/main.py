"""The command line: it parses the arguments and runs the command that they name."""

import argparse
import contextlib
import errno
import gc
import importlib.metadata
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from harness.cli.bench import BenchConfig, bench
from harness.cli.compare import CompareConfig, compare
from harness.cli.data import DataConvertConfig, DataInfoConfig, convert, info
from harness.cli.doctor import DoctorConfig, doctor
from harness.cli.evaluate import EvaluateConfig, evaluate
from harness.cli.predict import PredictConfig, predict
from harness.cli.profile import ProfileConfig, profile
from harness.cli.smoke import SmokeConfig, smoke
from harness.cli.tensorboard import TensorBoardConfig, open_tensorboard
from harness.cli.train import TrainConfig, train
from harness.decoding import from_mapping, read_toml
from harness.errors import DivergenceError, InputError
from harness.interrupt import EXIT_INTERRUPTED
from harness.timeline import Timeline

_DISK_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would pass the limit on its size",
}


@dataclass(frozen=True, kw_only=True)
class _Command:
    words: tuple[str, ...]
    settings: Any
    run: Callable[..., int]
    """Called with the settings; returns the exit code."""
    bare: bool = False
    """Whether settings without a default are given without a flag, in order."""


# Their modules import TensorFlow when they are called: --help need not wait for it.
_COMMANDS = (
    _Command(words=("train",), settings=TrainConfig, run=train),
    _Command(words=("evaluate",), settings=EvaluateConfig, run=evaluate),
    _Command(words=("predict",), settings=PredictConfig, run=predict),
    _Command(words=("data", "info"), settings=DataInfoConfig, run=info),
    _Command(words=("data", "convert"), settings=DataConvertConfig, run=convert),
    _Command(words=("smoke",), settings=SmokeConfig, run=smoke),
    _Command(words=("doctor",), settings=DoctorConfig, run=doctor),
    _Command(words=("bench",), settings=BenchConfig, run=bench),
    _Command(words=("profile",), settings=ProfileConfig, run=profile),
    _Command(words=("tensorboard",), settings=TensorBoardConfig, run=open_tensorboard, bare=True),
    _Command(words=("compare",), settings=CompareConfig, run=compare, bare=True),
)

_GROUPS = {"data": "Look at a data set, or convert it."}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        Its exit code: 0 done, 1 failed, 2 wrong input or a full disk, 130 interrupted.
    """
    timeline = Timeline()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments == ["--version"]:
            print(f"harness {importlib.metadata.version('multi-hot-harness')}")
            return 0
        try:
            settings = _parse(arguments)
        except SystemExit as parsed:  # after --help, or a message about a flag
            return int(parsed.code or 0)
        command = next(c for c in _COMMANDS if isinstance(settings, c.settings))
        return train(settings, timeline=timeline) if command.run is train else command.run(settings)
    except (InputError, DivergenceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        where = error.filename or "a file"
        print(
            f"error: {_DISK_FULL[error.errno]}: {where} cannot be written ({error.strerror}); free "
            "space, or name another folder",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parse(arguments: list[str]) -> Any:
    """Settings of the command that `arguments` names; flags override `--config FILE.toml`."""
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    files.add_argument("--config", type=Path, action="append", default=[])
    try:
        known, flags = files.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError("--config names no file; give one, as in: --config FILE.toml") from error
    if len(known.config) > 1:
        raise InputError(f"--config is given {len(known.config)} times; put all into one file")
    defaults: dict[tuple[str, ...], Any] = {}
    for path in known.config:
        command = next((c for c in _COMMANDS if tuple(flags[: len(c.words)]) == c.words), None)
        if command is None:
            raise InputError("--config belongs behind a command, as in: train --config FILE.toml")
        defaults[command.words] = from_mapping(command.settings, read_toml(path), where=str(path))
    held = io.StringIO()
    try:
        with contextlib.redirect_stderr(held):
            return tyro.cli(
                _union(_COMMANDS, defaults),
                prog="harness",
                description="Train models whose input is a set of token ids. Every command also "
                "takes --config FILE.toml, whose settings the flags override. --version prints the "
                "version.",
                args=flags,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
            )
    except SystemExit as ending:
        # tyro draws a frame around a settings class's ValueError; ours are whole messages already.
        cause: BaseException | None = ending
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        print(held.getvalue(), end="", file=sys.stderr)
        raise


def _union(
    commands: Sequence[_Command], defaults: dict[tuple[str, ...], Any], depth: int = 0
) -> Any:
    """The commands as a union of their settings, nested where several share their first word."""
    parts: dict[str, Any] = {}
    for command in commands:
        word = command.words[depth]
        if word in parts:
            continue
        if len(command.words) == depth + 1:
            marks: dict[str, Any] = {"name": word}
            if command.words in defaults:
                marks["default"] = defaults[command.words]
            settings = command.settings
            if command.bare:
                settings = Annotated[settings, tyro.conf.PositionalRequiredArgs]
            parts[word] = Annotated[settings, tyro.conf.subcommand(**marks)]
        else:
            below = [c for c in commands if c.words[: depth + 1] == command.words[: depth + 1]]
            parts[word] = Annotated[
                _union(below, defaults, depth + 1),
                tyro.conf.subcommand(name=word, description=_GROUPS[word]),
            ]
    return Union[tuple(parts.values())]  # noqa: UP007 - a union of a computed number of types


def entry_point() -> None:
    """Entry point of the console script."""
    # Importing TensorFlow makes a million objects and hardly any garbage. Python would look through
    # them again and again, for a fifth of the time.
    gc.set_threshold(50_000, 20, 50)
    code = main()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    # Every command has closed what it opened. Python would spend most of a second on taking
    # TensorFlow's modules apart.
    os._exit(code)
