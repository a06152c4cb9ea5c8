"""`harness tensorboard`: TensorBoard on run folders, until Ctrl-C."""

import contextlib
import importlib
import importlib.util
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from harness.config.profile import TensorBoardConfig
from harness.errors import InputError
from harness.profile.trace import INSTALL
from harness.quiet import quiet_import

_REFRESH_SECONDS = 5.0
"""TensorBoard's own rhythm."""


def open_tensorboard(config: TensorBoardConfig, console: Console | None = None) -> int:
    """Runs the command: serves until it is interrupted or terminated; returns 0 then.

    Raises:
        InputError: when a folder is missing or the server cannot listen.
    """
    console = console or Console()
    folders = [Path(name).absolute() for name in config.run_dirs]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder; name the folder of a run (--run-dir)")
    with_profiles = importlib.util.find_spec("xprof") is not None
    if not with_profiles:
        profiles = any(next(folder.rglob("*.xplane.pb"), None) for folder in folders)
        shown = "the profiles there are not shown" if profiles else "it would not show profiles"
        _print(console, f"note: TensorBoard's profiler pages are missing, {shown}: {INSTALL}")
    with (
        tempfile.TemporaryDirectory(prefix="harness-tensorboard-") as temporary,
        open(os.devnull, "w") as nowhere,
        _until_stopped() as stopped,
    ):
        log_folder = LogFolder(folders, Path(temporary))
        # It logs a traceback when a profile is opened for the first time; what fails in earnest is
        # said on its pages. A filter, since it sets its level anew.
        logging.getLogger("tensorboard.plugins.profile").addFilter(lambda record: False)
        with quiet_import():  # its plugins import TensorFlow
            from tensorboard import default, program

            if with_profiles:
                # It writes a line of JSON for every request to the standard error that it finds
                # when it is imported.
                with contextlib.redirect_stderr(nowhere):
                    importlib.import_module("xprof.profile_plugin")

            board = program.TensorBoard(default.get_plugins())
            board.configure(logdir=str(log_folder.path), host=config.host, port=config.port)
            try:
                url = board.launch()
            except program.TensorBoardServerException as error:
                raise InputError(
                    f"TensorBoard cannot be served: {error.msg}; name another --port or --host"
                ) from error
        _print(console, f"TensorBoard is at {url} (Ctrl-C ends it)")
        while not stopped.wait(_REFRESH_SECONDS):
            log_folder.refresh()
    return 0


class LogFolder:
    """One folder for TensorBoard: the only one that was named, or a temporary one of all of them.

    The temporary one holds links to files, since the profiler's pages follow no link to a folder.
    """

    def __init__(self, folders: list[Path], temporary: Path) -> None:
        self._linked: dict[Path, Path] = {}
        if len(folders) > 1:
            names = [folder.name for folder in folders]
            for folder in folders:
                alone = names.count(folder.name) == 1
                name = folder.name if alone else "_".join(folder.parts[1:])
                self._linked[temporary / name] = folder
        self.path = temporary if self._linked else folders[0]
        self.refresh()

    def refresh(self) -> None:
        """Adds what is new in the folders."""
        for there, folder in self._linked.items():
            for pattern in ("*tfevents*", "plugins/profile/*/*.xplane.pb"):
                for path in folder.rglob(pattern):
                    link = there / path.relative_to(folder)
                    if not link.exists():
                        link.parent.mkdir(parents=True, exist_ok=True)
                        link.symlink_to(path)


@contextlib.contextmanager
def _until_stopped() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second one works as usual."""
    stopped = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopped.set()
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
