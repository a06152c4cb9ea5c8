"""`harness tensorboard`: TensorBoard on run folders, until Ctrl-C."""

import contextlib
import importlib
import importlib.util
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import tyro
from rich.console import Console

from harness.checks import require, require_count
from harness.errors import InputError
from harness.observe.trace import INSTALL
from harness.quiet import quiet_import


@dataclass(frozen=True, kw_only=True)
class TensorBoardConfig:
    """Open TensorBoard on run folders, with the profiler's pages where they are installed. Ctrl-C
    ends it."""

    run_dirs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of runs, sweeps or profiles, or a folder around them."""

    port: int = 6006
    """Port of the server. 0: any free one."""

    host: str = "localhost"
    """Address to serve on. 0.0.0.0 lets other machines in."""

    def __post_init__(self) -> None:
        require(len(self.run_dirs) > 0, "name at least one run folder")
        require_count("--port", self.port, least=0, most=65_535)


def open_tensorboard(config: TensorBoardConfig, console: Console | None = None) -> int:
    """Runs the command: serves until it is interrupted or terminated; returns 0 then.

    Raises:
        InputError: when a folder is missing or the server cannot listen.
    """
    console = console or Console()
    folders = [Path(name).absolute() for name in config.run_dirs]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; name the folder of a run (--run-dir)")
        if len(folders) > 1 and "," in str(folder):
            raise InputError(f"{folder} has a comma in its name; name a single folder around it")
    with_profiles = importlib.util.find_spec("xprof") is not None
    if not with_profiles:
        console.out(f"note: TensorBoard's profiler pages are missing: {INSTALL}")
    if len(folders) > 1:
        console.out("note: profiles are shown with a single folder alone: name one around them")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _serve(config, folders, console, with_profiles=with_profiles)
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _serve(
    config: TensorBoardConfig, folders: list[Path], console: Console, *, with_profiles: bool
) -> NoReturn:
    # The profiler's plugin logs a traceback when a profile is opened for the first time; real
    # failures are on its pages. A filter, since it sets its level itself.
    logging.getLogger("tensorboard.plugins.profile").addFilter(lambda record: False)
    with quiet_import():  # the plugins import TensorFlow
        from tensorboard import default, program

        if with_profiles:
            # It writes a line for every request to what is standard error at its import.
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                importlib.import_module("xprof.profile_plugin")

        places = {"logdir": str(folders[0])}
        if len(folders) > 1:
            around = os.path.commonpath(folders)
            specs = [f"{os.path.relpath(folder, around)}:{folder}" for folder in folders]
            places = {"logdir_spec": ",".join(specs)}
        board = program.TensorBoard(default.get_plugins())
        board.configure(**places, host=config.host, port=config.port)
        try:
            url = board.launch()
        except program.TensorBoardServerException as error:
            raise InputError(
                f"TensorBoard cannot be served: {error.msg}; name another --port or --host"
            ) from error
    console.out(f"TensorBoard is at {url} (Ctrl-C ends it)")
    while True:
        signal.pause()
