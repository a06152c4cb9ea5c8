"""A short run that has faults, is continued, and is compared with an undisturbed one."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from benchmarks.faults import checks, injector
from benchmarks.faults.injector import Call, Fault
from harness.base.quiet import quiet_import

# Two epochs of four steps in dispatches of two: every kind of file and record twice. A network and
# an optimizer of few variables: a checkpoint takes two writes for each.
_DATA = ("--synthetic-rows", "250", "--synthetic-tokens", "200", "--batch-size", "50")
_MODEL = ("--hidden-units", "4", "--dropout", "0", "--optimizer", "adagrad")
_COMPUTE = ("--implementation", "gather", "--precision", "float32", "--replicas", "1")
_RUN = ("--steps-per-dispatch", "2", "--seed", "7", "--telemetry-hz", "0")
FLAGS = (*_DATA, *_MODEL, *_COMPUTE, *_RUN)

NO_FAULT = Fault(action="count")
_HANGS_AFTER_SECONDS = 300


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of a command."""

    code: int  # The exit code as in `subprocess`: -9 if the process was killed
    err: str  # The command's standard error
    made: Sequence[Call]  # The command's calls that change files


class HangError(Exception):
    """A command did not end."""


def ready(module: str, arguments: Sequence[str]) -> None:
    """Returns in a process that can have faults, and from which `train` can fork.

    This is a child of the first caller, which does not return but ends with the child's exit code:
    it runs the module, which calls this, with the arguments of its command line.
    """
    if not injector.is_loaded():
        with tempfile.TemporaryDirectory() as folder:
            environment = {
                "CUDA_VISIBLE_DEVICES": "-1",
                "OPENBLAS_NUM_THREADS": "1",  # a process with threads cannot be forked safely
                # The first run, which has no fault, compiles TensorFlow's programs for all.
                "TF_XLA_FLAGS": f"--tf_xla_persistent_cache_directory={folder}",
                **injector.loading(injector.build(Path(folder))),
            }
            command = [sys.executable, "-m", module, *arguments]
            sys.exit(subprocess.run(command, env=os.environ | environment, check=False).returncode)
    with quiet_import():
        import harness.cli.main
        import harness.data.sources
        import harness.run.observers.tensorboard
        import harness.trainer.trainer  # noqa: F401
    tasks = Path("/proc/self/task").iterdir()
    # jemalloc, which a package for profiles brings, handles a fork by itself.
    others = [
        n for task in tasks if (n := (task / "comm").read_text().strip()) != "jemalloc_bg_thd"
    ]
    assert len(others) == 1, f"threads {others}: what is forked from here could hang"


def train(folder: Path, *flags: str, fault: Fault = NO_FAULT) -> Ended:
    """Runs `harness train` with further flags in a separate process, which is to have the fault,
    with `folder`/run as its run folder; counts the calls in `folder`."""
    arguments = ["train", *FLAGS, "--run-dir", str(folder / "run"), *flags]
    with tempfile.TemporaryDirectory() as beside:
        log = Path(beside, "log")
        arm = functools.partial(injector.arm, folder, log, fault)
        code, err = command(arguments, Path(beside, "err"), arm)
        return Ended(code=code, err=err, made=injector.calls(log) if log.exists() else ())


def command(
    arguments: Sequence[str],
    err: Path,
    prepare: Callable[[], object],
    *,
    kill_after_seconds: float | None = None,
) -> tuple[int, str]:
    """Calls `prepare` in a forked process, and does there what `harness` does after the imports,
    with standard error in a file. Kills the process after some seconds if asked, else raises a
    HangError if it did not end within minutes. Returns the exit code, as in `subprocess`, and
    standard error."""

    def run() -> None:
        from harness.cli.main import main

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
        prepare()
        sys.exit(main(arguments))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(kill_after_seconds or _HANGS_AFTER_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        if kill_after_seconds is None:
            raise HangError(f"no end within {_HANGS_AFTER_SECONDS} s")
    assert process.exitcode is not None
    return process.exitcode, err.read_text() if err.exists() else ""


def complaints_after(folder: Path, expected: Mapping[str, Any], *flags: str) -> list[str]:
    """Continues the run in `folder`/run, which was started with `flags`, as a user does who follows
    the messages; returns the differences of the run's folder from `expected`."""
    ended = train(folder, "--resume")
    if ended.code == 2 and "leave out --resume" in ended.err:
        ended = train(folder)
    if ended.code == 2 and ("train with --overwrite" in ended.err or "--overwrite" in flags):
        ended = train(folder, "--overwrite")
    found = [] if (ended.code, ended.err) == (0, "") else [f"exit code {ended.code}: {ended.err}"]
    try:
        return found + checks.differences(checks.left_in(folder / "run"), expected)
    except (ValueError, OSError, KeyError, BadZipFile) as error:
        return [*found, f"the folder cannot be read: {error!r}"]


def complaints_about_end(ended: Ended, fault: Fault) -> list[str]:
    """Returns what is wrong with the end of a command that had a fault."""
    if len(ended.made) < fault.at:  # threads take turns: some runs make a call less
        return [] if ended.code == 0 else [f"exit code {ended.code} without a fault: {ended.err}"]
    if fault.kills:
        return [] if ended.code == -signal.SIGKILL else [f"killed, and exit code {ended.code}"]
    if ended.code == 0 and not ended.err:  # nothing depended on the call
        return []
    is_one_message = ended.err.startswith("error: ") and ended.err.count("\n") == 1
    if ended.code in (1, 2) and is_one_message:
        return []
    return [f"exit code {ended.code}, not one message: {ended.err[-2000:]}"]
