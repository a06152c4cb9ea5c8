"""The command line: which command runs with which settings. Every command's work is elsewhere."""

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from harness.commands.interrupt import EXIT_INTERRUPTED
from harness.config import (
    DataConvertConfig,
    DataInfoConfig,
    DoctorConfig,
    EvaluateConfig,
    PredictConfig,
    SmokeConfig,
    TrainConfig,
)
from harness.config.bench import BenchConfig, CompareConfig
from harness.config.mapping import read_toml
from harness.config.profile import ProfileConfig, TensorBoardConfig
from harness.errors import DivergenceError, InputError, RecompilationError
from harness.quiet import quiet_import
from harness.telemetry.host import seconds_since_process_start
from harness.timeline import Timeline

_DISK_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would pass the limit on its size",
}


# Each imports its work when it is called: `--help` shall not wait for TensorFlow.
def _train(config: TrainConfig) -> int:
    timeline = Timeline(elapsed_seconds=seconds_since_process_start())
    timeline.mark("start of Python, arguments")
    is_first = "tensorflow" not in sys.modules
    from harness.data.beside import loading_beside

    with loading_beside(config.data) as loaded:
        timeline.mark("start of the data")
        with quiet_import():
            from harness.commands.train import train
        timeline.mark("imports, data beside them")
        dataset = loaded()
        timeline.mark("rest of the data")
    return train(config, dataset=dataset, timeline=timeline, is_first=is_first)


def _evaluate(config: EvaluateConfig) -> int:
    with quiet_import():
        from harness.commands.evaluate import evaluate

    return evaluate(config)


def _predict(config: PredictConfig) -> int:
    with quiet_import():
        from harness.commands.predict import predict

    return predict(config)


def _data_info(config: DataInfoConfig) -> int:
    from harness.commands.data import info

    return info(config)


def _data_convert(config: DataConvertConfig) -> int:
    from harness.commands.data import convert

    return convert(config)


def _smoke(config: SmokeConfig) -> int:
    with quiet_import():
        from harness.commands.smoke import smoke

    return smoke(config)


def _doctor(config: DoctorConfig) -> int:
    with quiet_import():
        from harness.commands.doctor.command import doctor

    return doctor(config)


def _bench(config: BenchConfig) -> int:
    from harness.commands.bench import bench

    return bench(config)


def _compare(config: CompareConfig) -> int:
    from harness.commands.compare import compare

    return compare(config)


def _profile(config: ProfileConfig) -> int:
    with quiet_import():
        from harness.commands.profile import profile

    return profile(config)


def _tensorboard(config: TensorBoardConfig) -> int:
    from harness.commands.tensorboard import open_tensorboard

    return open_tensorboard(config)


@dataclass(frozen=True, kw_only=True)
class _Command:
    words: tuple[str, ...]
    settings: Any
    run: Callable[[Any], int]
    positional: bool = False
    """Whether settings without a default are given bare, in order."""


_COMMANDS = (
    _Command(words=("train",), settings=TrainConfig, run=_train),
    _Command(words=("evaluate",), settings=EvaluateConfig, run=_evaluate),
    _Command(words=("predict",), settings=PredictConfig, run=_predict),
    _Command(words=("data", "info"), settings=DataInfoConfig, run=_data_info),
    _Command(words=("data", "convert"), settings=DataConvertConfig, run=_data_convert),
    _Command(words=("smoke",), settings=SmokeConfig, run=_smoke),
    _Command(words=("doctor",), settings=DoctorConfig, run=_doctor),
    _Command(words=("bench",), settings=BenchConfig, run=_bench),
    _Command(words=("profile",), settings=ProfileConfig, run=_profile),
    _Command(words=("tensorboard",), settings=TensorBoardConfig, run=_tensorboard, positional=True),
    _Command(words=("compare",), settings=CompareConfig, run=_compare, positional=True),
)

_GROUPS = {"data": "Look at a data set, or convert it."}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        Its exit code: 0 done, 1 failed, 2 wrong input or a full disk, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            settings = _parse(arguments)
        except SystemExit as parsed:  # after --help, or a message about a flag
            return int(parsed.code or 0)
        command = next(c for c in _COMMANDS if isinstance(settings, c.settings))
        return command.run(settings)
    except (InputError, RecompilationError, DivergenceError) as error:
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
    """Settings of the command that `arguments` names; flags stand over `--config FILE.toml`."""
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
        defaults[command.words] = read_toml(command.settings, path)
    return tyro.cli(
        _union(_COMMANDS, defaults),
        prog="harness",
        description="Train models whose input is a set of token ids. Every command also takes "
        "--config FILE.toml, whose settings stand under the flags.",
        args=flags,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
    )


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
            if command.positional:
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
    """What the console script calls."""
    sys.exit(main())
