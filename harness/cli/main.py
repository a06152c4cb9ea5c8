"""The command line: it parses the arguments and runs the command that they name."""

import argparse
import contextlib
import difflib
import errno
import importlib.metadata
import io
import os
import re
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Union, cast

import tyro

from harness.base import interrupt
from harness.base.checks import flag_of, require
from harness.base.decoding import flattened, from_mapping
from harness.base.errors import InputError, ToldError, printable
from harness.base.memory import collect_rarely
from harness.base.reading import read_toml
from harness.base.terminal import LastingStream, prepare_standard_streams
from harness.base.timeline import Timeline
from harness.cli import data
from harness.cli.bench import BenchConfig, bench
from harness.cli.doctor import DoctorConfig, doctor
from harness.cli.evaluate import EvaluateConfig, evaluate
from harness.cli.export import ExportConfig, export
from harness.cli.help import described, options, suggestion
from harness.cli.launch import LaunchConfig, launch
from harness.cli.predict import PredictConfig, predict
from harness.cli.profile import ProfileConfig, profile
from harness.cli.report import ReportConfig, report
from harness.cli.smoke import SmokeConfig, smoke
from harness.cli.tensorboard import TensorBoardConfig, open_tensorboard
from harness.cli.train import train
from harness.cli.tune import TuneConfig, tune
from harness.run.observers.run_files import CONFIG_FILE_NAME
from harness.tools.experiment import TrainConfig
from harness.trainer.resuming import asked_settings, is_begun

_MAX_PATH = 200
_MANY_OPTIONS = 40  # with more of them, a command's --help leaves out those that few set
_ABOUT = (
    "Train, benchmark and profile Keras models on sets of token ids.\n\nEvery command also takes "
    "--config FILE.toml, whose settings the flags override. --version prints the version."
)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The commands by name. A command takes its settings and returns the exit code; wrong input is an
# InputError. Their modules import TensorFlow only when they are called, so that --help need not
# wait for it.
COMMANDS: dict[str, tuple[type, Callable[..., int]]] = {
    "train": (TrainConfig, train),
    "bench": (BenchConfig, bench),
    "profile": (ProfileConfig, profile),
    "smoke": (SmokeConfig, smoke),
    "doctor": (DoctorConfig, doctor),
    "tensorboard": (TensorBoardConfig, open_tensorboard),
    "evaluate": (EvaluateConfig, evaluate),
    "predict": (PredictConfig, predict),
    "export": (ExportConfig, export),
    "report": (ReportConfig, report),
    "tune": (TuneConfig, tune),
    "launch": (LaunchConfig, launch),
    "data build": (data.DataBuildConfig, data.build),
    "data info": (data.DataInfoConfig, data.info),
    "data convert": (data.DataConvertConfig, data.convert),
}
# The former names of settings, by command. They still work, with a note.
_FORMER = {
    "bench": {"bench_dir": "run_dir"},
    "profile": {"profile_dir": "run_dir"},
    "smoke": {"implementations": "implementation", "precisions": "precision"},
    "tune": {"tune_dir": "run_dir"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0 done, 1 failed, 2 wrong input or a full disk, 130
    interrupted, 143 told to end."""
    timeline = Timeline()
    interrupt.use_signal_stack()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments == ["--version"]:
            print(f"harness {importlib.metadata.version('multi-hot-harness')}")
            return 0
        run, settings, given = _parse(arguments)
        _check_texts(asdict(settings))
        if run is launch:
            return launch(settings, parse=_parse)
        if run is train:
            return train(settings, given=given, timeline=timeline)
        if run in (evaluate, report, tune):
            return run(settings, given=given)
        return run(settings)
    except ToldError as error:
        print(f"error: {printable(str(error.args[0]))}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:
        is_full, has_many = error.errno in _DISK_FULL, error.errno == errno.EMFILE
        if error.filename is None and not (is_full or has_many):
            raise
        place = os.fsdecode(error.filename or "a file")
        place = printable(place, most=_MAX_PATH, one_line=True)
        message = f"{place} cannot be used ({error.strerror}); check the path, or name another"
        if is_full:
            message = f"the disk is full, or a limit is reached: {place} cannot be written "
            message += f"({error.strerror}); free space, or name another folder"
        if has_many:
            most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            message = f"this process may open {most} files, which are too few; ulimit -n 1024 helps"
        print(f"error: {printable(message)}", file=sys.stderr)
        return 1 if error.errno == errno.EIO else 2  # a device that fails is no wrong input
    except (MemoryError, RuntimeError) as error:  # what commands foresee is an InputError
        fact = printable(str(error), most=_MAX_PATH, one_line=True)
        if isinstance(error, RuntimeError) and fact != "can't start new thread":
            raise
        print(
            f"error: there is no memory left{f' ({fact})' if fact else ''}; free some, raise the "
            "limit that the process has, or ask for less",
            file=sys.stderr,
        )
        return 1
    except SystemExit as ended:  # after --help, a message about a flag, or by a signal
        return int(ended.code or 0)
    except KeyboardInterrupt as by:
        print("interrupted", file=sys.stderr)
        is_told = isinstance(by, interrupt.TerminatedAtOnce)
        return interrupt.EXIT_TERMINATED if is_told else interrupt.EXIT_INTERRUPTED


def _parse(arguments: list[str]) -> tuple[Callable[..., int], Any, set[str]]:
    """Returns a command, its settings, and the names of those that flags or `--config FILE.toml`
    give; flags override the file."""
    behind: list[str] = []
    if arguments[:1] == ["launch"] and "--" in arguments:
        at = arguments.index("--")
        arguments, behind = arguments[:at], arguments[at + 1 :]
    path, flags = _config_file(arguments)
    shows_all = "--help-all" in flags
    flags = ["--help" if word == "--help-all" else word for word in flags]
    name = next((n for n in (" ".join(flags[:2]), *flags[:1]) if n in COMMANDS), None)
    if name is None:
        require(path is None, "--config belongs behind a command, as in: train --config FILE.toml")
        word = " ".join(flags[: 2 if flags[:1] == ["data"] else 1])
        if word != "data" and (close := difflib.get_close_matches(word, COMMANDS, n=1)):
            raise InputError(f"there is no command {word}; did you mean {close[0]}?")
        _parsed(flags, None, _union(), prog="harness", description=_ABOUT)
        raise AssertionError("tyro knows no command that is not in the table")
    kind, run = COMMANDS[name]
    of_file = {} if path is None else flattened(read_toml(path), where=path)
    flags = _renamed(name, flags[len(name.split()) :], of_file)
    # What is given counts, not whether it differs: a flag with its default is a wish, too.
    words = (word.partition("=")[0] for word in flags if word.startswith("--"))
    given = {word.removeprefix("--").replace("-", "_") for word in words}
    how: dict[str, Any] = {}
    # tyro needs the file's settings as its defaults.
    if path is not None:
        how["default"] = from_mapping(kind, of_file, where=path)
    if run is train and (resumed := _resumed(flags, of_file)) is not None:
        how["default"] = resumed
    num_options = len(list(options(kind)))
    shows_all |= num_options <= _MANY_OPTIONS or {"-h", "--help"}.isdisjoint(flags)
    about = [" ".join((kind.__doc__ or "").split())]
    if not shows_all:
        about.append(f"`--help-all` lists all {num_options} options.")
    how |= {"registry": described(shows_all=shows_all), "description": "\n".join(about)}
    settings = _parsed(flags, name, kind, prog=f"harness {name}", **how)
    if behind:
        settings = replace(settings, command=tuple(behind))
    return run, settings, given | of_file.keys()


def _renamed(command: str, flags: list[str], of_file: dict[str, Any]) -> list[str]:
    """Returns a command's flags by their names of today; gives those to the settings of a file."""
    for old, new in _FORMER.get(command, {}).items():
        flag = re.compile(rf"\A--{old.replace('_', '[-_]')}(?==|\Z)")
        renamed = [flag.sub(flag_of(new), word) for word in flags]
        if renamed != flags or old in of_file:
            print(f"note: {flag_of(old)} is now {flag_of(new)}", file=sys.stderr)
        flags = renamed
        if old in of_file:
            both = f"{old} is now {new}, and the settings file has both; leave out {old}"
            require(new not in of_file, both)
            of_file[new] = of_file.pop(old)
    return flags


def _union() -> Any:
    """Returns the union of the commands' classes, for help on all of them, and for the shell."""
    groups: dict[bool, list[Any]] = {False: [], True: []}
    for name, (kind, _) in COMMANDS.items():
        text = " ".join((kind.__doc__ or "").split()).partition(". ")[0].rstrip(".") + "."
        marked: Any = tyro.conf.subcommand(name.split()[-1], description=text)
        groups[name.startswith("data ")].append(Annotated[kind, marked])
    about = "Build a data set, look at one, or convert it."
    of_data: Any = Union[tuple(groups[True])]  # noqa: UP007 - a computed number
    groups[False].append(Annotated[of_data, tyro.conf.subcommand("data", description=about)])
    return Union[tuple(groups[False])]  # noqa: UP007


def _parsed(flags: list[str], name: str | None, kind: Any, **how: Any) -> Any:
    # Held back: a suggestion says more than tyro's message.
    held = io.StringIO()
    try:
        with contextlib.redirect_stderr(held):
            marks = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
            return tyro.cli(kind, args=flags, config=marks, **how)
    except SystemExit as ending:
        # tyro draws a frame around a settings class's ValueError; an InputError is a whole message.
        # So the chain of causes is searched for it.
        cause: BaseException | None = ending
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        former = {old: new for names in _FORMER.values() for old, new in names.items()}
        if name and (text := suggestion(name, kind, held.getvalue(), former)):
            raise InputError(text) from None
        print(printable(held.getvalue()), end="", file=sys.stderr)
        raise


def _config_file(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    files.add_argument("--config", action="append", default=[])
    try:
        known, flags = files.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError("--config names no file; give one, as in: --config FILE.toml") from error
    if len(known.config) > 1:
        raise InputError(f"--config is given {len(known.config)} times; put all into one file")
    if not known.config:
        return None, flags
    _check_texts({"config": known.config[0]})
    return known.config[0], flags


def _check_texts(settings: Mapping[str, Any]) -> None:
    """Checks that every text can be a path, since most are paths: encoded so, and without a NUL."""
    for name, value in flattened(settings).items():
        if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            text = printable(value, most=_MAX_PATH, one_line=True)
            encoding = sys.getfilesystemencoding().upper()
            raise InputError(
                f"{flag_of(name)} is {text}: not in {encoding}, the encoding of paths, or with a "
                "NUL; rename it, or set PYTHONUTF8=1"
            )


def _resumed(flags: Sequence[str], of_file: Mapping[str, Any]) -> TrainConfig | None:
    """Returns the settings, as defaults, of the run that `train` with these flags resumes."""
    look = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    look.add_argument("--run-dir", "--run_dir")
    look.add_argument("--resume", nargs="?", const=True, default=False)
    try:
        known, _ = look.parse_known_args(flags)
    except argparse.ArgumentError:  # tyro explains it
        return None
    folder = known.run_dir or of_file.get("run_dir")
    if not (known.resume or of_file.get("resume")) or not isinstance(folder, str):
        return None
    place = Path(folder).absolute()
    # `--resume auto` begins a run there, by the settings of the command.
    if not (place / CONFIG_FILE_NAME).exists() or not is_begun(place):
        return None
    settings, where = {**asked_settings(place), **of_file}, str(place / CONFIG_FILE_NAME)
    config: TrainConfig = from_mapping(TrainConfig, settings, where=where)
    return config


def entry_point() -> None:
    prepare_standard_streams()
    collect_rarely()
    code = main()
    sys.stdout.flush()
    lost = cast(LastingStream, sys.stdout).error
    if lost is not None and lost.errno in _DISK_FULL:
        print(f"error: the output is not complete: {lost.strerror}; free space", file=sys.stderr)
        code = code or 2
    sys.stderr.flush()
    # Every command has closed its files. Python would spend most of a second on tearing down
    # TensorFlow's modules.
    os._exit(code)
