"""`harness tensorboard`: runs TensorBoard on run folders, until Ctrl-C."""

import contextlib
import importlib
import importlib.util
import logging
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import tyro
from rich.console import Console

from harness.base.checks import require, require_count
from harness.base.errors import InputError
from harness.base.quiet import quiet_import
from harness.run.observers.trace import INSTALL

_REFRESH_SECONDS = 5.0
"""Seconds between two looks for new files, the same as between TensorBoard's reloads."""


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


def open_tensorboard(config: TensorBoardConfig) -> int:
    """Runs the command: serves until it is interrupted or terminated, and then returns 0.

    Raises:
        InputError: when a folder is missing or the server cannot listen.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="harness-tensorboard-") as temporary:
            _serve(config, Path(temporary))
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _serve(config: TensorBoardConfig, temporary: Path) -> NoReturn:
    console = Console()
    folders = [Path(name).absolute() for name in config.run_dirs]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; name the folder of a run (--run-dir)")
    with_profiles = importlib.util.find_spec("xprof") is not None
    if not with_profiles:
        console.out(f"note: TensorBoard's profiler pages are missing: {INSTALL}")
    # The profiler's plugin logs a traceback when a profile is opened for the first time; its pages
    # show real failures. It sets its log level itself, so use a filter.
    logging.getLogger("tensorboard.plugins.profile").addFilter(lambda record: False)
    with quiet_import():  # the plugins import TensorFlow
        from tensorboard import default, program

        if with_profiles:
            # The plugin writes a line for every request to the standard error that it finds when it
            # is imported.
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
                importlib.import_module("xprof.profile_plugin")

        board = program.TensorBoard(default.get_plugins())
        board.configure(logdir=str(joined(folders, temporary)), host=config.host, port=config.port)
        try:
            url = board.launch()
        except program.TensorBoardServerException as error:
            raise InputError(
                f"TensorBoard cannot be served: {error.msg}; name another --port or --host"
            ) from error
    console.out(f"TensorBoard is at {url} (Ctrl-C ends it)")
    while True:
        time.sleep(_REFRESH_SECONDS)
        joined(folders, temporary)


def joined(folders: list[Path], temporary: Path) -> Path:
    """Returns the only folder, or `temporary` with links to the files that several folders have by
    now.

    The links lead to files, since the profiler's pages follow no links to folders, and do not know
    TensorBoard's `--logdir_spec`.
    """
    if len(folders) == 1:
        return folders[0]
    names = [folder.name for folder in folders]
    for folder in folders:
        name = folder.name if names.count(folder.name) == 1 else "_".join(folder.parts[1:])
        for pattern in ("*tfevents*", "plugins/profile/*/*.xplane.pb"):
            for path in folder.rglob(pattern):
                link = temporary / name / path.relative_to(folder)
                if not link.exists():
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(path)
    return temporary
